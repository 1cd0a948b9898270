"""Lives of sandboxes in great number, and what the machine has afterwards that it had not before."""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from serve_app.core.domain.ids import SandboxId
from tests.bench.sandbox_grounds import LocalGround
from tests.bench.sandbox_measures import tree

AT_ONCE = 4
_WARM_UP = 40
_SETTLE_S = 10.0
_NAMES = re.compile(r"sbx_[0-9a-z]+|(?<=\[)\d+(?=\])")
_FAMILY = ["sh", "-c", "setsid sleep 1000 & (sleep 1000 &) ; echo x > /work/x; sleep 1000"]


async def cycles(ground: LocalGround, count: int) -> tuple[float, list[str]]:
    """Seconds that `count` lives took, and what is left of them: exactly what was there before, or it is listed."""
    ids = await _live(ground, _WARM_UP)
    before = await _settled(ground.run_dir, ids, None)
    began = time.perf_counter()
    ids |= await _live(ground, count)
    took_s = time.perf_counter() - began
    after = await _settled(ground.run_dir, ids, before)
    return took_s, [
        *(f"+{number} {what}" for what, number in (after - before).items()),
        *(f"-{number} {what}" for what, number in (before - after).items()),
    ]


async def _live(ground: LocalGround, count: int) -> set[SandboxId]:
    """Leased through the database, used by processes that want to outlive everything, and deleted."""
    numbers = iter(range(count))
    ids: set[SandboxId] = set()

    async def lives() -> None:
        for _ in numbers:
            sandbox = await ground.front.create(ground.caller, None)
            ids.add(sandbox.id)
            client = await ground.front.client(ground.caller, sandbox.id)
            await client.start(_FAMILY)
            await ground.front.delete(ground.caller, sandbox.id)

    await asyncio.gather(*(lives() for _ in range(AT_ONCE)))
    return ids


async def _settled(run_dir: Path, ids: set[SandboxId], wanted: Counter[str] | None) -> Counter[str]:
    """What there is, once it is `wanted` or, without that, has stopped to change."""
    deadline = time.monotonic() + _SETTLE_S
    last = Counter(_everything(run_dir, ids))
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        now = Counter(_everything(run_dir, ids))
        if now == (last if wanted is None else wanted):
            return now
        last = now
    return last


def _everything(run_dir: Path, ids: set[SandboxId]) -> Iterator[str]:
    """Names of all that sandboxes could leave on this machine."""
    processes = _ours()
    for pid in processes:
        yield f"process {_command(pid)}"
        for path in _descriptors(pid):
            yield f"descriptor of {_command(pid)}: {path}"
    for pid in processes:
        with suppress(OSError):
            points = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
            # Others mount and unmount too where we share the machine's own view; ours lie in our folder.
            is_own_view = Path(f"/proc/{pid}/ns/mnt").readlink() != Path("/proc/1/ns/mnt").readlink()
            yield from (f"mount in {_command(pid)}: {one}" for one in points if is_own_view or str(run_dir) in one)
    for line in Path("/proc/net/unix").read_text().splitlines():
        if str(run_dir) in line:
            yield f"socket {line.split()[-1]}"
    yield from (f"file {file.relative_to(run_dir)}" for file in run_dir.rglob("*"))
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (f"control group {folder}/{name}" for name in names if name in ids)


def _ours() -> list[int]:
    """This process and everybody below it but PostgreSQL, which starts and ends helpers as it likes.

    Whatever leaves its family in a sandbox is adopted by its first process, or by the spawner: it stays below us.
    """
    return [pid for pid in tree(os.getpid()) if "postgres" not in _command(pid)]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200].strip() if pid != os.getpid() else "us"
    return "gone"


def _descriptors(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield _NAMES.sub("…", str(entry.readlink()))
