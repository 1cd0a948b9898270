"""Connectors: services of an organisation that programs in a sandbox may call without ever holding the secret."""

import re
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import InvalidRequestError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_PLAIN = re.compile(r"[\x21-\x7e]+")
_VISIBLE = re.compile(r"[\x20-\x7e]{0,64}")
_SECRET = re.compile(rb"[\x21-\x7e]([\x20-\x7e]{6,8190}[\x21-\x7e])")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NOT_FOR_SECRETS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect"}
    | {"accept-encoding", "range", "keep-alive", "proxy-connection", "proxy-authorization", "cookie"}
)


@dataclass(frozen=True)
class Connector:
    """One service, and what may be asked of it. Inside a sandbox it is `http://<name>.connector/`.

    Raises:
        InvalidRequestError: a part is not valid; `param` in the details names it.
    """

    name: str
    base_url: str
    """`https://host[:port][/path]`: what is asked for comes after it."""
    header: str = "Authorization"
    value_prefix: str = "Bearer "
    methods: tuple[str, ...] = ("GET", "HEAD")
    path_prefixes: tuple[str, ...] = ("/",)
    """Below `base_url`, by whole segments: `/v1` allows `/v1` and `/v1/items`, not `/v10`."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise _invalid("name", "up to 40 lower-case letters, digits and hyphens")
        if not _is_base(self.base_url):
            raise _invalid("base_url", "https://host[:port][/path] with a name as host, no user, query or fragment")
        if not _HEADER.fullmatch(self.header) or self.header.lower() in _NOT_FOR_SECRETS:
            raise _invalid("header", "the name of a header that carries a secret, such as Authorization or X-Api-Key")
        if not _VISIBLE.fullmatch(self.value_prefix):
            raise _invalid("value_prefix", "up to 64 visible ASCII characters, such as 'Bearer '")
        if not self.methods or not set(self.methods) <= _METHODS:
            raise _invalid("methods", f"at least one of {', '.join(sorted(_METHODS))}")
        if not self.path_prefixes or not all(map(_is_prefix, self.path_prefixes)):
            raise _invalid("path_prefixes", "at least one path that starts with / and has no empty, . or .. segment")

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.base_url).port or 443

    @property
    def base_path(self) -> str:
        return urlsplit(self.base_url).path.rstrip("/")


@dataclass(frozen=True)
class OpenedConnector:
    """A connector with its secret, opened for one use."""

    connector: Connector
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        # Shorter ones would be found in every other answer, and stripped from it.
        if not _SECRET.fullmatch(self.secret):
            raise _invalid("secret", "8 to 8192 visible ASCII characters")


class ConnectorSource(Protocol):
    """Where connectors of organisations are kept, their secrets sealed."""

    async def find(self, org_id: OrgId, name: str) -> OpenedConnector | None: ...


def _is_base(url: str) -> bool:
    if not _PLAIN.fullmatch(url):
        return False  # `urlsplit` would drop line breaks and tabs, and judge another address
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return False
    authority = parts.netloc.removesuffix(f":{parts.port}")
    return (
        port_is_valid
        and parts.scheme == "https"
        and url.startswith("https://")
        and _HOST.fullmatch(authority) is not None
        and not set("?#\\") & set(url)
        and _PATH.fullmatch(parts.path) is not None
        and not _has_dots(parts.path)
    )


def _is_prefix(path: str) -> bool:
    return path.startswith("/") and _PATH.fullmatch(path) is not None and not _has_dots(path)


def _has_dots(path: str) -> bool:
    return any(segment in {".", ".."} for segment in path.split("/"))


def _invalid(param: str, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(f"The connector's {param} must be {wanted}.", param=param)
