"""The secret source port."""

import re
from dataclasses import dataclass
from typing import Protocol, Self

_PLACE = re.compile(r"(?P<mount>[^/#\s]+)/(?P<path>[^#\s]+)#(?P<field>[^#\s]+)")


class SecretSource(Protocol):
    """Where secrets are kept outside the platform. A read may take seconds: never on the way of a request."""

    async def read(self, place: str) -> str:
        """The value of one field; `place` is `mount/path#field`.

        Raises:
            NotFoundError: there is no such secret, or no such field in it.
            MisconfiguredError: we may not read it, or the place is none.
            UnavailableError: it cannot be read now.
        """
        ...

    async def check(self) -> None:
        """Return when we may use it. Raises as `read` does."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Place:
    """One field of one secret."""

    mount: str
    path: str
    field: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None when `text` is not of the form, or would climb out of its mount."""
        match = _PLACE.fullmatch(text)
        if match is None or any(part in {"", ".", ".."} for part in match["path"].split("/")):
            return None
        return cls(match["mount"], match["path"], match["field"])
