"""Attacks on what the host does for a sandbox: output without end, time limits, links and archives."""

import asyncio
import io
import os
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil

from actors.sandbox.door.cells import CellRequest
from actors.sandbox.door.running import ExecRequest, Output
from serve_app.core.errors import AetherError, SandboxLostError
from tests.contract.sandbox_backends import Sandbox
from tests.escape.attack import Act, Attack, Category, Naive, Unshown, held
from tests.escape.host import Host

_MIB = 1 << 20
_MOST_GROWTH = 48 * _MIB
_OURS = Unshown("the limit is our own code: without it there is nothing to attack")
_LATE_S = 0.6


async def _refused(step: Awaitable[object]) -> str:
    """The code of the refusal."""
    try:
        await step
    except AetherError as exc:
        return exc.code
    return "done"


# --- floods ---


def _flood(line: str) -> Act:
    async def act(sandbox: Sandbox, host: Host) -> str:
        before = psutil.Process().memory_info().rss
        done = await sandbox.client.run(line, output_bytes=_MIB, timeout_s=15)
        grown = psutil.Process().memory_info().rss - before
        if grown > _MOST_GROWTH:
            return f"done: the host grew by {grown >> 20} MiB"
        return "cut" if done.cut and len(done.stdout) + len(done.stderr) <= _MIB else "done"

    return act


async def _nobody_reads(sandbox: Sandbox, host: Host) -> str:
    """The program waits for the host, not the host's memory for it."""
    before = psutil.Process().memory_info().rss
    async with sandbox.client.exec(
        ExecRequest(argv=["sh", "-c", "yes | head -c 500M; touch /work/through"])
    ) as running:
        await anext(running)
        await asyncio.sleep(0.7)
        grown = psutil.Process().memory_info().rss - before
        is_through = "through" in await sandbox.says("ls /work")
    return "slowed" if grown < _MOST_GROWTH and not is_through else "done"


async def _left_writing(sandbox: Sandbox, host: Host) -> str:
    began = time.monotonic()
    await sandbox.client.run("setsid sh -c 'yes' & exit 0", output_bytes=_MIB, timeout_s=15)
    return "ended" if time.monotonic() - began < 10 else "done"


async def _detached_flood(sandbox: Sandbox, host: Host) -> str:
    detached = await sandbox.client.start("yes")
    await asyncio.sleep(0.5)
    kept = 0
    async with sandbox.client.attach(detached.process) as attached:
        async for piece in attached:
            kept += len(piece.data)
    await sandbox.client.kill(detached.process)
    return "cut" if 0 < kept <= 256 * 1024 else f"done: {kept}"


async def _many_detached(sandbox: Sandbox, host: Host) -> str:
    try:
        for _ in range(40):
            await sandbox.client.start(["sleep", "30"])
    except AetherError as exc:
        return exc.code
    return "done"


def _cell(code: str) -> Act:
    async def act(sandbox: Sandbox, host: Host) -> str:
        before = psutil.Process().memory_info().rss
        written = 0
        async with sandbox.client.cell(CellRequest(code=code, timeout_s=10, output_bytes=_MIB)) as cell:
            async for piece in cell:
                written += len(piece.data) if isinstance(piece, Output) else len(repr(piece))
        grown = psutil.Process().memory_info().rss - before
        return "cut" if written <= 2 * _MIB and grown < _MOST_GROWTH else f"done: {written}"

    return act


FLOODS = Category(
    "Floods of output",
    (
        Attack("endless-output", "Fill the host's memory with lines.", held("cut"), act=_flood("yes | head -c 100M"),
               proof=_OURS),
        Attack("endless-line", "The same with one line that never ends.", held("cut"),
               act=_flood("head -c 100M /dev/zero | tr '\\0' x"), proof=_OURS),
        Attack("both-streams", "The same on both streams by turns.", held("cut"),
               act=_flood("for i in $(seq 60); do head -c 500k /dev/zero; head -c 500k /dev/zero >&2; done"),
               proof=_OURS),
        Attack("unread-output", "The same while the host does not read.", held("slowed"), act=_nobody_reads,
               proof=_OURS, is_alone=True),
        Attack("left-writing", "Keep a call open by a process left behind that holds its output.", held("ended"),
               act=_left_writing, proof=_OURS, is_alone=True),
        Attack("detached-flood", "Fill the supervisor's memory from a detached program.", held("cut"),
               act=_detached_flood, proof=_OURS, is_alone=True),
        Attack("detached-bomb", "More detached programs than anybody can follow.", held("overloaded"),
               act=_many_detached, proof=_OURS, is_alone=True, limits={"processes": 128}),
        Attack("cell-flood", "Fill the host's memory from a cell.", held("cut"),
               act=_cell("for _ in range(100): print('x' * 10**6)"), proof=_OURS, is_alone=True),
        Attack("cell-value", "The same by a cell's value.", held("cut"), act=_cell("'x' * 30_000_000"), proof=_OURS,
               is_alone=True),
        Attack("cell-displays", "The same by thousands of displays.", held("cut"),
               act=_cell("for n in range(2000): display(n)"), proof=_OURS, is_alone=True),
    ),
)  # fmt: skip


# --- time limits ---


_KILLED_OR_ENDS = "killed|sandbox ends"
"""gVisor, slow under load, may lose the whole sandbox over it (seen once in some hundred runs)."""


def _late(program: str, *, timeout_s: float | None = 1.0) -> Act:
    """`program` tries to write /work/late after its time. It runs in Python."""

    async def act(sandbox: Sandbox, host: Host) -> str:
        late = f"def late():\n    import time\n    time.sleep({1.0 + _LATE_S})\n    open('/work/late', 'w').close()\n"
        code = f"import os, signal, time, sys\n{late}{program}"
        try:
            await sandbox.client.run(["python3", "-c", code], timeout_s=timeout_s)
        except SandboxLostError:
            return "sandbox ends"
        await asyncio.sleep(1.0 + _LATE_S)
        left = await sandbox.client.processes()
        is_there = "late" in await sandbox.says("ls /work")
        return "killed" if not is_there and not any("late" in " ".join(one.argv) for one in left) else "done"

    return act


async def _hydra(sandbox: Sandbox, host: Host) -> str:
    code = "import os\nwhile True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass"
    await sandbox.client.run(["python3", "-c", code], timeout_s=0.7)
    await asyncio.sleep(0.3)
    return "killed" if (await sandbox.client.usage()).processes == 0 else "done"


async def _deaf_cell(sandbox: Sandbox, host: Host) -> str:
    code = "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass"
    async with sandbox.client.cell(CellRequest(code=code, timeout_s=0.5)) as cell:
        async for _ in cell:
            continue
    return "killed" if cell.result.status == "interrupted" and cell.result.restarted else "done"


TIME = Category(
    "Time limits",
    (
        Attack("sleep-on", "Run longer than allowed.", held("killed", gvisor=_KILLED_OR_ENDS), act=_late("late()"), proof=_OURS, is_alone=True),
        Attack("deaf", "Ignore every signal that can be ignored.", held("killed", gvisor=_KILLED_OR_ENDS),
               act=_late("for n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\nlate()"),
               proof=_OURS, is_alone=True),
        Attack("double-fork", "Fork twice, in a session of one's own.", held("killed", gvisor=_KILLED_OR_ENDS),
               act=_late("if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        late()\n    os._exit(0)\ntime.sleep(30)"),
               proof=_OURS, is_alone=True),
        Attack("double-fork-and-leave", "The same, and end at once.", held("killed", gvisor=_KILLED_OR_ENDS),
               act=_late("if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        late()\n    os._exit(0)", timeout_s=5),
               proof=_OURS, is_alone=True),
        Attack("kill-keeper", "Kill the process that would kill it.", held("killed", gvisor=_KILLED_OR_ENDS),
               act=_late("os.kill(os.getppid(), 9)\nlate()"), proof=_OURS, is_alone=True),
        Attack("stop-keeper", "Stop the process that would kill it.", held("killed", gvisor=_KILLED_OR_ENDS),
               act=_late("os.kill(os.getppid(), signal.SIGSTOP)\nlate()"), proof=_OURS, is_alone=True),
        Attack("orphan-and-kill-keeper", "Fork twice, then kill the keeper.", held("killed", gvisor=_KILLED_OR_ENDS),
               act=_late("k = os.getppid()\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.kill(k, 9)\n        late()\n    os._exit(0)\ntime.sleep(30)"),
               proof=_OURS, is_alone=True),
        Attack("hydra", "Fork faster than anybody kills.", held("killed"), act=_hydra, proof=_OURS, is_alone=True),
        Attack("deaf-cell", "Ignore being interrupted, in a cell.", held("killed"), act=_deaf_cell, proof=_OURS,
               is_alone=True),
    ),
)  # fmt: skip


# --- links and archives ---


def _path(prepare: str, step: Callable[[Sandbox], Awaitable[object]]) -> Act:
    async def act(sandbox: Sandbox, host: Host) -> str:
        await sandbox.says(prepare)
        return await _refused(step(sandbox))

    return act


def _archive(*members: tuple[str, bytes, str]) -> bytes:
    """Of name, kind, and what a link leads to or a file holds."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, held_by_it in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(held_by_it)
            else:
                info.linkname = held_by_it
            archive.addfile(info, io.BytesIO(held_by_it.encode()))
    return raw.getvalue()


async def _sent(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


def _tar(name: str, wants: str, raw: bytes, refusal: str = "bad_path", naive: Naive | Unshown | None = None) -> Attack:
    async def act(sandbox: Sandbox, host: Host) -> str:
        outcome = await _refused(sandbox.client.untar(_sent(raw), "/work"))
        outside = await sandbox.says("ls -d /tmp/gotcha /home/agent/gotcha /work/gotcha-device 2>/dev/null")
        return f"done: {outside}" if outside else outcome

    return Attack(name, wants, held(refusal), act=act, proof=naive or _unpacked(raw))


def _unpacked(raw: bytes) -> Naive:
    def fall(folder: Path) -> str:
        inner = folder / "inner"
        inner.mkdir()
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            archive.extractall(inner, filter="fully_trusted")  # noqa: S202 - to show that it works
        there = (folder / "gotcha", Path("/tmp/gotcha"))
        found = [path for path in there if path.exists()]
        for path in found:
            path.unlink()
        return "done" if found else "nothing"

    return Naive(fall)


def _opened(folder: Path) -> str:
    (folder / "link").symlink_to("/etc/hostname")
    return "done" if (folder / "link").read_bytes() else "nothing"


_DEVICE = Unshown("it needs root, and a folder for devices")

PATHS = Category(
    "Links and archives",
    (
        Attack("climbing-path", "Have the host read beyond the workspace.", held("bad_path"),
               act=_path("true", lambda one: one.client.read_bytes("../../etc/passwd", max_bytes=99)),
               proof=Naive(_opened)),
        Attack("link-to-system", "Have it read through a link.", held("bad_path"),
               act=_path("ln -sf /etc/passwd /work/link", lambda one: one.client.read_bytes("link", max_bytes=99)),
               proof=Naive(_opened)),
        Attack("link-to-supervisor", "Have the supervisor read its own memory.", held("bad_path"),
               act=_path("ln -sf /proc/self/mem /work/mem", lambda one: one.client.read_bytes("mem", max_bytes=99)),
               proof=Naive(_opened)),
        Attack("link-to-endless", "Have it read without end.", held("bad_path"),
               act=_path("ln -sf /dev/zero /work/zero", lambda one: one.client.read_bytes("zero", max_bytes=99)),
               proof=Naive(_opened)),
        Attack("link-loop", "Have it follow links in a circle.", held("bad_path"),
               act=_path("ln -sfn b /work/a; ln -sfn a /work/b", lambda one: one.client.read_bytes("a", max_bytes=99)),
               proof=_OURS),
        Attack("folder-link", "Have it write through a folder that is a link.", held("bad_path"),
               act=_path("ln -sfn /etc /work/folder", lambda one: one.client.write("folder/gotcha", b"x")),
               proof=Naive(_opened)),
        Attack("pipe-for-file", "Have it wait for a pipe nobody writes to.", held("bad_path"),
               act=_path("rm -f /work/pipe; mkfifo /work/pipe", lambda one: one.client.read_bytes("pipe", max_bytes=99)),
               proof=_OURS),
        Attack("move-out", "Have it move a file out.", held("bad_path"),
               act=_path("echo x > /work/x", lambda one: one.client.move("x", "/etc/gotcha")), proof=_OURS),
        Attack("delete-root", "Have it delete everything.", held("bad_path"),
               act=_path("true", lambda one: one.client.delete("/", recursive=True)), proof=_OURS),
        Attack("delete-through-link", "Have it delete through a link.", held("bad_path"),
               act=_path("ln -sfn /usr /work/usr", lambda one: one.client.delete("usr/bin", recursive=True)),
               proof=_OURS),
        _tar("tar-climbing", "An archive with a name that climbs out.",
             _archive(("../gotcha", tarfile.REGTYPE, "x"))),
        _tar("tar-absolute", "With an absolute name.", _archive(("/tmp/gotcha", tarfile.REGTYPE, "x"))),
        _tar("tar-through-link", "With a link, and a file behind it.",
             _archive(("out", tarfile.SYMTYPE, "/tmp"), ("out/gotcha", tarfile.REGTYPE, "x"))),
        _tar("tar-through-inner-link", "With a link that climbs.",
             _archive(("a/out", tarfile.SYMTYPE, "../.."), ("a/out/gotcha", tarfile.REGTYPE, "x"))),
        _tar("tar-hard-link", "With a second name for a file of the system.",
             _archive(("passwd", tarfile.LNKTYPE, "../etc/passwd")), naive=_OURS),
        _tar("tar-device", "With a device.", _archive(("gotcha-device", tarfile.CHRTYPE, "")), naive=_DEVICE),
        _tar("tar-pipe", "With a pipe.", _archive(("gotcha-device", tarfile.FIFOTYPE, "")), naive=_OURS),
        _tar("tar-cut", "With more promised than there is.", _archive(("x", tarfile.REGTYPE, "x" * 2000))[:1500],
             "invalid_request", naive=_OURS),
        _tar("tar-bomb", "With a file larger than there is room.",
             _archive(("x", tarfile.REGTYPE, "x" * (20 * _MIB))), "sandbox_full", naive=_OURS),
        _tar("tar-nonsense", "With no archive at all.", os.urandom(20_000), naive=_OURS),
    ),
)  # fmt: skip
