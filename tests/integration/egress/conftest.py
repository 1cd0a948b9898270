"""A host to reach, and a sandbox that may reach it."""

from collections.abc import AsyncIterator

import pytest

from serve_app.core.domain.connectors import Connector, OpenedConnector
from tests.integration.egress.world import Authority, Host, World, allowing, make_authority, running, world

SECRET = b"sk-0123456789-secret"
NAMES = ("a.example", "b.example", "api.example")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), NAMES)


@pytest.fixture
async def host(authority: Authority) -> AsyncIterator[Host]:
    async with running(Host(), authority) as host:
        yield host


@pytest.fixture
async def here(host: Host, authority: Authority) -> AsyncIterator[World]:
    async with world(allowing(host, "a.example", "b.example", "dead.example"), authority) as here:
        yield here


@pytest.fixture
def git(host: Host) -> OpenedConnector:
    return OpenedConnector(
        Connector("git", f"https://api.example:{host.tls_port}/v3", methods=("GET", "POST"), path_prefixes=("/repos",)),
        SECRET,
    )
