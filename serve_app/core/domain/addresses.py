"""Which addresses are on the public internet, and nothing else: what strangers may make the platform connect to.

The lists follow IANA's special-purpose registries for IPv4 and IPv6. `ipaddress.is_global` is not enough by itself:
it differs between patch versions of Python and calls some forms that carry an IPv4 address global.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's own services for each machine, on a public address
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_PUBLIC_IPV6 = IPv6Network("2000::/3")
"""All that was ever assigned. Loopback, mapped, link-local, unique-local and multicast lie outside of it."""
_NOT_PUBLIC_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address, and nobody needs it
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_IPV4_BITS = (1 << 32) - 1


def is_public(address: Address) -> bool:
    """False for every address that means another machine, or none, depending on where it is asked.

    The well-known NAT64 prefix is what name servers of IPv6-only networks answer; it is as public as the IPv4
    address in it. Every other form that carries an IPv4 address is not public, whatever it carries.
    """
    match address:
        case IPv4Address():
            return not any(address in network for network in _NOT_PUBLIC_IPV4)
        case IPv6Address():
            if address.scope_id is not None:
                return False
            if address in _NAT64:
                return is_public(IPv4Address(int(address) & _IPV4_BITS))
            return address in _PUBLIC_IPV6 and not any(address in network for network in _NOT_PUBLIC_IPV6)


def parsed(text: str) -> Address | None:
    """The address, or None when `text` is not one. With a scope (`%eth0`) it is one, and not public."""
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Reach:
    """Which addresses may be connected to. `refused` names networks that are public and still ours: the cluster's own."""

    allows_private: bool = False
    refused: tuple[Network, ...] = ()

    def allows(self, address: Address) -> bool:
        if any(address in network for network in self.refused):
            return False
        return self.allows_private or is_public(address)

    def first_refused(self, addresses: Iterable[Address]) -> Address | None:
        return next((address for address in addresses if not self.allows(address)), None)
