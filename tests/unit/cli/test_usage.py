"""What the command line shows of models and their use."""

import io
from datetime import UTC, datetime

import httpx
from rich.console import Console
from rich.table import Table

from serve_app.cli import models, usage
from serve_app.cli.client import PlatformClient

SUM = {"group": "small[x]", "calls": 1200, "cost": "0.000000150"}
SUM_TOKENS = {"input": 12_000, "output": 3, "cached": 4, "cache_written": 0, "reasoning": 0}


def drawn(table: Table) -> list[list[str]]:
    out = io.StringIO()
    Console(file=out, width=120, highlight=False).print(table)
    return [line.split() for line in out.getvalue().splitlines()]


def test_sums_are_one_line_each() -> None:
    rows = drawn(usage.table("Model", [{**SUM, "tokens": SUM_TOKENS}]))
    assert rows[1] == ["small[x]", "1,200", "12,000", "4", "3", "0.000000150"]


def test_aliases_come_after_models() -> None:
    listed = [{"id": "auto", "owned_by": "alias"}, {"id": "z", "owned_by": "me"}, {"id": "a", "owned_by": "me"}]
    assert [row[0] for row in drawn(models.table(listed))[1:]] == ["a", "z", "auto"]


def test_what_is_asked_of_the_platform() -> None:
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(200, json={"items": [SUM], "data": []})

    with PlatformClient("http://platform", "aek_k", transport=httpx.MockTransport(answer)) as client:
        assert client.models() == []
        assert client.usage("day", datetime(2026, 1, 1, tzinfo=UTC)) == [SUM]
    assert asked[0].path == "/v1/models"
    assert dict(asked[1].params) == {"group_by": "day", "from": "2026-01-01T00:00:00+00:00"}
