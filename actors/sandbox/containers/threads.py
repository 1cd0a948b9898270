"""Blocking work in threads that is never left behind: cancelling who waits for it waits for its end."""

import asyncio
import subprocess
from collections.abc import Callable, Container
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_REMOVAL_S = 60


async def to_its_end(work: Callable[[], T], executor: Executor | None = None) -> T:
    """A thread cannot be stopped; what it makes would be cleared away before it was made. The work must be bounded."""
    running = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise


def remove_folders(parent: Path, *, keep: Container[str]) -> None:
    """Blocks. Every folder in `parent` but those with a name to keep."""
    with suppress(FileNotFoundError):
        for folder in parent.iterdir():
            if folder.name not in keep:
                remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Blocks. Where a container may have written: a tree may be deeper than Python can follow."""
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["rm", "-rf", "--", folder], capture_output=True, timeout=_REMOVAL_S, check=False)
