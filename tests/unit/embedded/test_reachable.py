"""Other people's servers: found in their URL, and said to be missing when they are."""

import asyncio
from pathlib import Path

import pytest

from serve_app.embedded import reachable
from serve_app.embedded.failures import StartError
from serve_app.embedded.ports import free_port


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("postgresql://me:secret@db.example/aether", ("db.example", 5432)),
        ("postgresql://me@/aether?host=/run/pg", "/run/pg/.s.PGSQL.5432"),
        ("rediss://:pw@cache:6380/0", ("cache", 6380)),
        ("unix:///run/valkey.sock", "/run/valkey.sock"),
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
    ],
)
def test_endpoints(url: str, target: tuple[str, int] | str) -> None:
    assert reachable.endpoint(url, 6379 if "postgresql" not in url else 5432) == target


async def test_a_server_that_is_missing_is_named_without_its_password() -> None:
    port = free_port()
    with pytest.raises(StartError) as caught:
        await reachable.check("AETHER_REDIS_URL", f"redis://:hunter2@127.0.0.1:{port}", 6379)
    assert "AETHER_REDIS_URL" in caught.value.message
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "hunter2" not in caught.value.message
    with pytest.raises(StartError, match="cannot be reached"):
        await reachable.check("AETHER_REDIS_URL", f"unix://{Path('/no/such.sock')}", 6379)


async def test_a_server_that_answers() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await reachable.check("AETHER_RAY_ADDRESS", f"127.0.0.1:{port}", 6379)
