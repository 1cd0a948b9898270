"""What is written down about requests, and what is not."""

import json

from structlog.testing import capture_logs

from serve_app.core.domain.connectors import Connector, OpenedConnector
from tests.integration.egress.conftest import SECRET
from tests.integration.egress.world import (
    Authority,
    Host,
    World,
    allowing,
    client,
    said,
    world,
)
from tests.unit.actors.sandbox.egress.doubles import until


async def test_what_is_written_down_and_what_is_not(host: Host, authority: Authority) -> None:
    secret = OpenedConnector(Connector("git", f"https://api.example:{host.tls_port}", methods=("POST",)), SECRET)
    async with world(allowing(host), authority, secret) as here:
        with capture_logs() as lines:
            async with client(here, authority) as program:
                url = f"http://a.example:{host.port}/hidden-path?hidden-query=1"
                await program.post(url, content=b"hidden-body", headers={"x-header": "hidden-header"})
                await program.post("http://git.connector/hidden-path?hidden-query", content=b"hidden-body")
                await program.get("http://evil.example/hidden-path")
            await until(lambda: here.desk.counters.requests == 3)
        http, connector, denied = [line for line in lines if line["event"] == "egress"]
        assert http["host"] == "a.example"
        assert http["port"] == host.port
        assert http["address"] == "127.0.0.1"
        assert (http["sandbox_id"], http["org_id"]) == (here.sandbox.id, here.sandbox.org_id)
        assert http["up_bytes"] > 11
        assert http["down_bytes"] > 100
        assert (http["kind"], http["verdict"], http["method"], http["status"]) == ("http", "allowed", "POST", 200)
        assert (connector["kind"], connector["connector"], connector["host"]) == ("connector", "git", "api.example")
        assert (denied["verdict"], denied["reason"], denied["host"]) == ("denied", "host", "evil.example")
        assert "hidden" not in str(lines)
        assert SECRET.decode() not in str(lines)


async def test_a_hostile_name_does_not_break_the_record(here: World) -> None:
    with capture_logs() as lines:
        await said(here, b"CONNECT a\x7f\xff'\"{}%s.example:443 HTTP/1.1\r\nHost: a\r\n\r\n")
        await said(here, b"GET http://" + b"a" * 3000 + b"/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await until(lambda: here.desk.counters.requests == 2)
    assert all(len(json.dumps(line)) < 1000 for line in lines)
