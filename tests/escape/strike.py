"""How an attack is run, inside a sandbox and without one, and what its outcome was."""

import asyncio
import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.sandbox.bubblewrap.program import bubblewrap_program
from serve_app.core.errors import SandboxLostError
from tests.contract.sandbox_backends import Sandbox
from tests.escape.attack import Attack, Naive, Plain, Proof, Unshown, Weak
from tests.escape.host import Host

_RUNNER = (Path(__file__).parent / "inside.py").read_text(encoding="utf-8")
_OUTCOME = "OUTCOME "
ENDS = "sandbox ends"
"""The attacker has lost his own sandbox."""
_UNSHELTERED_S = 30


async def strike(attack: Attack, sandbox: Sandbox, host: Host) -> str:
    """The outcome inside. `AssertionError` when the host's secret came out."""
    if attack.act is not None:
        return await attack.act(sandbox, host)
    command = ["python3", *_runner(host.world(), attack)]
    try:
        done = await sandbox.client.run(command, timeout_s=attack.timeout_s, merge=True)
    except SandboxLostError:
        return ENDS
    said = done.stdout.decode(errors="replace")
    assert host.secret not in said, "the host's secret was read"
    if done.timed_out:
        return "timed out"
    return _outcome(said, done.signal, done.exit_code)


async def unsheltered(attack: Attack, host: Host, folder: Path) -> str | None:
    """The outcome without a sandbox. None: it cannot be shown here."""
    match attack.proof:
        case Unshown():
            return None
        case Naive(fall):
            return fall(folder)
        case Plain(user=user) if os.geteuid() != 0 and user != "self":
            return None
        case Plain(user="nobody"):
            return await _run(attack, host, [_public_python()], user="nobody", cwd=Path("/tmp"))
        case Plain():
            return await _run(attack, host, [sys.executable], cwd=folder)
        case Weak():
            return await _run(attack, host, [*_weak_sandbox(), sys.executable], cwd=folder)


def _runner(world: Mapping[str, object], attack: Attack) -> list[str]:
    body = textwrap.indent(textwrap.dedent(attack.program).strip(), "    ")
    return ["-I", "-S", "-c", _RUNNER, json.dumps(world), body]


def works(proof: Proof) -> Sequence[str]:
    """The outcomes that show that an attack works where nothing stops it."""
    return proof.works.split("|") if isinstance(proof, Plain | Weak) else ["done"]


async def _run(attack: Attack, host: Host, python: Sequence[str], *, cwd: Path, user: str | None = None) -> str:
    world = host.world()
    # There is no supervisor here; a process of the host's stands for it.
    world["victim"] = world["pid"]
    command = [*python, *_runner(world, attack)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL,
        cwd=cwd, user=user, group="nogroup" if user else None, extra_groups=[] if user else None,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(process.communicate(), _UNSHELTERED_S)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    code = process.returncode or 0
    return _outcome(said.decode(errors="replace"), -code if code < 0 else None, code)


def _outcome(said: str, killed_by: int | None, exit_code: int | None) -> str:
    told = [line.removeprefix(_OUTCOME) for line in said.splitlines() if line.startswith(_OUTCOME)]
    if told:
        return told[-1]
    if killed_by:
        return signal.Signals(killed_by).name
    return f"exit {exit_code}: {said[-600:]}" if said else f"exit {exit_code}"


def _weak_sandbox() -> list[str]:
    return [
        str(bubblewrap_program()), "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
        "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--die-with-parent", "--dev-bind", "/", "/", "--proc", "/proc",
    ]  # fmt: skip


def _public_python() -> str:
    """One that nobody may run: a home folder's interpreter is behind a closed door."""
    return shutil.which("python3", path="/usr/bin:/bin") or sys.executable
