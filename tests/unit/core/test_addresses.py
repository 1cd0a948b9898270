"""What counts as an address on the public internet."""

from ipaddress import ip_network

import pytest

from serve_app.core.domain.addresses import Reach, is_public, parsed


def judged(text: str) -> bool:
    address = parsed(text)
    assert address is not None
    return is_public(address)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "151.101.0.223", "1.1.1.1", "2606:4700::1111", "2a04:4e42::223", "64:ff9b::808:808"]
)
def test_addresses_of_real_services_are_public(text: str) -> None:
    assert judged(text)


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.1", "0.1.2.3", "10.0.0.1", "127.0.0.1", "127.255.255.254", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.1.1", "100.64.0.1", "100.127.255.255", "192.0.0.8", "198.18.0.1", "198.19.255.255"),
        *("192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
        "255.255.255.255",
        # Metadata: most clouds, Alibaba, Azure's wire server, Oracle, AWS and GCP over IPv6.
        *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0", "fc00::1", "fec0::1", "ff02::1", "100::1"),
        *("2001:db8::1", "3fff::1", "2001:2::1", "2001:10::1", "5f00::1", "4000::1"),
        # Forms that carry an IPv4 address: mapped, compatible, NAT64, local NAT64, 6to4, Teredo.
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::808:808", "2002:7f00:1::1", "2002:808:808::1", "2001:0:53aa:64c:0:0:80ff:fffe"),
    ],
)
def test_everything_else_is_not(text: str) -> None:
    assert not judged(text)


@pytest.mark.parametrize("text", ["", "example.org", "1.2.3", "0x7f.1", "127.1", "017700000001", "1.2.3.4:80", "[::1]"])
def test_only_plain_notations_are_addresses(text: str) -> None:
    assert parsed(text) is None


def test_a_network_of_our_own_is_refused_though_public() -> None:
    reach = Reach(refused=(ip_network("8.8.8.0/24"),))
    inside, outside = parsed("8.8.8.8"), parsed("8.8.4.4")
    assert inside is not None
    assert outside is not None
    assert reach.first_refused([outside, inside]) == inside
    assert reach.allows(outside)
    assert not Reach(allows_private=True, refused=reach.refused).allows(inside)
