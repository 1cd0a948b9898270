"""How the proxy reads what it is asked for: one canonical form, or no."""

import pytest

from actors.sandbox.egress.errors import BadProxyRequestError
from actors.sandbox.egress.targets import Allowlist, Call, Fetch, Target, Tunnel, canonical, route
from serve_app.core.errors import EgressDeniedError


@pytest.mark.parametrize(
    ("asked", "host", "port"),
    [
        (b"pypi.org:443", "pypi.org", 443),
        (b"PyPI.ORG:443", "pypi.org", 443),
        (b"pypi.org.:443", "pypi.org", 443),
        (b"XN--MNCHEN-3YA.example:8443", "xn--mnchen-3ya.example", 8443),
        (b"a_b.example.org:80", "a_b.example.org", 80),
    ],
)
def test_tunnels(asked: bytes, host: str, port: int) -> None:
    assert route("CONNECT", asked, None) == Tunnel(Target(host, port))


@pytest.mark.parametrize(
    "literal",
    [
        *("127.0.0.1", "127.1", "127.0.0.1.", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "0X7F.0X1"),
        *("017700000001", "0177.0.0.1", "127.0.0.0x1", "1.2.3.4.5", "256.256.256.256", "0", "0x", "0."),
        *("169.254.169.254", "0xa9fea9fe", "2852039166", "100.100.100.200", "example.org.1", "a.0x10"),
        *("[::1]", "[::ffff:127.0.0.1]", "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "[::1%25lo]", "[::1", "[]"),
    ],
)
def test_addresses_are_no_names(literal: str) -> None:
    for asked, method in (
        (f"{literal}:443", "CONNECT"),
        (f"http://{literal}/", "GET"),
        (f"http://{literal}:80", "GET"),
    ):
        with pytest.raises(EgressDeniedError) as caught:
            route(method, asked.encode(), None)
        assert caught.value.details["reason"] == "literal"


@pytest.mark.parametrize(
    "name",
    [
        *(
            b"",
            b".",
            b"..",
            b"a..b",
            b".example.org",
            b"example.org..",
            b"-a.example",
            b"a-.example",
            b"a" * 64 + b".org",
        ),
        *(b"a." * 126 + b"toolong", b"exa mple.org", b"example.org\\evil.org", b"example.org%2eevil.org", b"*.org"),
        *("münchen.example".encode(), "example。org".encode(), "１２７.0.0.1".encode(), b"example.org\x00.evil.org"),
        *(b"example.org,evil.org", b"example.org;evil.org", b"\xad.example.org"),
    ],
)
def test_what_is_no_name_is_refused(name: bytes) -> None:
    with pytest.raises(EgressDeniedError) as caught:
        canonical(name)
    assert caught.value.message.isascii()


@pytest.mark.parametrize(
    "asked",
    [b"http://pypi.org@evil.org/", b"http://user:pass@pypi.org/", b"http://pypi.org:80@evil.org/", b"http://@a.b/"],
)
def test_a_user_in_an_address_is_a_trick(asked: bytes) -> None:
    with pytest.raises(EgressDeniedError) as caught:
        route("GET", asked, None)
    assert caught.value.details["reason"] == "user"


def test_a_user_in_a_tunnel_too() -> None:
    with pytest.raises(EgressDeniedError):
        route("CONNECT", b"pypi.org@evil.org:443", None)


@pytest.mark.parametrize(
    "port", ["0", "65536", "99999", "+80", "-1", "8_0", "80a", "", "443:443", "०", " 80", "000080"]
)
def test_ports_are_written_plainly(port: str) -> None:
    with pytest.raises(BadProxyRequestError):
        route("CONNECT", f"pypi.org:{port}".encode(), None)


@pytest.mark.parametrize(
    ("asked", "target", "path"),
    [
        (b"http://pypi.org", Target("pypi.org", 80), b"/"),
        (b"HTTP://PYPI.org:8080/a?b=c", Target("pypi.org", 8080), b"/a?b=c"),
        (b"http://pypi.org?q", Target("pypi.org", 80), b"/?q"),
        (b"http://pypi.org/@evil.org:1/", Target("pypi.org", 80), b"/@evil.org:1/"),
        (b"http://pypi.org/http://evil.org/", Target("pypi.org", 80), b"/http://evil.org/"),
    ],
)
def test_plain_requests(asked: bytes, target: Target, path: bytes) -> None:
    assert route("GET", asked, None) == Fetch(target, path)


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        *(
            ("GET", asked)
            for asked in (b"/", b"*", b"pypi.org", b"//pypi.org/", b"ftp://pypi.org/", b"https://pypi.org/")
        ),
        *(
            ("GET", asked)
            for asked in (b"http://pypi.org/#x", b"http:/pypi.org/", b"file:///etc/passwd", b"gopher://a.b/")
        ),
        *(("CONNECT", asked) for asked in (b"pypi.org", b"pypi.org:", b"https://pypi.org:443")),
    ],
)
def test_what_no_proxy_is_asked(method: str, asked: bytes) -> None:
    with pytest.raises(BadProxyRequestError):
        route(method, asked, None)


def test_within_a_tunnel_there_is_one_host() -> None:
    within = Target("a.example", 80)
    assert route("GET", b"/x", within) == Fetch(within, b"/x")
    assert route("GET", b"http://a.example/x", within) == Fetch(within, b"/x")
    for method, asked in (
        ("GET", b"http://b.example/"),
        ("GET", b"http://a.example:81/"),
        ("CONNECT", b"a.example:80"),
    ):
        with pytest.raises((EgressDeniedError, BadProxyRequestError)):
            route(method, asked, within)


def test_connectors() -> None:
    assert route("POST", b"http://Git.Connector/v1?x", None) == Call("git", b"/v1?x")
    assert route("GET", b"/v1", Target("git.connector", 80)) == Call("git", b"/v1")
    with pytest.raises(EgressDeniedError):
        route("GET", b"http://git.connector:8080/", None)


def test_the_allowlist() -> None:
    allowed = Allowlist(["pypi.org", "*.example.org"], [443])
    for host in ("pypi.org", "a.example.org", "a.b.example.org"):
        allowed.check(Target(host, 443))
    for host in ("example.org", "badexample.org", "a.pypi.org", "pypi.org.evil.net", "pypi.orgx", "org", "xpypi.org"):
        with pytest.raises(EgressDeniedError) as caught:
            allowed.check(Target(host, 443))
        assert (
            f"host {host} is not in the profile's allowlist. Allowed: pypi.org, *.example.org." in caught.value.message
        )
    with pytest.raises(EgressDeniedError, match=r"port 80 of pypi\.org is not allowed by the profile\. Allowed: 443"):
        allowed.check(Target("pypi.org", 80))


def test_an_empty_allowlist_says_how_to_mend_it() -> None:
    with pytest.raises(EgressDeniedError, match=r"Allowed: none\. .*egress\.allow"):
        Allowlist([], []).check(Target("pypi.org", 443))
