"""The outbox relay: hands what transactions left behind to the broker, at least once and in order."""

import asyncio

import orjson

from serve_app.core.db.repositories.outbox import SqlOutboxRepository
from serve_app.core.errors import UnavailableError
from serve_app.core.stores.live.base import LiveEvents
from serve_app.core.telemetry import Metrics, get_logger

STREAM = "outbox"
_BATCH = 200


class OutboxRelay:
    """Publishes to the stream `outbox`: fields `id`, `org`, `topic`, `payload` (JSON). A receiver drops known ids."""

    def __init__(self, outbox: SqlOutboxRepository, live: LiveEvents, metrics: Metrics, every_s: float = 1.0) -> None:
        self._outbox = outbox
        self._live = live
        self._metrics = metrics
        self._every_s = every_s

    async def run(self) -> None:
        """Relay until cancelled."""
        while True:
            try:
                moved = await self.relay_once()
            except UnavailableError as exc:
                get_logger().warning("outbox waits", reason=exc.message)
                moved = 0
            if moved < _BATCH:
                await asyncio.sleep(self._every_s)

    async def relay_once(self) -> int:
        """Publish one batch; returns how many rows."""
        async with self._outbox.take(_BATCH) as rows:
            for row in rows:
                await self._live.append(
                    STREAM,
                    {
                        "id": b"%d" % row.id,
                        "org": row.org_id.encode(),
                        "topic": row.topic.encode(),
                        "payload": orjson.dumps(row.payload),
                    },
                )
                self._metrics.count("aether_outbox_published", topic=row.topic)
        return len(rows)
