"""The API with sandboxes that really run: a pool over bubblewrap in the test's own process, served by a real server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from actors.sandbox.ports import Meters
from actors.sandbox.snapshots.workspaces import StoredWorkspaces
from configs.sandboxes import Profile
from serve_app.api.app import build_app
from serve_app.api.deps import Services
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.core.stores.objects.disk import DiskObjectStore
from serve_app.core.telemetry import NullMetrics
from tests.apis import services_of
from tests.contract.sandbox_backends import bubblewrap
from tests.sandboxes import LocalPools, RunningSandboxes, front_over, pool_over, profiles_of

_SMALL = {"cpu": 1, "memory": 256 * 1024**2, "disk": 32 * 1024**2, "inodes": 2000, "processes": 48}
SMALL = Profile.model_validate({"id": "small", "description": "For tests.", "limits": _SMALL, "warm": 1, "most": 8})
OTHER = Profile.model_validate({"id": "other", "limits": _SMALL, "most": 1})


@dataclass
class SandboxWorld:
    """`services` of an API whose sandboxes are `running`."""

    services: Services
    running: RunningSandboxes


@asynccontextmanager
async def sandbox_world(
    database: Database,
    live: RedisLiveEvents,
    folder: Path,
    run_dir: Path,
    *,
    quota: int = 32,
    meters: Meters | None = None,
    profiles: tuple[Profile, ...] = (SMALL, OTHER),
) -> AsyncIterator[SandboxWorld]:
    known = profiles_of(*profiles)
    rows = SqlSandboxRepository(database, quota)
    workspaces = StoredWorkspaces(DiskObjectStore(folder), SystemClock(), most_bytes=1024**3)
    async with bubblewrap(run_dir) as kind:
        pool = pool_over(rows, workspaces, known, {"bubblewrap": kind.backend}, meters=meters)
        await pool.start()
        tending = asyncio.create_task(pool.run())
        pools = LocalPools({pool.capacity().node_id: pool})
        front = front_over(rows, pools, known)
        await front.start()
        try:
            services = services_of(database, live, folder, sandboxes=front, sandbox_rows=rows)
            yield SandboxWorld(services, RunningSandboxes(pool, pools, front))
        finally:
            await front.close()
            tending.cancel()
            await asyncio.gather(tending, return_exceptions=True)
            await pool.close()


@asynccontextmanager
async def serving(services: Services) -> AsyncIterator[str]:
    """`host:port` of a server."""
    app = build_app(services, NullMetrics())
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        if task.done():
            await task
        await asyncio.sleep(0.01)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
