"""The client against supervisors that follow a script, honest and hostile ones."""

import asyncio

import pytest

from actors.sandbox.door.running import ExecRequest, Output, Started
from actors.sandbox.door.wire import CONTROL, DATA, DATA2, END, EVENT
from serve_app.core.errors import (
    AetherError,
    ConflictError,
    InvalidRequestError,
    NoSuchFileError,
    OverloadedError,
    SandboxLostError,
    SandboxProtocolError,
    TimedOutError,
)
from tests.unit.actors.sandbox.peer import TOKEN, Inside, Json, Peer

LS = ExecRequest(argv=["ls"])


async def _pong(peer: Peer, request: Json) -> None:
    peer.result(uptime_s=1.5, connections=1)


async def _ls(peer: Peer, request: Json) -> None:
    peer.event(event="started", pid=7)
    peer.put(DATA, b"out")
    peer.put(DATA2, b"err")
    peer.exited(3)


async def test_a_program_is_told_as_it_runs(inside: Inside) -> None:
    inside.script = _ls
    client = inside.client()
    async with client.exec(LS) as running:
        pieces = [piece async for piece in running]
        assert pieces == [Started(7), Output("stdout", b"out"), Output("stderr", b"err")]
        assert (running.result.exit_code, running.result.timed_out) == (3, False)
    done = await client.run(["ls"])
    assert (done.stdout, done.stderr, done.exit_code) == (b"out", b"err", 3)
    assert inside.hellos == [{"version": 1, "token": TOKEN}]
    assert inside.requests[0] == {"op": "exec", "argv": ["ls"]}
    assert inside.requests[1]["output_bytes"] == 1024 * 1024
    assert not client.is_busy
    await client.close()


async def test_leaving_a_program_ends_its_connection_and_no_other(inside: Inside) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer, request: Json) -> None:
        peer.event(event="started", pid=7)
        if request["argv"] == ["stay"]:
            await peer.gone()
            gone.set()
        peer.exited()

    inside.script = script
    client = inside.client()
    async with client.exec(ExecRequest(argv=["other"])) as other:
        async with client.exec(ExecRequest(argv=["stay"])) as running:
            assert client.is_busy
            await anext(running)
        await asyncio.wait_for(gone.wait(), 5)
        assert (await other.wait()).exit_code == 0
    await client.close()


async def test_a_cancelled_task_cancels_inside(inside: Inside) -> None:
    gone, started = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer, request: Json) -> None:
        started.set()
        await peer.gone()
        gone.set()

    inside.script = script
    client = inside.client()
    task = asyncio.create_task(client.run(["sleep"]))
    await started.wait()
    task.cancel()
    await asyncio.wait_for(gone.wait(), 5)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not client.is_busy
    await client.close()


async def test_an_idle_connection_that_died_is_replaced(inside: Inside) -> None:
    inside.script = _pong
    client = inside.client()
    await client.ping()
    # Closed while nobody runs the loop: only a look at the socket can tell.
    inside.peers[0].writer.transport.abort()
    await asyncio.sleep(0)
    assert (await client.ping()).uptime_s == 1.5
    assert len(inside.hellos) == 2
    await client.close()


async def test_an_idle_connection_that_speaks_up_is_not_used_again(inside: Inside) -> None:
    inside.script = _pong
    client = inside.client()
    await client.ping()
    inside.peers[0].result(uptime_s=99, connections=1)
    await inside.peers[0].writer.drain()
    assert (await client.ping()).uptime_s == 1.5
    await client.close()


async def test_a_request_that_may_have_been_acted_on_is_not_repeated(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        peer.writer.transport.abort()

    inside.script = script
    client = inside.client()
    with pytest.raises(SandboxLostError):
        await client.mkdir("x")
    assert len(inside.requests) == 1
    await client.close()


async def test_connections_are_bounded_and_waited_for(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        if request["op"] == "ping":
            await asyncio.sleep(0.01)
            peer.result(uptime_s=1, connections=1)
        else:
            await peer.gone()

    inside.script = script
    client = inside.client(most_connections=2, answer_timeout_s=0.3)
    await asyncio.gather(*(client.ping() for _ in range(20)))
    assert len(inside.hellos) == 2
    async with client.exec(LS), client.exec(LS):
        with pytest.raises(OverloadedError):
            await client.ping()
    assert (await client.ping()).connections == 1
    await client.close()


async def test_a_silent_sandbox_is_not_waited_for(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        await peer.gone()

    inside.script = script
    client = inside.client(answer_timeout_s=0.1)
    with pytest.raises(TimedOutError):
        await client.ping()
    assert not client.is_lost
    await client.close()
    with pytest.raises(SandboxLostError):
        await client.ping()


async def test_a_door_that_is_gone_and_a_void_token_lose_the_sandbox(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        peer.error("bad_hello")
        peer.writer.close()

    inside.script = script
    client = inside.client()
    with pytest.raises(SandboxLostError):
        await client.ping()
    assert client.is_lost
    await client.close()
    inside.path += "-other"
    nobody = inside.client()
    with pytest.raises(SandboxLostError):
        await nobody.ping()
    assert nobody.is_lost
    await nobody.close()


async def test_a_refusal_keeps_the_connection(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        peer.error("not_found", "no\x1bsuch")

    inside.script = script
    client = inside.client()
    for _ in range(3):
        with pytest.raises(NoSuchFileError, match="In the sandbox: no"):
            await client.stat("x")
    assert len(inside.hellos) == 1
    await client.close()


async def _more_than_asked(peer: Peer) -> None:
    peer.event(event="started", pid=7)
    peer.put(DATA, bytes(11))


async def _before_start(peer: Peer) -> None:
    peer.put(DATA, b"x")


async def _started_twice(peer: Peer) -> None:
    peer.event(event="started", pid=7)
    peer.event(event="started", pid=7)


async def _end_of_ours(peer: Peer) -> None:
    peer.event(event="started", pid=7)
    peer.put(END)


async def _no_json(peer: Peer) -> None:
    peer.put(EVENT, b"\0\0")


async def _odd_result(peer: Peer) -> None:
    peer.event(event="started", pid=7)
    peer.result(exit_code="0", duration_s=1)


async def _odd_time(peer: Peer) -> None:
    peer.event(event="started", pid=7)
    peer.result(exit_code=0, duration_s=-1)


async def _result_without_start(peer: Peer) -> None:
    peer.exited()


@pytest.mark.parametrize(
    "act",
    [
        _more_than_asked,
        _before_start,
        _started_twice,
        _end_of_ours,
        _no_json,
        _odd_result,
        _odd_time,
        _result_without_start,
    ],
)
async def test_disorder_is_cut_off(inside: Inside, act: object) -> None:
    async def script(peer: Peer, request: Json) -> None:
        assert callable(act)
        await act(peer)

    inside.script = script
    client = inside.client()
    with pytest.raises(SandboxProtocolError):
        await client.run(["x"], output_bytes=10)
    assert not client.is_busy
    await client.close()


async def test_input_is_fed_and_controls_are_sent(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        if request["op"] == "exec" and request.get("stdin"):
            peer.event(event="started", pid=7)
            data = await peer.upload()
            peer.put(DATA, data[::-1])
            peer.exited()
        elif request["op"] == "exec":
            peer.event(event="started", pid=7)
            kind, payload = await peer.frame()
            assert kind == CONTROL
            peer.put(DATA, payload)
            peer.exited()

    inside.script = script
    client = inside.client()
    long = bytes(range(256)) * 4096
    assert (await client.run("tac", stdin=long, output_bytes=len(long))).stdout == long[::-1]
    async with client.exec(LS) as running:
        await anext(running)
        running.signal(15)
        assert await anext(running) == Output("stdout", b'{"do":"signal","signal":15}')
        assert (await running.wait()).exit_code == 0
        running.cancel()
    async with client.exec(LS) as running:
        with pytest.raises(InvalidRequestError):
            await running.write(b"x")
    await client.close()


async def test_a_program_that_ends_without_reading_does_not_hold_its_feeder(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        peer.event(event="started", pid=7)
        peer.exited()
        await peer.gone()

    inside.script = script
    client = inside.client()
    done = await asyncio.wait_for(client.run(["true"], stdin=bytes(20_000_000)), 5)
    assert done.exit_code == 0
    await client.close()


async def test_a_slow_reader_holds_the_sandbox_back(inside: Inside) -> None:
    sent = 0

    async def script(peer: Peer, request: Json) -> None:
        nonlocal sent
        peer.event(event="started", pid=7)
        for _ in range(64):
            peer.put(DATA, bytes(1024 * 1024))
            await peer.writer.drain()
            sent += 1
        peer.exited()

    inside.script = script
    client = inside.client()
    async with client.exec(LS) as running:
        await anext(running)
        await asyncio.sleep(0.1)
        assert sent < 8
        assert (await running.wait()).exit_code == 0
    assert sent == 64
    await client.close()


async def test_a_claim_changes_the_token(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        peer.result()

    inside.script = script
    client = inside.client()
    await client.claim("f" * 32)
    await client.freeze()
    assert [hello["token"] for hello in inside.hellos] == [TOKEN, "f" * 32]
    await client.close()


@pytest.mark.parametrize(("code", "kind"), [("failed", ConflictError), ("timed_out", TimedOutError)])
async def test_a_tunnel_that_cannot_be(inside: Inside, code: str, kind: type[AetherError]) -> None:
    async def script(peer: Peer, request: Json) -> None:
        peer.error(code)

    inside.script = script
    client = inside.client()
    with pytest.raises(kind):
        await client.tunnel(80)
    assert not client.is_busy
    await client.close()


async def test_nothing_or_two_things_to_run_are_refused_here(inside: Inside) -> None:
    client = inside.client()
    both = ExecRequest(argv=["a"], shell="b")  # noqa: S604 - a line for a sandbox's shell
    for request in (ExecRequest(), both):
        with pytest.raises(InvalidRequestError):
            client.exec(request)
    await client.close()
