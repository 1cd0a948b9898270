"""What honest programs may leave in a workspace, and the host's client has bounds for: told within them, or left out."""

import os
from pathlib import Path

from actors.sandbox.door.cells import CellRequest, Display
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.snapshots.workspaces import StoredWorkspaces
from serve_app.core.clock import SystemClock
from serve_app.core.domain.ids import new_org_id, new_sandbox_id
from serve_app.core.stores.objects.disk import DiskObjectStore
from tests.unit.actors.sandbox.inside.peer import TOKEN, RunningSupervisor

_DEEP = "import os\nfor _ in range(45): os.mkdir('d' * 100); os.chdir('d' * 100)\nopen('last', 'w').write('needle')"


def client_of(supervisor: RunningSupervisor) -> SandboxClient:
    return SandboxClient(dial_unix(supervisor.door), TOKEN)


async def test_a_tree_deeper_than_paths_are_long(supervisor: RunningSupervisor, tmp_path: Path) -> None:
    client = client_of(supervisor)
    assert (await client.run(["python3", "-c", _DEEP])).exit_code == 0
    await client.write("kept", b"needle")
    async with client.list(depth=100) as entries:
        told = [entry.path async for entry in entries]
    assert (len(told), entries.cut) == (41, True)
    async with client.search("needle") as matches:
        assert [match.path async for match in matches] == ["kept"]
    workspaces = StoredWorkspaces(DiskObjectStore(tmp_path), SystemClock(), most_bytes=2**20)
    snapshot = await workspaces.capture(client, new_org_id(), new_sandbox_id(), None)
    assert (snapshot.files, client.is_lost) == (41, False)
    await client.close()


async def test_files_of_other_centuries(supervisor: RunningSupervisor) -> None:
    late = supervisor.roots["work"] / "late"
    late.write_text("x")
    os.utime(late, (0, 10_413_792_000))
    assert late.stat().st_mtime_ns >= 2**63
    client = client_of(supervisor)
    assert (await client.stat("late")).mtime_ns == 2**63 - 1
    assert await client.read_bytes("late", max_bytes=10) == b"x"
    await client.close()


async def test_numbers_longer_than_json_has_them_elsewhere(supervisor: RunningSupervisor) -> None:
    shows = "def _repr_mimebundle_(self, **_): return {'application/json': [{'a': 10**400}], 'text/plain': 'many'}"
    client = client_of(supervisor)
    async with client.cell(CellRequest(code=f"class A:\n    {shows}\nA()", timeout_s=20)) as cell:
        assert [piece async for piece in cell] == [Display({"text/plain": "many"})]
    assert not client.is_lost
    await client.close()
