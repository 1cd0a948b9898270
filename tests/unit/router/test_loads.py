"""Loads are counted here and forgotten with time."""

import pytest

from serve_app.router.loads import Loads


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def loads(time: Time) -> Loads:
    return Loads(time)


def test_calls_under_way(loads: Loads) -> None:
    assert loads.in_flight("m") == 0
    loads.began("m")
    loads.began("m")
    loads.ended("m", failed=False)
    assert loads.in_flight("m") == 1
    loads.ended("m", failed=False)
    loads.ended("m", failed=False)
    assert loads.in_flight("m") == 0


def test_latency_is_smoothed_and_grows_stale(loads: Loads, time: Time) -> None:
    assert loads.latency_s("m") is None
    loads.began("m")
    loads.first_byte("m", 1.0)
    assert loads.latency_s("m") == 1.0
    loads.first_byte("m", 2.0)
    assert loads.latency_s("m") == pytest.approx(1.2)
    time.now += 301
    assert loads.latency_s("m") is None
    loads.first_byte("m", 5.0)
    assert loads.latency_s("m") == 5.0


def test_failures_are_a_share_of_the_latest_calls(loads: Loads, time: Time) -> None:
    loads.began("m")
    loads.ended("m", failed=True)
    assert loads.failure_share("m") == pytest.approx(0.5)
    for _ in range(50):
        loads.ended("m", failed=True)
    assert loads.failure_share("m") > 0.95
    time.now += 300
    assert loads.failure_share("m") < 0.06
    loads.ended("m", failed=False)
    assert loads.failure_share("m") < 0.03


def test_it_never_holds_more_than_it_needs(loads: Loads) -> None:
    loads.began("busy")
    for n in range(25_000):
        loads.began(f"m{n}")
        loads.ended(f"m{n}", failed=False)
    assert loads.in_flight("busy") == 1


def test_what_was_never_begun_is_no_error(loads: Loads) -> None:
    loads.first_byte("m", 1.0)
    loads.ended("m", failed=True)
    assert loads.failure_share("m") == 0.0
