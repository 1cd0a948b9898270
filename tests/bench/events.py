"""Durable events: round trips to PostgreSQL, time to be stored, time to reach an SSE client through the proxy."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.owners import OwnerRepository
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.domain.events import EventType
from serve_app.core.services.session_log import SessionLog
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.core.telemetry import NullMetrics
from serve_app.embedded.state import Folders
from tests.bench.report import Row, median_and_spread
from tests.e2e.conftest import Platform

EVENTS = 500
_READY_FOR_QUERY = 0x5A


async def measure_events(platform: Platform) -> tuple[list[Row], str]:
    """Appends as an agent host does, in this process, over the platform's own servers; also names the session."""
    run_dir = Folders(platform.data_dir).run_dir
    trips = Trips(run_dir / "pg" / ".s.PGSQL.5432")
    async with trips.listening(run_dir / "bench"):
        database = Database(f"postgresql://aether@/aether?host={run_dir / 'bench'}", pool_size=1)
        live = RedisLiveEvents(f"unix://{run_dir / 'valkey.sock'}")
        sessions = SqlSessionRepository(database)
        log = SessionLog(sessions, live, NullMetrics())
        owner = await OwnerRepository(f"postgresql://aether@/aether?host={run_dir / 'pg'}").first_owner()
        assert owner is not None
        session = await sessions.create(owner, "bench", "smollm2-135m", None)
        stored: list[float] = []
        arrived: dict[int, float] = {}
        published: dict[int, float] = {}
        listening = asyncio.create_task(_listen(platform, session.id, arrived, EVENTS + 1))
        await asyncio.sleep(1)

        async def append(number: int) -> None:
            began = time.perf_counter()
            event = await log.append(
                owner.org_id, session.id, None, EventType.TURN_COMPLETED, {"turn": number}, f"bench:{number}"
            )
            stored.append(time.perf_counter() - began)
            assert event.seq is not None
            published[event.seq] = began

        await append(-1)  # the statement is prepared once a connection
        before = trips.count
        for number in range(EVENTS - 1):
            await append(number)
            await asyncio.sleep(0.005)
        round_trips = (trips.count - before) / (EVENTS - 1)
        async with asyncio.timeout(30):
            await listening
        await live.close()
        await database.close()
    reach = [(arrived[seq] - began) * 1000 for seq, began in published.items()]
    rows = [
        Row("Round trips to PostgreSQL for a durable event", f"{round_trips:.2f}", "1"),
        Row("Durable event stored and published", median_and_spread([s * 1000 for s in stored], "ms", 2)),
        Row("Durable event, append to SSE client", median_and_spread(reach, "ms", 2), "< 15 ms p50"),
    ]
    return rows, session.id


async def _listen(platform: Platform, session: str, arrived: dict[int, float], count: int) -> None:
    async with (
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
        client.stream(
            "GET",
            f"{platform.url}/api/v1/sessions/{session}/events",
            headers={"authorization": f"Bearer {platform.owner_key}"},
        ) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                arrived[json.loads(line[6:])["seq"]] = time.perf_counter()
                if len(arrived) >= count:
                    return


class Trips:
    """A relay between a client and PostgreSQL that counts the answers (`ReadyForQuery`): one a round trip."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.count = 0

    @asynccontextmanager
    async def listening(self, folder: Path) -> AsyncIterator[None]:
        folder.mkdir(mode=0o700, exist_ok=True)
        server = await asyncio.start_unix_server(self._relay, folder / ".s.PGSQL.5432")
        try:
            yield
        finally:
            server.close()
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)

        async def there() -> None:
            while data := await reader.read(65536):
                far_writer.write(data)
            far_writer.close()

        async def back() -> None:
            # Until the server says 'S' or 'N' to an SSL question there are no framed messages; asyncpg asks none
            # over a Unix socket.
            while True:
                try:
                    head = await far_reader.readexactly(5)
                    body = await far_reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                except asyncio.IncompleteReadError:
                    writer.close()
                    return
                self.count += head[0] == _READY_FOR_QUERY
                writer.write(head + body)

        await asyncio.gather(there(), back())
