"""Plain requests and streams through the proxy: what the way to a replica costs."""

import asyncio
import time

import httpx

from tests.bench.events import EVENTS
from tests.bench.report import Row, median_and_spread
from tests.e2e.conftest import Platform

SECONDS = 5.0
CLIENTS = 16


async def measure_http(platform: Platform, session: str) -> list[Row]:
    """The load comes from this process, on the same cores. `session` has a log of `EVENTS` events."""
    rows = []
    async with httpx.AsyncClient(
        base_url=platform.url, headers={"authorization": f"Bearer {platform.owner_key}"}, trust_env=False, timeout=30
    ) as client:
        for name, path in (
            ("`GET /healthz`", "/healthz"),
            ("`GET /v1/models`", "/v1/models"),
            ("`GET /api/v1/me`", "/api/v1/me"),
        ):
            single: list[float] = []
            end = time.perf_counter() + SECONDS / 2
            while time.perf_counter() < end:
                began = time.perf_counter()
                (await client.get(path)).raise_for_status()
                single.append((time.perf_counter() - began) * 1000)
            rows.append(Row(f"{name}, one client", median_and_spread(single, "ms", 2)))
            rows.append(Row(f"{name}, {CLIENTS} clients", f"{await _rate(client, path):.0f} requests/s"))
        rows.append(
            Row(f"Session log of {EVENTS} events over SSE", median_and_spread(await _streams(client, session), "ms"))
        )
    return rows


async def _streams(client: httpx.AsyncClient, session: str) -> list[float]:
    """Milliseconds to read a whole log, one after the other."""
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        async with client.stream("GET", f"/api/v1/sessions/{session}/events?follow=false") as response:
            count = sum([line.startswith("data:") async for line in response.aiter_lines()])
        if count < EVENTS:
            raise AssertionError(f"events were lost on the way: {count}")
        taken.append((time.perf_counter() - began) * 1000)
    return taken


async def _rate(client: httpx.AsyncClient, path: str) -> float:
    done = 0
    end = time.perf_counter() + SECONDS

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < end:
            (await client.get(path)).raise_for_status()
            done += 1

    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return done / SECONDS
