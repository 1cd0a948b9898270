"""What a supervisor that has been taken over sends to the host: cut off, at once, by the right error."""

import asyncio

import psutil
import pytest

from serve_app.core.errors import AetherError
from tests.escape.attacks.client import LIES, SERVED, Lie
from tests.unit.actors.sandbox.peer import scripted

_MOST_GROWTH_BYTES = 64 * 1024 * 1024


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
async def test_the_lie_ends_the_call(lie: Lie) -> None:
    before = psutil.Process().memory_info().rss
    async with scripted() as inside:
        inside.script = lie.script
        client = inside.client(answer_timeout_s=lie.answer_timeout_s)
        try:
            async with asyncio.timeout(10):
                await lie.call(client)
            outcome = SERVED
        except AetherError as exc:
            outcome = exc.code
        finally:
            await client.close()
    assert outcome == lie.ends
    assert psutil.Process().memory_info().rss - before < _MOST_GROWTH_BYTES
