"""What is not allowed, what is said about it, and the tricks that do not help."""

import asyncio
import ssl

import httpx
import pytest

from actors.sandbox.egress.names import SystemResolver
from configs.sandboxes import Egress
from serve_app.core.domain.addresses import Reach
from tests.integration.egress.world import (
    Authority,
    Host,
    World,
    allowing,
    client,
    said,
    world,
)
from tests.unit.actors.sandbox.egress.doubles import ScriptedResolver, until


async def test_refusals_say_what_and_how_to_mend_it(here: World, authority: Authority) -> None:
    async with client(here, authority) as program:
        answer = await program.get("http://evil.example/")
        assert answer.status_code == 403
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text == (
            "egress_denied: host evil.example is not in the profile's allowlist. "
            "Allowed: a.example, b.example, dead.example. The operator allows more in `egress.allow` of the profile.\n"
        )
        # A tunnel's refusal is shown by most tools as its status line only.
        with pytest.raises(httpx.ProxyError, match=r"403 host evil\.example is not in the profile's allowlist\."):
            await program.get("https://evil.example/")
    assert isinstance(here.resolver, ScriptedResolver)
    assert not here.resolver.asked, "what is not allowed is not resolved: a name can carry data out"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        *(
            (f"GET http://{literal}/ HTTP/1.1", 403)
            for literal in ("127.0.0.1", "0x7f.1", "2130706433", "[::1]", "0177.1")
        ),
        *((f"CONNECT {literal}:443 HTTP/1.1", 403) for literal in ("127.1", "[::ffff:127.0.0.1]", "169.254.169.254.")),
        ("GET http://a.example@evil.example/ HTTP/1.1", 403),
        ("CONNECT a.example:22 HTTP/1.1", 403),
        ("GET / HTTP/1.1", 400),
        ("GET https://a.example/ HTTP/1.1", 400),
        ("CONNECT a.example HTTP/1.1", 400),
        ("GET http://a.example/ HTTP/2.0", 400),
        ("NONSENSE", 400),
        ("GET http://a.example/" + "x" * 20_000 + " HTTP/1.1", 400),
        ("GET http://gone.b.example/ HTTP/1.1", 403),
        ("GET http://dead.example:443/ HTTP/1.1", 502),
    ],
)
async def test_requests_and_their_answers(here: World, request_line: str, status: int) -> None:
    answer = await said(here, f"{request_line}\r\nHost: a.example\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ")[1] == str(status).encode(), answer


async def test_smuggled_requests_are_judged_like_others(here: World, host: Host) -> None:
    head = f"POST http://a.example:{host.port}/ HTTP/1.1\r\nHost: a.example\r\n".encode()
    inner = b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    answer = await said(
        here,
        head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0\r\n\r\n" + inner,
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert answer.count(b"HTTP/1.1 403 ") == 1
    assert [heard.body for heard in host.heard] == [b""]
    assert "content-length" not in host.heard[0].headers


async def test_fronting_through_one_allowed_name_to_another(here: World, host: Host, authority: Authority) -> None:
    for name in ("b.example", "evil.example"):
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(f"CONNECT a.example:{host.tls_port} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
            await writer.start_tls(authority.client, server_hostname=name)
        writer.close()
    assert not host.heard
    await until(lambda: here.desk.counters.denied == 2)
    assert here.desk.counters.up_bytes == 0


async def test_rebinding_and_names_that_lead_inside(host: Host, authority: Authority) -> None:
    resolver = ScriptedResolver(
        a_example=["127.0.0.1"], b_example=["8.8.8.8", "10.0.0.1"], api_example=["64:ff9b::a9fe:a9fe"]
    )
    egress = allowing(host, "a.example", "b.example", "api.example")
    async with world(egress, authority, resolver=resolver, reach=Reach()) as here:
        for name in ("a.example", "b.example", "api.example"):
            answer = await said(here, f"CONNECT {name}:{host.tls_port} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            assert f"403 host {name} resolves to an address that is not on the public internet." in answer.decode()
    assert host.connections == 0


async def test_the_machine_itself_is_refused_by_whatever_address(host: Host, authority: Authority) -> None:
    """Its own public address leads past the firewall to services that trust it; here 127.0.0.1 stands for that."""

    class AllPublic(Reach):
        def allows(self, address: object) -> bool:
            return True

    async with world(allowing(host), authority, reach=AllPublic()) as here:
        answer = await said(here, f"CONNECT a.example:{host.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert b"403 host a.example is the machine the sandbox runs on." in answer
    assert host.connections == 0


async def test_the_system_resolver(host: Host, authority: Authority) -> None:
    egress = Egress.model_validate({"allow": ("no-such-name.invalid",), "ports": (80,)})
    async with world(egress, authority, resolver=SystemResolver(), reach=Reach()) as here:
        answer = await said(here, b"GET http://no-such-name.invalid/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"502 host no-such-name.invalid does not resolve" in answer
    resolver = SystemResolver()
    assert "127.0.0.1" in await resolver.resolve("localhost")
    resolver.close()
