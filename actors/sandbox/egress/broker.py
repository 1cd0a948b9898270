"""Calls to connectors: what may be asked, the secret added, and what is made of the request on its way.

A program's call comes in plain HTTP over the sandbox's own loopback, and leaves over TLS with the secret in it.
"""

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from actors.sandbox.egress.forwarding import WithoutSecret
from actors.sandbox.egress.http1 import RequestHead, asked_onward
from actors.sandbox.egress.redaction import Redaction
from actors.sandbox.egress.targets import CONNECTOR_SUFFIX, HTTPS_PORT, Call, Target
from serve_app.core.clock import Clock
from serve_app.core.domain.connectors import Connector, ConnectorSource, OpenedConnector
from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import EgressDeniedError, TimedOutError

_KEPT_S = 30.0
_ABSENCE_KEPT_S = 2.0
_MOST_KEPT = 1024
_FIND_S = 5.0
_DECODINGS = 3
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_SEGMENT_END = re.compile(rb"[/\\]")
_DROPPED = frozenset(
    {
        b"accept-encoding",
        # A cookie is another caller's login; a range could fetch an echoed secret in two harmless pieces.
        *(b"cookie", b"cookie2", b"range", b"if-range"),
        # Some frameworks let these replace the method and the path that were judged.
        *(b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url"),
        # Who asks is the connector, whatever the program says it was relayed for.
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"),
    }
)


@dataclass(frozen=True)
class Prepared:
    """What is asked where, and how the answer is cleaned."""

    target: Target
    question: RequestHead
    answer: WithoutSecret


class Broker:
    """Opened connectors of all organisations, each remembered for a short while and then forgotten for good."""

    def __init__(self, source: ConnectorSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._kept: dict[tuple[OrgId, str], tuple[float, OpenedConnector | None]] = {}
        self._timers: dict[tuple[OrgId, str], asyncio.TimerHandle] = {}

    async def prepare(self, org_id: OrgId, call: Call, request: RequestHead) -> Prepared:
        """Raises `EgressDeniedError`, `TimedOutError`, and what the source raises."""
        opened = await self._find(org_id, call.connector)
        if opened is None:
            raise EgressDeniedError(
                f"there is no connector '{call.connector}'. Connectors are made in the organisation's settings.",
                reason="connector",
            )
        connector = opened.connector
        _check(connector, request.method, call.path)
        host = connector.host if connector.port == HTTPS_PORT else f"{connector.host}:{connector.port}"
        question = asked_onward(
            request,
            host.encode(),
            connector.base_path.encode() + call.path,
            without=_DROPPED | {connector.header.lower().encode()},
            added=(
                # In a compressed answer the secret could not be found.
                (b"accept-encoding", b"identity"),
                (connector.header.encode(), connector.value_prefix.encode() + opened.secret),
            ),
        )
        base_url = connector.base_url.rstrip("/").encode()
        address = f"http://{connector.name}{CONNECTOR_SUFFIX}".encode()
        return Prepared(
            Target(connector.host, connector.port), question, WithoutSecret(Redaction(opened.secret), base_url, address)
        )

    async def _find(self, org_id: OrgId, name: str) -> OpenedConnector | None:
        key = (org_id, name)
        if (kept := self._kept.get(key)) is not None and kept[0] > self._clock.monotonic():
            return kept[1]
        try:
            async with asyncio.timeout(_FIND_S):
                opened = await self._source.find(org_id, name)
        except TimeoutError:
            raise TimedOutError("The connector could not be looked up in time. Try again.") from None
        kept_s = _KEPT_S if opened is not None else _ABSENCE_KEPT_S
        self._forget(key)
        if len(self._kept) >= _MOST_KEPT:
            self._forget(next(iter(self._kept)))
        self._kept[key] = (self._clock.monotonic() + kept_s, opened)
        # A timer, so that no secret stays in memory only because nobody asks for it again.
        self._timers[key] = asyncio.get_running_loop().call_later(kept_s, self._forget, key)
        return opened

    def _forget(self, key: tuple[OrgId, str]) -> None:
        self._kept.pop(key, None)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    def close(self) -> None:
        for key in list(self._kept):
            self._forget(key)


def _check(connector: Connector, method: str, path: bytes) -> None:
    if method not in connector.methods:
        raise EgressDeniedError(
            f"connector {connector.name} does not allow {method}. Allowed: {', '.join(connector.methods)}.",
            reason="method",
        )
    plain = path.partition(b"?")[0]
    if _is_ambiguous(plain):
        raise EgressDeniedError(
            f"connector {connector.name}: the path has empty, . or .. segments or hidden characters. Write it plainly.",
            reason="path",
        )
    if not any(_is_below(plain, prefix.encode()) for prefix in connector.path_prefixes):
        raise EgressDeniedError(
            f"connector {connector.name} does not allow this path. Allowed below: {', '.join(connector.path_prefixes)}.",
            reason="path",
        )


def _is_below(path: bytes, prefix: bytes) -> bool:
    """By whole segments."""
    return path == prefix or path.startswith(prefix if prefix.endswith(b"/") else prefix + b"/")


def _is_ambiguous(path: bytes) -> bool:
    """Whether a server might read another path than the one that is judged, however often it decodes it."""
    for _ in range(_DECODINGS):
        if _CONTROL.search(path):
            return True
        segments = _SEGMENT_END.split(path)
        # Some servers cut off what follows a semicolon before they resolve dots.
        if any(segment.partition(b";")[0] in {b".", b".."} for segment in segments) or b"" in segments[1:-1]:
            return True
        if (decoded := unquote_to_bytes(path)) == path:
            return not _is_utf8(path)
        path = decoded
    return True


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
