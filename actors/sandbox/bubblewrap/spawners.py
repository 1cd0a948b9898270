"""A spawner for each image: begun when first needed, begun anew when it has died."""

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from actors.sandbox.bubblewrap.image import LAYER, Image
from actors.sandbox.bubblewrap.machine import Machine
from actors.sandbox.bubblewrap.spawning import NotStartedError, Spawning

_COMPILE = (
    "import compileall, os, sys; os.nice(19);"
    "compileall.compile_dir(sys.argv[1], quiet=2, stripdir=sys.argv[1], prependdir=sys.argv[2]); open(sys.argv[3], 'x').close()"
)


class Spawners:
    """Spawners by their image's packages; one that has died is replaced when next needed."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._spawners: dict[tuple[str, ...], tuple[Image, Spawning]] = {}
        self._lock = asyncio.Lock()
        self._compiling: dict[Path, asyncio.subprocess.Process] = {}

    async def find(self, machine: Machine, packages: Sequence[str]) -> tuple[Image, Spawning]:
        key = tuple(sorted(set(packages)))
        async with self._lock:
            if (known := self._spawners.get(key)) and not known[1].is_gone:
                return known
            if known:
                await known[1].close()
            loop = asyncio.get_running_loop()
            try:
                image = await loop.run_in_executor(self._executor, machine.images.make, key, machine.filter)
            except OSError as exc:
                raise NotStartedError(f"The sandboxes' image could not be made: {exc}.") from exc
            self._spawners[key] = image, await Spawning.begin(image.plan)
            await self._compile(image.layer)
            return self._spawners[key]

    async def close(self) -> None:
        for process in self._compiling.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for _, spawning in self._spawners.values():
            await spawning.close()
        self._spawners.clear()

    async def _compile(self, layer: Path) -> None:
        """Beside all else: sandboxes can use the layer at once, and import faster when this is done."""
        done = layer.with_suffix(".compiled")
        if layer in self._compiling or done.exists():
            return
        self._compiling[layer] = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _COMPILE, str(layer), str(LAYER), str(done),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
