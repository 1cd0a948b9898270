"""A supervisor for each test, outside of any sandbox."""

from collections.abc import Iterator

import pytest

from tests.unit.actors.sandbox.inside.peer import Peer, RunningSupervisor


@pytest.fixture
def supervisor() -> Iterator[RunningSupervisor]:
    running = RunningSupervisor()
    yield running
    running.close()


@pytest.fixture
def peer(supervisor: RunningSupervisor) -> Iterator[Peer]:
    with supervisor.connect() as connection:
        yield connection
