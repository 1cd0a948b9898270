"""Agent hosts over real PostgreSQL and Valkey, with a model that says what a test wants."""

import asyncio
import secrets
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text

from actors.session.host import AgentHost
from actors.session.loop import Workshop
from actors.session.model import Delta, End
from actors.session.steps import Message
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database, owner_engine
from serve_app.core.db.repositories.creations import SqlCreationRepository
from serve_app.core.db.repositories.outbox import SqlOutboxRepository
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.events import Event, EventType
from serve_app.core.domain.ids import SessionId
from serve_app.core.errors import ContextLengthError, UnavailableError
from serve_app.core.services.blobs import BlobService
from serve_app.core.services.outbox import OutboxRelay
from serve_app.core.services.session_log import KeepAlive, SessionLog
from serve_app.core.stores.live.base import LiveFrame
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.core.stores.objects.disk import DiskObjectStore
from serve_app.core.telemetry import NullMetrics
from tests.conftest import Server, Tenant

Speak = Callable[[Sequence[Message]], AsyncGenerator[Delta | End, None]]


async def echo(messages: Sequence[Message]) -> AsyncGenerator[Delta | End, None]:
    """Answers in three pieces what it was asked."""
    for piece in ("# Answer\n\n", messages[-1].text, "\n"):
        yield Delta(piece)
    yield End("stop", {"prompt_tokens": 1, "completion_tokens": 3})


class ScriptedModel:
    """The model port, saying what `speak` says."""

    def __init__(self, speak: Speak) -> None:
        self.speak = speak
        self.asked: list[Sequence[Message]] = []

    async def answer(
        self, caller: Caller, model: str, messages: Sequence[Message], max_tokens: int
    ) -> AsyncGenerator[Delta | End, None]:
        self.asked.append(messages)
        async for item in self.speak(messages):
            yield item


class Stage:
    """Everything one test needs to run hosts and look at what they did."""

    def __init__(self, database: Database, live: RedisLiveEvents, folder: Path, tenant: Tenant) -> None:
        self.database, self.live, self.tenant = database, live, tenant
        self.sessions = SqlSessionRepository(database)
        self.creations = SqlCreationRepository(database)
        self.log = SessionLog(self.sessions, live, NullMetrics(), recheck_s=0.5)
        self.blobs = BlobService(DiskObjectStore(folder))

    @asynccontextmanager
    async def host(self, model: ScriptedModel, ttl_s: float = 2.0) -> AsyncIterator[AgentHost]:
        workshop = Workshop(
            sessions=self.sessions, creations=self.creations, log=self.log, blobs=self.blobs, model=model,
            clock=SystemClock(), metrics=NullMetrics(), max_answer_tokens=100,
        )  # fmt: skip
        relay = OutboxRelay(SqlOutboxRepository(self.database), self.live, NullMetrics(), every_s=0.1)
        host = AgentHost("host-" + secrets.token_hex(4), ttl_s, workshop, relay)
        task = asyncio.create_task(host.run())
        try:
            yield host
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def session(self) -> SessionId:
        return (await self.sessions.create(self.tenant.caller, "t", "m", None)).id

    async def post(self, session: SessionId, words: str) -> int:
        event = await self.log.append(
            self.tenant.caller.org_id, session, None, EventType.MESSAGE_USER, {"text": words}, None, "pending"
        )
        assert event.seq is not None
        return event.seq

    async def until(
        self, session: SessionId, done: Callable[[list[Event]], bool], timeout_s: float = 20
    ) -> list[Event]:
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(UnavailableError):
                    events = await self.sessions.events(self.tenant.caller.org_id, session, 0, 1000)
                    if done(events):
                        return events
                await asyncio.sleep(0.02)

    async def until_ended(self, session: SessionId, turns: int = 1) -> list[Event]:
        ends = {EventType.TURN_COMPLETED, EventType.TURN_FAILED}
        return await self.until(session, lambda events: sum(event.type in ends for event in events) >= turns)


@pytest.fixture
async def stage(postgres: Server, database: Database, live: RedisLiveEvents, tmp_path: Path, tenant: Tenant) -> Stage:
    # Hosts serve every session that waits: what other tests left waiting is none of these tests' business.
    engine = owner_engine(postgres.url)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE sessions SET status = 'idle', lease_host = NULL"))
    await engine.dispose()
    return Stage(database, live, tmp_path, tenant)


TURN = [
    EventType.MESSAGE_USER, EventType.MESSAGE_ASSISTANT, EventType.CREATION_VERSION, EventType.TURN_COMPLETED,
]  # fmt: skip


async def test_a_message_becomes_a_version_of_a_document(stage: Stage) -> None:
    async with stage.host(ScriptedModel(echo)) as host:
        session = await stage.session()
        await stage.post(session, "tomatoes")
        host.wake(session, {})
        events = await stage.until_ended(session)
        assert [event.type for event in events] == [EventType.SESSION_CREATED, *TURN]
        made = events[3].data
        assert (made["title"], made["number"], made["path"]) == ("Answer", 1, "document.md")
        await stage.post(session, "more")
        host.wake(session, {})
        events = await stage.until_ended(session, turns=2)
        assert events[7].data["creation_id"] == made["creation_id"]
        assert events[7].data["number"] == 2
    org = stage.tenant.caller.org_id
    creation = await stage.creations.get(org, made["creation_id"])
    assert creation.head == 2
    newest = await stage.creations.version(org, creation.id, None)
    first = await stage.creations.version(org, creation.id, 1)
    assert newest.parent_id == first.id
    assert await stage.blobs.get(org, newest.file("document.md")) == b"# Answer\n\nmore\n"
    assert (await stage.sessions.get(org, session)).status == "idle"


async def test_many_sessions_run_at_once_and_each_in_order(stage: Stage) -> None:
    async with stage.host(ScriptedModel(echo)) as host:
        sessions = [await stage.session() for _ in range(20)]
        for session in sessions:
            for number in range(3):
                await stage.post(session, str(number))
            host.wake(session, {})
        for session in sessions:
            events = await stage.until_ended(session, turns=3)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            texts = [event.data["text"] for event in events if event.type is EventType.MESSAGE_ASSISTANT]
            assert texts == [f"# Answer\n\n{number}\n" for number in range(3)]


async def test_a_host_that_dies_in_mid_turn_is_followed_by_another_which_finishes_once(stage: Stage) -> None:
    speaking = asyncio.Event()

    async def never_ends(messages: Sequence[Message]) -> AsyncGenerator[Delta | End, None]:
        yield Delta("half an ans")
        speaking.set()
        await asyncio.sleep(60)

    session = await stage.session()
    async with stage.host(ScriptedModel(never_ends), ttl_s=1.0) as dying:
        await stage.post(session, "hello")
        dying.wake(session, {})
        await speaking.wait()
        # As after kill -9: nothing it holds is given back. Only its lease runs out.
        for task in asyncio.all_tasks():
            if task.get_name() in {"claim", "renew"}:
                task.cancel()
        async with stage.host(ScriptedModel(echo)):
            events = await stage.until_ended(session)
    assert [event.type for event in events] == [EventType.SESSION_CREATED, *TURN]
    assert events[2].data["text"] == "# Answer\n\nhello\n"


async def test_renewing_slowly_does_not_stop_a_session_claimed_meanwhile(stage: Stage) -> None:
    class SlowRenewals(SqlSessionRepository):
        async def renew(self, host: str, ttl_s: float, session_ids: list[SessionId]) -> set[SessionId]:
            renewed = await super().renew(host, ttl_s, session_ids)
            await asyncio.sleep(0.3)
            return renewed

    asked = 0

    async def slow(messages: Sequence[Message]) -> AsyncGenerator[Delta | End, None]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(1.0)
        yield Delta("done")
        yield End("stop", {})

    stage.sessions = SlowRenewals(stage.database)
    async with stage.host(ScriptedModel(slow), ttl_s=1.0) as host:
        sessions = [await stage.session() for _ in range(10)]
        for session in sessions:
            await stage.post(session, "x")
            host.wake(session, {})
            await asyncio.sleep(0.1)
        for session in sessions:
            await stage.until_ended(session)
    assert asked == len(sessions), "a turn was stopped and begun again"


async def test_what_is_large_reaches_watchers_from_the_log_and_not_through_the_broker(stage: Stage) -> None:
    session = await stage.session()
    org = stage.tenant.caller.org_id
    long = "x" * 100_000

    async def watch() -> list[bytes]:
        bodies = []
        async for item in stage.log.follow(org, session, 1):
            if isinstance(item, LiveFrame):
                bodies.append(item.body)
                if len(bodies) == 2:
                    break
        return bodies

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.2)
    for said in (long, "small"):  # for watchers only: no host shall claim it
        await stage.log.append(org, session, None, EventType.MESSAGE_USER, {"text": said}, None)
    async with asyncio.timeout(5):
        large, small = await watching
    assert orjson.loads(large)["data"]["text"] == long
    assert orjson.loads(small)["data"]["text"] == "small"
    assert (await stage.live._redis.memory_usage(f"aether:session:{session}")) < 20_000


async def test_a_broken_stream_is_asked_for_again_and_never_spliced(stage: Stage) -> None:
    tries = 0

    async def breaks_twice(messages: Sequence[Message]) -> AsyncGenerator[Delta | End, None]:
        nonlocal tries
        tries += 1
        yield Delta(f"try {tries} ")
        if tries < 3:
            raise UnavailableError("gone")
        yield Delta("whole")
        yield End("stop", {})

    async with stage.host(ScriptedModel(breaks_twice)) as host:
        session = await stage.session()
        await stage.post(session, "x")
        host.wake(session, {})
        events = await stage.until_ended(session)
    assert events[2].data["text"] == "try 3 whole"


@pytest.mark.parametrize(
    ("error", "code"),
    [(ContextLengthError("too long"), "context_length_exceeded"), (RuntimeError("a bug"), "internal")],
)
async def test_a_turn_that_cannot_work_fails_with_a_code_and_the_session_lives(
    stage: Stage, error: Exception, code: str
) -> None:
    async def refuses(messages: Sequence[Message]) -> AsyncGenerator[Delta | End, None]:
        if messages[-1].text == "bad":
            raise error
        yield Delta("fine")
        yield End("stop", {})

    async with stage.host(ScriptedModel(refuses)) as host:
        session = await stage.session()
        await stage.post(session, "bad")
        host.wake(session, {})
        events = await stage.until_ended(session)
        assert events[-1].type is EventType.TURN_FAILED
        assert events[-1].data["code"] == code
        assert "a bug" not in str(events[-1].data)
        await stage.post(session, "good")
        events = await stage.until_ended(session, turns=2)
        assert events[-1].type is EventType.TURN_COMPLETED


async def test_an_empty_answer_is_a_failed_turn(stage: Stage) -> None:
    async def silent(messages: Sequence[Message]) -> AsyncGenerator[Delta | End, None]:
        yield End("stop", {})

    async with stage.host(ScriptedModel(silent)) as host:
        session = await stage.session()
        await stage.post(session, "x")
        host.wake(session, {})
        events = await stage.until_ended(session)
    assert events[-1].data["code"] == "engine_failed"


@pytest.mark.parametrize("which", ["postgres", "valkey"])
async def test_kill_9_of_a_server_in_mid_turn_loses_and_doubles_nothing(
    stage: Stage, postgres: Server, valkey: Server, which: str
) -> None:
    speaking, killed = asyncio.Event(), asyncio.Event()

    async def waits(messages: Sequence[Message]) -> AsyncGenerator[Delta | End, None]:
        yield Delta("# Slow\n")
        speaking.set()
        await killed.wait()
        yield Delta("answer")
        yield End("stop", {})

    seen: list[LiveFrame] = []

    async def watch(session: SessionId) -> None:
        async for item in stage.log.follow(stage.tenant.caller.org_id, session, 0):
            if not isinstance(item, KeepAlive) and item.seq is not None:
                seen.append(item)
                if item.type == EventType.TURN_COMPLETED:
                    return

    async with stage.host(ScriptedModel(waits)) as host:
        session = await stage.session()
        watching = asyncio.create_task(watch(session))
        await stage.post(session, "hello")
        host.wake(session, {})
        await speaking.wait()
        server = {"postgres": postgres, "valkey": valkey}[which]
        await server.child.end(signal.SIGKILL, grace_s=5)
        killed.set()
        await asyncio.sleep(1.0)
        server.child = await server.server.start()
        events = await stage.until_ended(session)
        async with asyncio.timeout(10):
            await watching
    assert [event.type for event in events] == [EventType.SESSION_CREATED, *TURN]
    assert [frame.seq for frame in seen] == [1, 2, 3, 4, 5]


async def test_the_outbox_tells_the_broker_of_each_version(stage: Stage) -> None:
    async with stage.host(ScriptedModel(echo)) as host:
        session = await stage.session()
        await stage.post(session, "x")
        host.wake(session, {})
        events = await stage.until_ended(session)
        version = events[3].data["version_id"]

        async def told() -> list[dict[str, bytes]]:
            return [
                entry
                async for entry in stage.live.entries("outbox")
                if orjson.loads(entry["payload"])["version_id"] == version
            ]

        async with asyncio.timeout(5):
            while not (found := await told()):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert len(await told()) == 1
        assert found[0]["topic"] == b"creation.version"
