"""Plain requests through the proxy: what the way to a replica costs."""

import asyncio
import time

import httpx

from tests.bench.report import Row, median_and_spread
from tests.e2e.conftest import Platform

SECONDS = 5.0
CLIENTS = 16


async def measure_http(platform: Platform) -> list[Row]:
    """The load comes from this process, on the same cores."""
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
    return rows


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
