"""Takes a secret out of a stream of bytes, also where it stands across the borders of pieces."""


class Redaction:
    """Each occurrence becomes as many asterisks, so that no length that was announced before changes.

    It finds the exact bytes only: a service that answers a secret in another form, in base 64 or piece by piece, has
    to be kept out by the paths of its connector.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._stars = b"*" * len(secret)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may go on now. Held back is only what might be the beginning of the secret."""
        text = (self._held + data).replace(self._secret, self._stars)
        held_bytes = self._beginning(text)
        self._held = text[len(text) - held_bytes :]
        return text[: len(text) - held_bytes]

    def finish(self) -> bytes:
        """What was held back. Afterwards it begins anew."""
        held, self._held = self._held, b""
        return held

    def once(self, data: bytes) -> bytes:
        """Something that is there as a whole, such as a header."""
        return data.replace(self._secret, self._stars)

    def _beginning(self, text: bytes) -> int:
        """The length of the longest end of `text` with which the secret begins."""
        at = max(len(text) - len(self._secret) + 1, 0)
        while (at := text.find(self._secret[:1], at)) >= 0:
            if self._secret.startswith(text[at:]):
                return len(text) - at
            at += 1
        return 0
