"""`aether sandbox` as people type it: its own process, a real server, a real terminal."""

import asyncio
import json
import os
import pty
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Tenant

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class CommandLine:
    environment: dict[str, str]

    def arguments(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "serve_app.cli.app", "sandbox", *words]

    async def __call__(self, *words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        process = await asyncio.create_subprocess_exec(
            *self.arguments(*words), cwd=_ROOT, env=self.environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(stdin), 60)
        assert process.returncode is not None
        return process.returncode, out, err


@pytest.fixture
def aether(place: str, tmp_path: Path, tenant: Tenant) -> CommandLine:
    return CommandLine(
        {
            "PATH": os.environ["PATH"], "TERM": "dumb", "AETHER_CLIENT_URL": f"http://{place}",
            "AETHER_CLIENT_API_KEY": tenant.key, "AETHER_DATA_DIR": str(tmp_path / "data"),
        }
    )  # fmt: skip


async def test_programs_lists_and_removal(aether: CommandLine) -> None:
    line = ["--", "sh", "-c", "cat; echo err >&2; printf '\\377'; exit 3"]
    assert await aether("run", *line, stdin=b"in\x00\xfe") == (3, b"in\x00\xfe\xff", b"err\n")
    assert (await aether("ls"))[1] == b"There are no sandboxes.\n"
    code, _, err = await aether("run", "--keep", "--", "sh", "-c", "echo 1 > kept; kill -9 $$")
    made = err.decode().strip()
    assert (code, made[:4]) == (137, "sbx_")
    assert await aether("run", "--in", made, "--", "cat", "kept") == (0, b"1\n", b"")
    [listed] = json.loads((await aether("ls", "--json"))[1])
    assert (listed["id"], listed["state"]) == (made, "running")
    assert (await aether("rm", made))[0] == 0
    code, _, err = await aether("run", "--in", made, "--", "true")
    assert code == 125
    assert b"has ended: deleted" in err
    code, _, err = await aether("run", "--profile", "none", "--", "true")
    assert code == 125
    assert b"small, other" in err
    assert (await aether("run", "no-such-program"))[0] == 127
    code, _, err = await aether("rm", "sbx_none", made, "sbx_other")
    assert code == 1
    assert b"sbx_none: " in err
    assert b"sbx_other: " in err


async def test_what_follows_the_program_is_its_own(aether: CommandLine) -> None:
    code, out, err = await aether("run", "printf", "%s|", "--keep", "-n", "--", "x")
    assert (code, out, err) == (0, b"--keep|-n|--|x|", b"")


async def test_input_that_is_larger_than_a_request(aether: CommandLine) -> None:
    given = os.urandom(9_000_000)
    assert await aether("run", "--", "cat", stdin=given) == (0, given, b"")
    code, out, err = await aether("run", "--", "sh", "-c", "ls /tmp; exit 4", stdin=given)
    assert (code, out, err) == (4, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_leaving_early_leaves_no_sandbox(aether: CommandLine, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *aether.arguments("run", "--", "sh", "-c", "echo begun; sleep 60"), cwd=_ROOT, env=aether.environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"begun\n"
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), 30) == 128 + number
    assert (await aether("ls"))[1] == b"There are no sandboxes.\n"


async def test_a_shell_without_a_terminal(aether: CommandLine) -> None:
    code, out, err = await aether("shell", stdin=b"echo $((6*7))\nexit 3\n")
    assert code == 3
    assert b"42\r\n" in out
    assert err == b""
    process = await asyncio.create_subprocess_exec(
        *aether.arguments("shell"), cwd=_ROOT, env=aether.environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert err == b""
    assert process.returncode == 0
    code, _, err = await aether("shell", "sbx_none")
    assert code == 1
    assert b"There is no such sandbox. (404, not_found)" in err


async def test_a_terminal(aether: CommandLine) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *aether.arguments("shell"), cwd=_ROOT, env=aether.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)

    def talk() -> bytes:
        seen = b""
        for wanted, typed in (
            (b"$ ", b"echo $((6*7))\n"),
            (b"42\r\n", b"cat\n"),
            (b"cat\r\n", b"\x03"),
            (b"$ ", b"exit 5\n"),
        ):
            at = len(seen)
            while wanted not in seen[at:]:
                seen += os.read(ours, 65536)
            os.write(ours, typed)
        return seen

    await asyncio.wait_for(asyncio.to_thread(talk), 60)
    assert await asyncio.wait_for(process.wait(), 30) == 5
    os.close(ours)
    assert (await aether("ls"))[1] == b"There are no sandboxes.\n"
