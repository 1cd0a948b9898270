"""What is measured of sandboxes, in seconds, bytes and counts, on whatever ground it is put."""

import asyncio
import os
import resource
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvloop

from actors.sandbox.door.cells import CellRequest
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.running import ExecRequest, Output
from serve_app.core.domain.ids import SandboxId, new_sandbox_id
from serve_app.core.errors import AetherError
from tests.bench.sandbox_grounds import Ground, LocalGround

T = TypeVar("T")

_TOKEN = "0" * 32
_WARM_UP = 20
_PATIENCE_S = 60.0
_REST_S = 0.1
"""In which the kernel clears away what it has of the sandbox before: it does that later, beside all else."""
_STREAM = "head -c 2G /dev/zero"
STREAM_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Leased:
    """Seconds from the call until the lease, and until the first byte its first command wrote."""

    lease_s: float
    output_s: float


def in_event_loop(work: Coroutine[object, object, T]) -> T:
    """Under the loop that Ray's actors and Serve's replicas run under."""
    return uvloop.run(work)


async def until_ready(ground: Ground, count: int) -> None:
    """Until so many sandboxes wait, and whatever is started beside them has been started."""
    async with asyncio.timeout(_PATIENCE_S):
        while await ground.stock.ready() < count:
            await asyncio.sleep(0.05)


# --- leases ---


async def lease(ground: Ground) -> tuple[SandboxId, Leased]:
    began = time.perf_counter()
    sandbox = await ground.front.create(ground.caller, None)
    leased_s = time.perf_counter() - began
    client = await ground.front.client(ground.caller, sandbox.id)
    async with client.exec(ExecRequest(argv=["echo", "ready"])) as running:
        async for piece in running:
            if isinstance(piece, Output):
                return sandbox.id, Leased(leased_s, time.perf_counter() - began)
    raise AssertionError("echo wrote nothing")


async def leases(ground: Ground, count: int) -> list[Leased]:
    """One after another, each from a full stock, so that nothing of the one before is still under way."""
    found = []
    for number in range(-3, count):
        await until_ready(ground, ground.profile.warm)
        await asyncio.sleep(_REST_S)
        sandbox_id, leased = await lease(ground)
        if number >= 0:
            found.append(leased)
        await ground.front.delete(ground.caller, sandbox_id)
    return found


async def burst(ground: Ground, count: int) -> tuple[list[float], list[str]]:
    """Seconds of each of `count` leases asked for at once, and what went wrong."""
    await until_ready(ground, ground.profile.warm)

    async def one() -> tuple[SandboxId, float] | str:
        began = time.perf_counter()
        try:
            sandbox = await ground.front.create(ground.caller, None)
        except AetherError as exc:
            return f"{exc.code}: {exc.message}"
        return sandbox.id, time.perf_counter() - began

    found = await asyncio.gather(*(one() for _ in range(count)))
    for answer in found:
        if not isinstance(answer, str):
            await ground.front.delete(ground.caller, answer[0])
    seconds = [answer[1] for answer in found if not isinstance(answer, str)]
    return seconds, [answer for answer in found if isinstance(answer, str)]


# --- in one sandbox that is held ---


async def repeated(action: Callable[[], Awaitable[object]], count: int) -> list[float]:
    for _ in range(_WARM_UP):
        await action()
    found = []
    for _ in range(count):
        began = time.perf_counter()
        await action()
        found.append(time.perf_counter() - began)
    return found


async def programs(client: SandboxClient, count: int) -> list[float]:
    async def run() -> None:
        done = await client.run(["true"])
        assert done.exit_code == 0

    return await repeated(run, count)


async def cells(client: SandboxClient, count: int) -> list[float]:
    async def run() -> None:
        displays = 0
        async with client.cell(CellRequest(code="1+1")) as cell:
            async for _ in cell:
                displays += 1
        assert cell.result.status == "ok"
        assert displays == 1

    return await repeated(run, count)


async def stream(client: SandboxClient) -> float:
    """Bytes a second."""
    began, size = time.perf_counter(), 0
    async with client.exec(ExecRequest(shell=_STREAM)) as running:
        async for piece in running:
            if isinstance(piece, Output):
                size += len(piece.data)
    assert size == STREAM_BYTES
    return size / (time.perf_counter() - began)


# --- cold starts ---


@dataclass(frozen=True)
class Cold:
    """`cpu_s` is of everybody: this process, the spawner, bubblewrap and the supervisor. None: the kernel does not tell."""

    start_s: list[float]
    cpu_s: float | None
    pss_bytes: list[int]
    group_bytes: list[int]


async def cold_starts(ground: LocalGround, count: int) -> Cold:
    """Sandboxes started one after another and held, so that what each used can be read to the last."""
    seconds, held = [], []
    before = _tree_cpu_s()
    try:
        for _ in range(count):
            began = time.perf_counter()
            held.append(await ground.backend.start(new_sandbox_id(), ground.profile, _TOKEN))
            seconds.append(time.perf_counter() - began)
        after = _tree_cpu_s()
        await asyncio.sleep(1)
        pss = [sum(map(_pss_bytes, _with_parent(one.pid))) for one in held if one.pid is not None]
        used = [(await one.usage()).memory_bytes or 0 for one in held]
        return Cold(seconds, (after - before) / count if before and after else None, pss, used)
    finally:
        await asyncio.gather(*(one.destroy() for one in held))


def tree(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for pid in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def _tree_cpu_s() -> float:
    """Of this process and all below it that live."""
    total_ns = 0
    for pid in tree(os.getpid()):
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def _with_parent(pid: int) -> list[int]:
    """A sandbox's processes: its first one, all below it, and bubblewrap, which waits for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(fields[1]), *tree(pid)]


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def allow_many_descriptors() -> None:
    """A burst of leases holds many connections in this one process."""
    hardest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hardest, hardest))
