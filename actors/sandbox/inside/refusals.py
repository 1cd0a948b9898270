"""The three ways in which an operation ends badly."""


class Refused(Exception):  # noqa: N818 - said to the host, not raised at it
    """An operation is answered with `ERROR`. `code` is one of those listed in the protocol."""

    def __init__(self, code: str, message: str, **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class Gone(Exception):  # noqa: N818 - not a fault
    """The host closed the connection: whatever it asked for is cancelled."""


class BadFrame(Exception):  # noqa: N818 - the name the protocol has for it
    """What the host sent is no frame of the protocol, or not one for this moment; the connection ends."""
