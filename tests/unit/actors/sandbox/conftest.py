"""A scripted supervisor for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.actors.sandbox.peer import Inside, scripted


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with scripted() as inside:
        yield inside
