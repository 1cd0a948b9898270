"""Mock providers that run as processes, started once a run."""

from collections.abc import Iterator

import pytest

from tests.doubles.aimock import Aimock, running_aimock
from tests.doubles.llmock import Llmock, running_llmock


@pytest.fixture(scope="session")
def llmock_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llmock]:
    with running_llmock(tmp_path_factory.mktemp("llmock")) as running:
        yield running


@pytest.fixture
def llmock(llmock_process: Llmock) -> Llmock:
    llmock_process.reset()
    return llmock_process


@pytest.fixture(scope="session")
def aimock_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    with running_aimock(tmp_path_factory.mktemp("aimock")) as running:
        yield running


@pytest.fixture
def aimock(aimock_process: Aimock) -> Aimock:
    aimock_process.reset()
    return aimock_process
