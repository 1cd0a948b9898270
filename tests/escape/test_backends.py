"""Every attack, on every backend that can be had here: refused exactly as it should be, and the host unharmed."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from configs.sandboxes import BackendName
from tests.contract.sandbox_backends import BACKENDS as KINDS
from tests.contract.sandbox_backends import Kind, Sandbox
from tests.escape.attack import BACKENDS, Attack, NotApplicable
from tests.escape.catalogue import ATTACKS
from tests.escape.host import Host, running_host
from tests.escape.strike import strike

_NEIGHBOUR_S, _TRIES = 1.0, 3
"""This machine may be busy with more than us, so one slow answer is no harm, and three are."""
_PORT, _KEY = 8080, 4711
_NEIGHBOUR = f"""
import ctypes, socket, time
libc = ctypes.CDLL(None)
libc.shmget({_KEY}, 4096, 0o1666)
socket.create_server(("127.0.0.1", {_PORT}))
one = socket.socket(socket.AF_UNIX); one.bind("\\0next-door"); one.listen()
held = [socket.create_server(("127.0.0.1", {_PORT + 1})), one]
open("/tmp/ready", "w").close()
time.sleep(3600)
"""


@pytest.fixture(scope="module", params=BACKENDS)
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[Kind]:
    folder = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    try:
        async with KINDS[request.param](folder) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
async def host(kind: Kind) -> AsyncIterator[Host]:
    async with running_host() as made:
        yield made


@pytest.fixture(scope="module")
async def neighbour(kind: Kind, host: Host) -> AsyncIterator[Sandbox]:
    """It has something of everything that could be reached from next door."""
    async with kind.running() as sandbox:
        await sandbox.client.start(["python3", "-c", _NEIGHBOUR, "next-door"])
        async with asyncio.timeout(20):
            while "ready" not in await sandbox.says("touch /work/next-door /tmp/next-door; ls /tmp"):
                await asyncio.sleep(0.05)
        host.neighbour = {"door": str(sandbox.started.door), "port": _PORT + 1, "key": _KEY}
        yield sandbox


@pytest.fixture(scope="module")
async def attacker(kind: Kind, neighbour: Sandbox) -> AsyncIterator[Sandbox]:
    """For attacks that leave their sandbox as it was."""
    async with kind.running() as sandbox:
        yield sandbox


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_the_attack_is_held(
    attack: Attack, kind: Kind, host: Host, neighbour: Sandbox, attacker: Sandbox
) -> None:
    name: BackendName = kind.profile["backend"]
    refusal = attack.refusals[name]
    if isinstance(refusal, NotApplicable):
        return
    if attack.is_alone:
        async with kind.running(**attack.limits) as sandbox:
            outcome = await strike(attack, sandbox, host)
            await _answers(neighbour)
    else:
        outcome = await strike(attack, attacker, host)
        await attacker.client.ping()
        await neighbour.client.ping()
    assert outcome in refusal.outcomes
    host.assert_unharmed()


async def _answers(sandbox: Sandbox) -> None:
    for left in reversed(range(_TRIES)):
        try:
            async with asyncio.timeout(_NEIGHBOUR_S):
                assert await sandbox.says("cat /proc/self/comm") == "cat"
            return  # noqa: TRY300 - the only way out but the error
        except TimeoutError:
            if not left:
                raise


async def test_the_backend_goes_on(kind: Kind) -> None:
    """After all of them."""
    async with kind.running() as sandbox:
        assert await sandbox.says("echo alive") == "alive"
