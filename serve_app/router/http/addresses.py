"""Where a provider is: names resolved for a moment, and for an organisation's own to public addresses or not at all."""

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from typing import cast

from serve_app.core.errors import InvalidRequestError

AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
"""As `getaddrinfo` tells it, and happy eyeballs take it."""
_KNOWN_S = 10.0
_MOST_KNOWN = 1_000
_CARRYING_IPV4 = tuple(
    ipaddress.IPv6Network(network)
    for network in ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


def may_be_public(host: str) -> bool:
    """False for an address that is not public; a name is judged when it is resolved."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return bool(host)
    if isinstance(address, ipaddress.IPv6Address) and any(address in network for network in _CARRYING_IPV4):
        # What stands inside may be anything, and no provider is reached this way.
        return False
    return address.is_global and not address.is_multicast


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
        if self._is_public_only and not may_be_public(host):
            raise InvalidRequestError(
                f"The provider's address '{named or host}' is not a public one.", param="base_url"
            )
