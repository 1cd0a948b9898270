"""Which connectors there can be at all."""

import pytest

from serve_app.core.domain.connectors import Connector, OpenedConnector
from serve_app.core.errors import InvalidRequestError


def test_the_parts_of_an_address() -> None:
    connector = Connector("git", "https://api.example.org:8443/v3/")
    assert (connector.host, connector.port, connector.base_path) == ("api.example.org", 8443, "/v3")
    assert Connector("git", "https://api.example.org").port == 443
    assert Connector("git", "https://api.example.org").base_path == ""


@pytest.mark.parametrize(
    "url",
    [
        *("http://a.example", "https://", "https://localhost", "https://1.2.3.4/", "https://[::1]/", "https://0x7f.1/"),
        *("https://u@a.example", "https://u:p@a.example/", "https://a.example?x", "https://a.example/#x"),
        *(
            "https://A.example",
            "HTTPS://a.example",
            "https://a.example:0",
            "https://a.example:99999",
            "ftp://a.example",
        ),
        *("https://a.example/..", "https://a.example/a/./b", "https://a.example//b", "https://a.example/%2e%2e/"),
        *("https://a.example\\b", "https://a.example/ b", "https://a.example/\nb", "https://münchen.example"),
        *("https://a.example.", "https://a..example", "https://a.example:80:90", "https://a.example:"),
    ],
)
def test_an_address_has_one_form(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Connector("git", url)
    assert caught.value.details == {"param": "base_url"}


@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a-", "a_b", "a" * 41, "ä"])
def test_a_name_is_one_label(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        Connector(name, "https://a.example")


@pytest.mark.parametrize(
    "header", ["", "Host", "content-length", "A B", "X:Y", "X\r\nY", "Transfer-Encoding", "Cookie"]
)
def test_a_header_that_means_something_else_carries_no_secret(header: str) -> None:
    with pytest.raises(InvalidRequestError):
        Connector("git", "https://a.example", header=header)


def test_methods_and_paths() -> None:
    for methods in ((), ("CONNECT",), ("TRACE",), ("get",)):
        with pytest.raises(InvalidRequestError):
            Connector("git", "https://a.example", methods=methods)
    for paths in ((), ("v1",), ("/a/../b",), ("//",), ("/a?b",), ("/%2e%2e/",)):
        with pytest.raises(InvalidRequestError):
            Connector("git", "https://a.example", path_prefixes=paths)
    with pytest.raises(InvalidRequestError):
        Connector("git", "https://a.example", value_prefix="Bearer\r\n")


def test_a_secret_is_never_shown() -> None:
    opened = OpenedConnector(Connector("git", "https://a.example"), b"sk-0123456789")
    assert "0123456789" not in repr(opened)
    assert "0123456789" not in str(opened)


@pytest.mark.parametrize("secret", [b"", b"short12", b"with\nbreaks", b" leading1", b"x" * 8193, b"\xffbinary-bytes"])
def test_a_secret_fits_into_a_header(secret: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        OpenedConnector(Connector("git", "https://a.example"), secret)
    assert caught.value.details == {"param": "secret"}
    assert not secret or secret not in str(caught.value).encode()
