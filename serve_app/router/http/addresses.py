"""Where a provider is: names resolved for a moment, and for an organisation's own to public addresses or not at all."""

import asyncio
import socket
from collections import OrderedDict
from typing import cast

from serve_app.core.domain.addresses import is_public, parsed
from serve_app.core.errors import InvalidRequestError

AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
"""As `getaddrinfo` tells it, and happy eyeballs take it."""
_KNOWN_S = 10.0
_MOST_KNOWN = 1_000


class Resolver:
    """`is_public_only`: whatever a hostile name server says this time, no other address is given out."""

    def __init__(self, *, is_public_only: bool) -> None:
        self._is_public_only = is_public_only
        self._known: OrderedDict[tuple[str, int], tuple[float, list[AddressInfo]]] = OrderedDict()

    async def find(self, host: str, port: int) -> list[AddressInfo]:
        """Raises `OSError` for a name that nobody knows, `InvalidRequestError` for one that is not allowed."""
        loop = asyncio.get_running_loop()
        known = self._known.get((host, port))
        if known is not None and known[0] > loop.time():
            return known[1]
        self.check(host)
        found: list[AddressInfo] = []
        for family, kind, protocol, name, address in await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        ):
            self.check(str(address[0]), named=host)
            found.append((family, kind, protocol, name, cast(tuple[str, int], address)))
        self._known[host, port] = loop.time() + _KNOWN_S, found
        self._known.move_to_end((host, port))
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return found

    def check(self, host: str, *, named: str = "") -> None:
        """A name is judged when it is resolved."""
        address = parsed(host)
        if self._is_public_only and (not host or (address is not None and not is_public(address))):
            raise InvalidRequestError(
                f"The provider's address '{named or host}' is not a public one.", param="base_url"
            )
