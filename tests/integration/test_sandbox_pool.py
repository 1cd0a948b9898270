"""A pool and fronts over real PostgreSQL, real bubblewrap and real supervisors, in the test's own process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.front import Sandboxes
from actors.sandbox.pool import Pool
from actors.sandbox.snapshots.workspaces import StoredWorkspaces
from configs.sandboxes import Profile
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.domain.sandboxes import EndReason, Sandbox, SandboxState, Service
from serve_app.core.errors import AtCapacityError, BudgetExceededError, SandboxEndedError, SandboxLostError
from serve_app.core.stores.objects.disk import DiskObjectStore
from tests.conftest import Tenant
from tests.contract.sandbox_backends import bubblewrap
from tests.doubles.sandboxes import ScriptedMeters
from tests.sandboxes import NODE, LocalPools, front_over, pool_over, profiles_of

_LIMITS = {"cpu": 1, "memory": 256 * 1024**2, "disk": 32 * 1024**2, "inodes": 2000, "processes": 48}
SMALL = Profile.model_validate(
    {"id": "small", "limits": _LIMITS, "warm": 1, "most": 8, "idle_s": 60, "keep_s": 60, "wall_s": 3600}
)
BEAT = Service(name="beat", argv=("sh", "-c", "while :; do date +%N >> /work/beats; sleep 0.02; done"))


class LaterClock(SystemClock):
    """The machine's, ahead of it by as much as a test says."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class Grounds:
    """A node that can be started again, and two fronts that know each other through the rows only."""

    def __init__(self, database: Database, folder: Path, run_dir: Path, tenant: Tenant) -> None:
        self.caller = tenant.caller
        self.clock = LaterClock()
        self.rows = SqlSandboxRepository(database, 32)
        self.meters = ScriptedMeters()
        self.workspaces = StoredWorkspaces(DiskObjectStore(folder), SystemClock(), most_bytes=1024**3)
        self.run_dir = run_dir
        self.profiles = profiles_of(SMALL)
        self.pools = LocalPools({})
        self.front, self.other = (front_over(self.rows, self.pools, self.profiles, self.clock) for _ in range(2))

    @property
    def pool(self) -> Pool:
        return self.pools.pools[NODE]

    async def life(self, until: asyncio.Event) -> None:
        """One life of the node's pool."""
        async with bubblewrap(self.run_dir) as kind:
            pool = pool_over(
                self.rows, self.workspaces, self.profiles, {"bubblewrap": kind.backend},
                meters=self.meters, clock=self.clock,
            )  # fmt: skip
            await pool.start()
            self.pools.pools[NODE] = pool
            tending = asyncio.create_task(pool.run())
            await until.wait()
            tending.cancel()
            await asyncio.gather(tending, return_exceptions=True)
            await pool.close()

    async def state(self, sandbox: Sandbox) -> SandboxState:
        return (await self.rows.get(self.caller.org_id, sandbox.id)).state

    async def until_state(self, sandbox: Sandbox, state: SandboxState) -> None:
        async def is_so() -> bool:
            return await self.state(sandbox) is state

        await until(is_so)

    async def create(self, *services: Service) -> tuple[Sandbox, SandboxClient]:
        made = await self.front.create(self.caller, None, services=services)
        return made, await self.front.client(self.caller, made.id)

    async def client(self, sandbox: Sandbox, front: Sandboxes | None = None) -> SandboxClient:
        return await (front or self.front).client(self.caller, sandbox.id)


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await is_so():
            await asyncio.sleep(0.02)


async def says(client: SandboxClient, line: str) -> str:
    done = await client.run(line, timeout_s=20, merge=True)
    return done.stdout.decode().strip()


async def beats(client: SandboxClient) -> int:
    return int(await says(client, "cat /work/beats 2>/dev/null | wc -l"))


def supervisors() -> list[int]:
    """The first processes of sandboxes that this process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "/opt/aether/supervisor" in process.cmdline():
                found.append(process.pid)
    return found


@pytest.fixture
async def grounds(database: Database, tmp_path: Path, short_dir: Path, tenant: Tenant) -> AsyncIterator[Grounds]:
    grounds = Grounds(database, tmp_path, short_dir / "p", tenant)
    ends = asyncio.Event()
    life = asyncio.create_task(grounds.life(ends))

    async def has_begun() -> bool:
        return bool(grounds.pools.pools) or life.done()

    await until(has_begun)
    await grounds.front.start()
    yield grounds
    await grounds.front.close()
    await grounds.other.close()
    ends.set()
    await life
    assert not list((short_dir / "p").glob("*/sbx_*"))


async def test_files_and_services_survive_sleep_and_storing(grounds: Grounds) -> None:
    made, client = await grounds.create(BEAT)
    await client.write("notes.txt", b"tomatoes")
    grounds.clock.ahead_s += 61
    await grounds.until_state(made, SandboxState.FROZEN)
    # Use wakes it: the very same program goes on.
    client = await grounds.client(made)
    before = await beats(client)
    await asyncio.sleep(0.3)
    assert await beats(client) > before
    grounds.clock.ahead_s += 61
    await grounds.until_state(made, SandboxState.FROZEN)
    grounds.clock.ahead_s += 61
    await grounds.until_state(made, SandboxState.STORED)
    client = await grounds.client(made)
    assert await says(client, "cat /work/notes.txt") == "tomatoes"
    before = await beats(client)
    await asyncio.sleep(0.3)
    assert await beats(client) > before, "its service was started again"


async def test_nothing_runs_in_one_that_sleeps(grounds: Grounds) -> None:
    made, client = await grounds.create(BEAT)
    assert await says(client, "sleep 0.2; echo x") == "x"
    grounds.clock.ahead_s += 61
    await grounds.until_state(made, SandboxState.FROZEN)
    held = await grounds.front.snapshot(grounds.caller, made.id)
    await asyncio.sleep(0.3)
    again = await grounds.front.snapshot(grounds.caller, made.id)
    assert await grounds.state(made) is SandboxState.FROZEN
    # What a snapshot wakes for a moment may beat once or twice, not for all the time between.
    assert again.size_bytes - held.size_bytes <= 5 * 10
    assert grounds.meters.open == 0


async def test_a_snapshot_leaves_programs_running(grounds: Grounds) -> None:
    made, client = await grounds.create(BEAT)
    await grounds.front.snapshot(grounds.caller, made.id)
    before = await beats(client)
    await asyncio.sleep(0.3)
    assert await beats(client) > before


async def test_one_that_is_killed_is_lost_or_comes_back_with_its_snapshot(grounds: Grounds) -> None:
    kept, client = await grounds.create()
    await client.write("kept.txt", b"kept")
    await grounds.front.snapshot(grounds.caller, kept.id)
    await client.write("late.txt", b"late")
    lost, other = await grounds.create()
    running = asyncio.create_task(client.run("sleep 20"))
    await asyncio.sleep(0.2)
    for tenancy in grounds.pool._tenancies.all():
        assert tenancy.started.pid is not None
        os.kill(tenancy.started.pid, signal.SIGKILL)
    with pytest.raises(SandboxLostError) as told:
        await running
    assert told.value.retryable
    with pytest.raises(SandboxLostError):
        await other.run("true")
    await grounds.until_state(kept, SandboxState.STORED)
    row = await grounds.rows.get(grounds.caller.org_id, lost.id)
    assert (row.state, row.end_reason) == (SandboxState.ENDED, EndReason.LOST)
    client = await grounds.client(kept)
    assert await says(client, "ls /work") == "kept.txt"
    with pytest.raises(SandboxEndedError):
        await grounds.client(lost)


async def test_one_that_dies_waiting_is_replaced(grounds: Grounds) -> None:
    async def is_ready() -> bool:
        return grounds.pool.capacity().rooms["small"].warm == 1

    await until(is_ready)
    [ready] = grounds.pool._stocks["small"]._ready
    assert ready.started.pid is not None
    os.kill(ready.started.pid, signal.SIGKILL)

    async def is_another() -> bool:
        return [one.started.id for one in grounds.pool._stocks["small"]._ready] not in ([], [ready.started.id])

    await until(is_another)
    _, client = await grounds.create()
    assert await says(client, "echo hello") == "hello"


async def test_the_token_it_waited_with_opens_nothing_any_more(grounds: Grounds) -> None:
    async def is_ready() -> bool:
        return grounds.pool.capacity().rooms["small"].warm == 1

    await until(is_ready)
    [ready] = grounds.pool._stocks["small"]._ready
    stranger = SandboxClient(dial_unix(str(ready.started.door)), ready.token)
    await stranger.ping()
    _, client = await grounds.create()
    with pytest.raises(SandboxLostError):
        await stranger.ping()
    await stranger.close()
    assert await says(client, "echo hello") == "hello"


async def test_a_burst_is_served_and_never_exceeds_what_there_may_be(grounds: Grounds) -> None:
    async def live() -> str:
        _, client = await grounds.create()
        return await says(client, "echo hello")

    outcomes = await asyncio.gather(*(live() for _ in range(SMALL.most + 3)), return_exceptions=True)
    assert outcomes.count("hello") == SMALL.most
    assert sum(isinstance(one, AtCapacityError) for one in outcomes) == 3
    assert grounds.pool.leased == SMALL.most


async def test_a_fork_goes_its_own_way(grounds: Grounds) -> None:
    made, client = await grounds.create()
    await client.write("a.txt", b"from the first")
    fork = await grounds.front.fork(grounds.caller, made.id)
    twin = await grounds.client(fork)
    assert await says(twin, "cat /work/a.txt") == "from the first"
    await twin.write("a.txt", b"from the fork")
    assert await says(client, "cat /work/a.txt") == "from the first"


async def test_two_fronts_bring_it_back_once(grounds: Grounds) -> None:
    made, client = await grounds.create()
    await client.write("a.txt", b"x")
    await grounds.client(made, grounds.other)
    await grounds.other.pause(grounds.caller, made.id)
    # A client that somebody kept is of no more use; the next that is asked for is another.
    with pytest.raises(SandboxLostError):
        await client.run("true")
    mine, theirs = await asyncio.gather(grounds.client(made), grounds.client(made, grounds.other))
    assert await says(mine, "echo mine > /work/b.txt; cat /work/a.txt") == "x"
    assert await says(theirs, "cat /work/b.txt") == "mine"
    row = await grounds.rows.get(grounds.caller.org_id, made.id)
    assert (row.fence, grounds.pool.leased) == (2, 1)


async def test_deleting_ends_what_runs(grounds: Grounds) -> None:
    made, _ = await grounds.create()
    theirs = await grounds.client(made, grounds.other)
    running = asyncio.create_task(theirs.run("touch begun; sleep 20"))

    async def has_begun() -> bool:
        return bool(await says(theirs, "ls begun 2>/dev/null; true"))

    await until(has_begun)
    await grounds.front.delete(grounds.caller, made.id)
    with pytest.raises(SandboxLostError):
        await asyncio.wait_for(running, 10)
    assert grounds.pool.leased == 0
    with pytest.raises(SandboxEndedError):
        await grounds.client(made, grounds.other)


async def test_a_spent_budget_stores_it(grounds: Grounds) -> None:
    made, client = await grounds.create()
    await client.write("a.txt", b"x")
    grounds.meters.spent = True
    await grounds.until_state(made, SandboxState.STORED)
    with pytest.raises(SandboxLostError):
        await client.run("true")
    with pytest.raises(BudgetExceededError):
        await grounds.client(made)
    grounds.meters.spent = False
    assert await says(await grounds.client(made), "cat /work/a.txt") == "x"


async def test_the_limit_of_time_is_the_end(grounds: Grounds) -> None:
    made, _ = await grounds.create()
    grounds.clock.ahead_s += 3601
    await grounds.until_state(made, SandboxState.ENDED)
    with pytest.raises(SandboxEndedError) as ended:
        await grounds.client(made)
    assert ended.value.details == {"reason": "wall_limit"}


async def test_a_pool_that_closes_keeps_every_workspace_for_the_next(
    database: Database, tmp_path: Path, short_dir: Path, tenant: Tenant
) -> None:
    grounds = Grounds(database, tmp_path, short_dir / "q", tenant)
    made: list[Sandbox] = []
    for number in range(2):
        ends = asyncio.Event()
        grounds.pools.pools.clear()
        life = asyncio.create_task(grounds.life(ends))

        async def has_begun(life: asyncio.Task[None] = life) -> bool:
            return bool(grounds.pools.pools) or life.done()

        await until(has_begun)
        if number == 0:
            for name in "abc":
                sandbox, client = await grounds.create()
                await client.write("name.txt", name.encode())
                made.append(sandbox)
        else:
            clients = await asyncio.gather(*(grounds.client(sandbox, grounds.other) for sandbox in made))
            assert [await says(client, "cat /work/name.txt") for client in clients] == ["a", "b", "c"]
        ends.set()
        await life
        assert {await grounds.state(sandbox) for sandbox in made} == {SandboxState.STORED}
        assert not supervisors()
    await grounds.front.close()
    await grounds.other.close()
