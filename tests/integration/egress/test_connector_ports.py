"""A connector is reached at its own port only: its name is no way past the allowlist."""

import pytest

from serve_app.core.domain.connectors import OpenedConnector
from tests.integration.egress.world import Authority, Host, allowing, said, world


@pytest.mark.parametrize("name", ["git", "anything-at-all"])
@pytest.mark.parametrize("port", [22, 443, 8443])
async def test_no_tunnel_leads_to_a_connectors_name(
    host: Host, authority: Authority, git: OpenedConnector, name: str, port: int
) -> None:
    async with world(allowing(host), authority, git) as here:
        target = f"{name}.connector:{port}"
        answer = await said(here, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 connectors are called in plain HTTP")
    assert not host.heard
