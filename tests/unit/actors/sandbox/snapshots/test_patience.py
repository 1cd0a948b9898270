"""Patience with a sandbox grows with what it does."""

import asyncio

import pytest

from actors.sandbox.snapshots.patience import Patience
from serve_app.core.errors import TimedOutError


async def test_patience_ends() -> None:
    with pytest.raises(TimedOutError):
        async with Patience(first_s=0.02):
            await asyncio.sleep(10)


async def test_patience_grows_with_the_work() -> None:
    patience = Patience(first_s=0.02)
    async with patience:
        patience.grow(files=10)
        await asyncio.sleep(0.06)
        patience.grow(size_bytes=1024 * 1024)
        await asyncio.sleep(0.1)


async def test_other_errors_and_cancellations_pass() -> None:
    with pytest.raises(KeyError):
        async with Patience():
            raise KeyError
    task = asyncio.create_task(_wait())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _wait() -> None:
    async with Patience():
        await asyncio.sleep(10)
