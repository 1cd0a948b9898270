"""What a program asks the proxy for: read strictly, and judged by the profile's names and ports.

The names of a target are compared after one canonical form is made of them, and whatever has no such form is refused:
the proxy never guesses what a client, a name server or an HTTP library would make of `0x7f.1` or `a@b`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from actors.sandbox.egress.errors import BadProxyRequestError
from serve_app.core.errors import EgressDeniedError

CONNECTOR_SUFFIX = ".connector"
HTTP_PORT = 80
HTTPS_PORT = 443
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[0-9]{1,5}")
_SHOWN_NAMES = 20


@dataclass(frozen=True)
class Target:
    """A name in its canonical form (lower case, no dot at its end) and a port."""

    host: str
    port: int


@dataclass(frozen=True)
class Tunnel:
    """`CONNECT host:port`."""

    target: Target


@dataclass(frozen=True)
class Fetch:
    """One request in plain HTTP. `path` is what the host is asked for, query included."""

    target: Target
    path: bytes


@dataclass(frozen=True)
class Call:
    """One request to a connector. `path` comes after its `base_url`."""

    connector: str
    path: bytes


Route = Tunnel | Fetch | Call


def route(method: str, asked: bytes, within: Target | None) -> Route:
    """Read the target of a request. `within`: it came through a tunnel to this target, and can go nowhere else.

    Raises:
        BadProxyRequestError: it is nothing a proxy is asked.
        EgressDeniedError: it has a form that is never allowed.
    """
    if method == "CONNECT":
        if within is not None:
            raise BadProxyRequestError("A tunnel leads to one host: connect to the proxy again for another one.")
        return Tunnel(_authority(asked, default_port=None))
    if asked.startswith(b"/") and within is not None:
        return _request(within, asked)
    scheme, separator, rest = asked.partition(b"://")
    if not separator or scheme.lower() not in {b"http", b"https"}:
        raise BadProxyRequestError(
            "This is the way out of the sandbox, an HTTP proxy: set HTTP_PROXY and HTTPS_PROXY to http://127.0.0.1:3128."
        )
    if scheme.lower() == b"https":
        raise BadProxyRequestError("The proxy does not speak TLS for you: use CONNECT for https addresses.")
    authority, path = _split(rest)
    target = _authority(authority, default_port=HTTP_PORT)
    if within is not None and target != within:
        raise EgressDeniedError(f"The tunnel leads to {within.host}, not to {target.host}.", reason="host")
    return _request(target, path)


def _request(target: Target, path: bytes) -> Route:
    if target.host.endswith(CONNECTOR_SUFFIX):
        if target.port != HTTP_PORT:
            raise EgressDeniedError(f"Connectors are called at http://{target.host}/, without a port.", reason="port")
        return Call(target.host.removesuffix(CONNECTOR_SUFFIX), path)
    return Fetch(target, path)


def _split(rest: bytes) -> tuple[bytes, bytes]:
    end = min((at for mark in (b"/", b"?", b"#") if (at := rest.find(mark)) >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    if b"#" in path:
        raise BadProxyRequestError("An address may have no fragment (#...) on its way to a server.")
    return authority, path if path.startswith(b"/") else b"/" + path


def _authority(text: bytes, default_port: int | None) -> Target:
    if b"@" in text:
        raise EgressDeniedError("An address may have no user or password in it.", reason="user")
    if text.startswith(b"["):
        raise _literal(text)
    host, colon, port = text.partition(b":")
    if colon:
        return Target(canonical(host), _port(port))
    if default_port is None:
        raise BadProxyRequestError("CONNECT needs a host and a port, as in pypi.org:443.")
    return Target(canonical(host), default_port)


def _port(text: bytes) -> int:
    digits = text.decode("ascii", "replace")
    # `int` alone would take signs, spaces, underscores and the digits of other scripts.
    if not _PORT.fullmatch(digits) or not 1 <= int(digits) <= 65535:
        raise BadProxyRequestError(f"{shown(text)!r} is not a port.")
    return int(digits)


def canonical(name: bytes) -> str:
    """The one form in which names are compared. One dot at the end says the same name and is dropped.

    Raises:
        EgressDeniedError: an address, in whatever notation, or no name at all.
    """
    try:
        host = name.decode("ascii").lower().removesuffix(".")
    except UnicodeDecodeError:
        raise EgressDeniedError(
            "Names with other letters than ASCII are written in punycode (xn--...) here.", reason="malformed"
        ) from None
    if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        # As the URL standard has it: a name whose last part is a number is an IPv4 address in some notation.
        raise _literal(name)
    if not _NAME.fullmatch(host):
        raise EgressDeniedError(f"'{shown(name)}' is not the name of a host.", reason="malformed")
    return host


def _literal(text: bytes) -> EgressDeniedError:
    return EgressDeniedError(
        f"'{shown(text)}' is an address: hosts are reached by their names only, so that the profile can allow them.",
        reason="literal",
    )


def shown(text: bytes) -> str:
    """A stranger's bytes, fit for a message or a log line."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x27 else "?" for byte in text[:100])


class Allowlist:
    """The names and ports of a profile. `*.example.org` is every name below it, not itself."""

    def __init__(self, names: Iterable[str], ports: Iterable[int]) -> None:
        self._names = tuple(names)
        self._exact = frozenset(name for name in self._names if not name.startswith("*."))
        self._suffixes = tuple(name.removeprefix("*") for name in self._names if name.startswith("*."))
        self._ports = tuple(ports)

    def check(self, target: Target) -> None:
        """Raises `EgressDeniedError`, which says what is allowed instead."""
        if target.host not in self._exact and not target.host.endswith(self._suffixes):
            raise EgressDeniedError(
                f"host {target.host} is not in the profile's allowlist. {self._allowed()}", reason="host"
            )
        if target.port not in self._ports:
            raise EgressDeniedError(
                f"port {target.port} of {target.host} is not allowed by the profile. "
                f"Allowed: {', '.join(map(str, self._ports)) or 'none'}.",
                reason="port",
            )

    def _allowed(self) -> str:
        if not self._names:
            return "Allowed: none. The operator allows hosts in `egress.allow` of the profile."
        names = ", ".join(self._names[:_SHOWN_NAMES])
        more = f" and {len(self._names) - _SHOWN_NAMES} more" if len(self._names) > _SHOWN_NAMES else ""
        return f"Allowed: {names}{more}. The operator allows more in `egress.allow` of the profile."
