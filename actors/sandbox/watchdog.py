"""Holds memory limits where nothing better does: looks at what sandboxes use, often, and ends those that use more."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from actors.sandbox.tenancy import Tenancy
from serve_app.core.errors import AetherError
from serve_app.core.telemetry import get_logger

_LOOK_S = 0.25


async def watch_memory(tenancies: Callable[[], Collection[Tenancy]], end: Callable[[Tenancy], Awaitable[None]]) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(_LOOK_S)
        for tenancy in list(tenancies()):
            try:
                if not tenancy.is_over and await _is_overfull(tenancy):
                    await end(tenancy)
            except Exception as exc:  # noqa: BLE001 - one that cannot be ended must not leave the others unwatched
                get_logger().exception("sandbox not watched", sandbox_id=tenancy.row.id, exc_info=exc)


async def _is_overfull(tenancy: Tenancy) -> bool:
    try:
        usage, limits = await tenancy.started.usage(), tenancy.profile.limits
    except (AetherError, OSError) as exc:
        get_logger().info("sandbox does not tell what it uses", sandbox_id=tenancy.row.id, reason=str(exc))
        return False
    # The workspace lies in memory too.
    return (usage.memory_bytes or 0) > limits.memory + limits.disk
