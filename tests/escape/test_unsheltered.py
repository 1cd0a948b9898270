"""Every attack without a sandbox, where that is safe: a test that cannot fail would be no test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.escape.attack import Attack, Unshown
from tests.escape.catalogue import ATTACKS
from tests.escape.host import Host, running_host
from tests.escape.strike import unsheltered, works

_SHOWN = [attack for attack in ATTACKS if not isinstance(attack.proof, Unshown)]


@pytest.fixture(scope="module")
async def host() -> AsyncIterator[Host]:
    async with running_host() as made:
        made.neighbour = {"door": str(made.folder / "postgres")}
        yield made


@pytest.mark.parametrize("attack", _SHOWN, ids=lambda attack: attack.name)
async def test_the_attack_works(attack: Attack, host: Host, tmp_path: Path) -> None:
    outcome = await unsheltered(attack, host, tmp_path)
    if outcome is None:
        pytest.skip("Only root can show this one.")
    assert outcome in works(attack.proof)
