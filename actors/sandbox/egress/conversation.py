"""One connection of a program to the proxy: its requests in turn, each judged, passed on and written down."""

import asyncio
import re
from dataclasses import dataclass
from typing import assert_never

from actors.sandbox.egress.broker import Broker
from actors.sandbox.egress.budget import Allowance, Pace
from actors.sandbox.egress.dialling import Dialler, Reached
from actors.sandbox.egress.errors import BadProxyRequestError
from actors.sandbox.egress.forwarding import Answer, Unchanged, forward
from actors.sandbox.egress.hello import Hello
from actors.sandbox.egress.http1 import AnswerHead, Asked, Asking, RequestHead, asked_onward
from actors.sandbox.egress.journal import Journal, Visit
from actors.sandbox.egress.links import Link
from actors.sandbox.egress.targets import (
    CONNECTOR_SUFFIX,
    HTTP_PORT,
    Allowlist,
    Call,
    Fetch,
    Target,
    Tunnel,
    route,
    shown,
)
from actors.sandbox.egress.tunnels import pass_through
from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import AetherError, EgressDeniedError, SandboxLostError, TimedOutError, UnavailableError

_SHOWN_REASON = 200
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class Bounds:
    """How long and how large things may be."""

    head_bytes: int = 16 * 1024
    """Of a request. Slow senders have `head_s` for it."""
    answer_head_bytes: int = 64 * 1024
    head_s: float = 10.0
    hello_s: float = 10.0
    keep_alive_s: float = 15.0
    """For the next request on one connection."""
    connect_s: float = 10.0
    resolve_s: float = 5.0
    idle_s: float = 300.0
    """Nothing moves, in a tunnel or while an answer is waited for."""
    place_s: float = 8.0
    """For another connection to end, when the sandbox has as many as it may."""
    requests_per_s: float = 50.0
    requests_burst: int = 500


@dataclass(frozen=True)
class Party:
    """Everything about one sandbox that its conversations share."""

    org_id: OrgId
    allowlist: Allowlist
    may_use_connectors: bool
    allowance: Allowance
    journal: Journal
    pace: Pace
    lookups: asyncio.Semaphore
    """How many names it may have asked for at one time."""


@dataclass(frozen=True)
class _Kept:
    """A connection to a host that may be asked again."""

    target: Target
    is_tls: bool
    reached: Reached
    asking: Asking


class Conversation:
    """`hold` once."""

    def __init__(self, party: Party, dialler: Dialler, broker: Broker, bounds: Bounds) -> None:
        self._party = party
        self._dialler = dialler
        self._broker = broker
        self._bounds = bounds
        self._kept: _Kept | None = None

    async def hold(self, inside: Link) -> None:
        """Until the program is done; then the link is closed."""
        try:
            await self._requests(self._asked(inside), within=None)
        except (OSError, SandboxLostError):
            pass  # the program went away, which is its right
        finally:
            inside.close()
            self._drop_kept()

    def _asked(self, inside: Link, said: bytes = b"") -> Asked:
        return Asked(inside, most_head_bytes=self._bounds.head_bytes, idle_s=self._bounds.idle_s, said=said)

    async def _requests(self, asked: Asked, within: Target | None) -> None:
        goes_on = True
        while goes_on:
            try:
                request = await asked.request(self._bounds.keep_alive_s, self._bounds.head_s)
            except (BadProxyRequestError, TimedOutError) as exc:
                visit = self._party.journal.begin()
                visit.went_wrong(exc)
                self._party.journal.end(visit)
                await refuse(asked, exc)
                return
            if request is None:
                return
            await self._party.pace.turn()
            goes_on = await self._written_down(asked, request, within)

    async def _written_down(self, asked: Asked, request: RequestHead, within: Target | None) -> bool:
        visit = self._party.journal.begin()
        visit.method = shown(request.method.encode())[:20]
        try:
            return await self._serve(asked, request, within, visit)
        except (OSError, SandboxLostError):
            visit.verdict, visit.reason = "failed", "gone"
            raise
        except AetherError as exc:
            visit.went_wrong(exc)
            return await refuse(asked, exc)
        finally:
            self._party.journal.end(visit)

    async def _serve(self, asked: Asked, request: RequestHead, within: Target | None, visit: Visit) -> bool:
        """Whether the connection may be used for another request."""
        way = route(request.method, request.target, within)
        match way:
            case Tunnel(target):
                visit.kind, visit.host, visit.port = "tunnel", target.host, target.port
                await self._tunnel(asked, request, target, visit)
                return False
            case Fetch(target, path):
                visit.kind, visit.host, visit.port = "http", target.host, target.port
                self._party.allowlist.check(target)
                host = target.host if target.port == HTTP_PORT else f"{target.host}:{target.port}"
                question = asked_onward(request, host.encode(), path)
                return await self._exchange(asked, request, target, question, Unchanged(), visit, is_tls=False)
            case Call(name):
                visit.kind, visit.connector = "connector", name
                self._check_connectors()
                prepared = await self._broker.prepare(self._party.org_id, way, request)
                visit.host, visit.port = prepared.target.host, prepared.target.port
                return await self._exchange(
                    asked, request, prepared.target, prepared.question, prepared.answer, visit, is_tls=True
                )
            case _:
                assert_never(way)

    def _check_connectors(self) -> None:
        if not self._party.may_use_connectors:
            raise EgressDeniedError(
                "sandboxes of this profile may not use connectors. The operator allows it with `may_use_connectors`.",
                reason="connector",
            )

    async def _tunnel(self, asked: Asked, request: RequestHead, target: Target, visit: Visit) -> None:
        if request.has_body:
            raise BadProxyRequestError("CONNECT has no body.")
        if target.host.endswith(CONNECTOR_SUFFIX):
            self._check_connectors()
            if target.port != HTTP_PORT:
                raise EgressDeniedError(
                    f"connectors are called in plain HTTP, which does not leave the sandbox: http://{target.host}/.",
                    reason="port",
                )
        else:
            self._party.allowlist.check(target)
        if target.port == HTTP_PORT:
            # Read and judged like any other plain HTTP: as bytes that are only passed on, its `Host` could be another.
            await asked.answer(_ESTABLISHED)
            await self._requests(self._asked(asked.link, asked.opened()), within=target)
            return
        reached = await self._dial(target, visit, is_tls=False)
        try:
            await asked.answer(_ESTABLISHED)

            def note(hello: Hello) -> None:
                visit.has_ech = hello.has_ech

            await pass_through(
                asked.link,
                reached.link,
                target,
                asked.opened(),
                note,
                hello_s=self._bounds.hello_s,
                idle_s=self._bounds.idle_s,
            )
        finally:
            reached.link.close()

    async def _exchange(
        self,
        asked: Asked,
        request: RequestHead,
        target: Target,
        question: RequestHead,
        answer: Answer,
        visit: Visit,
        *,
        is_tls: bool,
    ) -> bool:
        kept = await self._open(target, visit, is_tls=is_tls)
        is_kept = False
        try:
            visit.status = await forward(asked, request, kept.asking, question, answer)
            is_kept = kept.asking.is_ready_again()
        finally:
            if is_kept:
                self._kept = kept
            else:
                kept.reached.link.close()
        return await asked.is_ready_again()

    async def _open(self, target: Target, visit: Visit, *, is_tls: bool) -> _Kept:
        """The connection of the request before, if it leads to the same host and is still open; a new one otherwise."""
        self._party.allowance.check()
        kept, self._kept = self._kept, None
        if kept is not None:
            if kept.target == target and kept.is_tls == is_tls and not kept.reached.link.has_ended:
                kept.reached.link.traffic = visit.traffic
                visit.address = kept.reached.address
                return kept
            kept.reached.link.close()
        reached = await self._dial(target, visit, is_tls=is_tls)
        asking = Asking(
            reached.link, target.host, most_head_bytes=self._bounds.answer_head_bytes, idle_s=self._bounds.idle_s
        )
        return _Kept(target, is_tls, reached, asking)

    async def _dial(self, target: Target, visit: Visit, *, is_tls: bool) -> Reached:
        self._party.allowance.check()
        reached = await self._dialler.dial(target, visit.traffic, self._party.lookups, is_tls=is_tls)
        visit.address = reached.address
        return reached

    def _drop_kept(self) -> None:
        if self._kept is not None:
            self._kept.reached.link.close()
            self._kept = None


_ESTABLISHED = AnswerHead(200, b"Connection established", ())


async def refuse(asked: Asked, exc: AetherError) -> bool:
    """Say why, in the body and, because many tools show nothing else of a proxy, in the status line too.

    Whether another request can follow.
    """
    if asked.has_answered:
        return False  # in the middle of another answer: breaking off is all that can be said
    text = f"{exc.code}: {exc.message}\n".encode()
    retry = ((b"retry-after", b"1"),) if isinstance(exc, UnavailableError) else ()
    head = AnswerHead(
        exc.status,
        _UNPRINTABLE.sub("?", exc.message)[:_SHOWN_REASON].encode(),
        (
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(text)).encode()),
            *retry,
        ),
    )
    await asked.answer(head)
    await asked.write(text)
    await asked.end()
    return await asked.is_ready_again()
