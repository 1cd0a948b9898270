"""Names to judged addresses: rebinding, mixtures, memory, and how much is asked at one time."""

import asyncio

import pytest

from actors.sandbox.egress.errors import HostFailedError
from actors.sandbox.egress.names import Names
from serve_app.core.domain.addresses import Reach
from serve_app.core.errors import EgressDeniedError, TimedOutError
from tests.unit.actors.sandbox.egress.doubles import Hands, ScriptedResolver


def names(resolver: ScriptedResolver, clock: Hands | None = None, *, timeout_s: float = 5.0) -> Names:
    return Names(resolver, Reach(), clock or Hands(), timeout_s=timeout_s)


async def addresses(these: Names, host: str = "a.example") -> list[str]:
    return [str(address) for address in await these.addresses(host, asyncio.Semaphore(4))]


@pytest.mark.parametrize(
    "answer", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "100.100.100.200", "::1", "fd00:ec2::254", "::ffff:8.8.8.8"]
)
async def test_one_address_that_is_not_public_refuses_the_name(answer: str) -> None:
    for answers in ([answer], ["8.8.8.8", answer], [*["8.8.8.8"] * 20, answer]):
        with pytest.raises(EgressDeniedError) as caught:
            await addresses(names(ScriptedResolver(a_example=answers)))
        assert answer not in caught.value.message, "what a name means inside is not for the sandbox"


async def test_rebinding_after_the_memory_ends_is_judged_again() -> None:
    clock, resolver = Hands(), ScriptedResolver(a_example=[["8.8.8.8"], ["127.0.0.1"], ["8.8.4.4"]])
    these = names(resolver, clock)
    assert await addresses(these) == ["8.8.8.8"]
    clock.at += 29.9
    assert await addresses(these) == ["8.8.8.8"]
    clock.at += 0.2
    with pytest.raises(EgressDeniedError):
        await addresses(these)
    clock.at += 2.1
    assert await addresses(these) == ["8.8.4.4"]
    assert len(resolver.asked) == 3


@pytest.mark.parametrize("answer", [[], ["nonsense"], ["8.8.8.8", "nonsense"]])
async def test_no_address_is_no_name(answer: list[str]) -> None:
    with pytest.raises(HostFailedError):
        await addresses(names(ScriptedResolver(a_example=answer)))


async def test_failures_are_remembered_shortly_and_do_not_grow() -> None:
    clock, resolver = Hands(), ScriptedResolver()
    these = names(resolver, clock)
    caught = []
    for _ in range(5):
        with pytest.raises(HostFailedError) as failure:
            await addresses(these)
        caught.append(failure.value)
    assert len(resolver.asked) == 1
    assert len(set(map(id, caught))) == 5, "an exception that is raised twice drags its tracebacks along"


async def test_one_question_at_a_time_about_a_name() -> None:
    resolver = ScriptedResolver(a_example=["8.8.8.8"])
    resolver.gate = asyncio.Event()
    these = names(resolver)
    asking = [asyncio.create_task(addresses(these)) for _ in range(20)]
    await asyncio.sleep(0.01)
    resolver.gate.set()
    assert await asyncio.gather(*asking) == [["8.8.8.8"]] * 20
    assert resolver.asked == ["a.example"]


async def test_a_sandbox_that_asks_for_slow_names_waits_for_itself_only() -> None:
    resolver = ScriptedResolver(ok_example=["8.8.8.8"])
    resolver.gate = asyncio.Event()
    these, turns = names(resolver, timeout_s=0.05), asyncio.Semaphore(2)
    for number in range(4):
        with pytest.raises(TimedOutError):
            await these.addresses(f"slow{number}.example", turns)
    assert resolver.asked == ["slow0.example", "slow1.example"], (
        "a turn comes back when the resolver answers, not before"
    )
    resolver.gate.set()
    assert await addresses(these, "ok.example") == ["8.8.8.8"]
    await asyncio.sleep(0)
    assert not turns.locked()
    await these.close()


async def test_memory_is_bounded() -> None:
    resolver = ScriptedResolver()
    these = names(resolver)
    for number in range(2100):
        with pytest.raises(HostFailedError):
            await addresses(these, f"n{number}.example")
    assert len(these._remembered) == 2048
