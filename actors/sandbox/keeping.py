"""A row that is being started, kept from becoming stale: however long it takes, nobody else begins it meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.sandbox.ports import Registry
from serve_app.core.domain.sandboxes import Sandbox
from serve_app.core.telemetry import get_logger

_EVERY_S = 5.0


@asynccontextmanager
async def kept_starting(registry: Registry, row: Sandbox, *, every_s: float = _EVERY_S) -> AsyncIterator[None]:
    """While the block runs. Should the row pass to another all the same, it is for the block to find that out."""
    keeping = asyncio.create_task(_keep(registry, row, every_s), name=f"start of {row.id}")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep(registry: Registry, row: Sandbox, every_s: float) -> None:
    is_ours = True
    while is_ours:
        await asyncio.sleep(every_s)
        try:
            is_ours = await registry.starting(row.org_id, row.id, row.fence)
        except Exception as exc:  # noqa: BLE001 - it is tried again; a start must not fail for it
            get_logger().warning("start not kept", sandbox_id=row.id, reason=f"{type(exc).__name__}: {exc}")
