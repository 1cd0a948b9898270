"""What several integration tests stand on: an API over real sandboxes, served as in production."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.core.db.engine import Database
from serve_app.core.stores.live.redis import RedisLiveEvents
from tests.sandbox_apis import SandboxWorld, sandbox_world, serving


@pytest.fixture
async def world(
    database: Database, live: RedisLiveEvents, tmp_path: Path, short_dir: Path
) -> AsyncIterator[SandboxWorld]:
    async with sandbox_world(database, live, tmp_path, short_dir / "sbx") as world:
        yield world


@pytest.fixture
async def place(world: SandboxWorld) -> AsyncIterator[str]:
    async with serving(world.services) as place:
        yield place
