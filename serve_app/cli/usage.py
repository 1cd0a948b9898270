"""`aether usage`: what calls to models used and cost."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from configs.settings import load_settings
from serve_app.cli.client import connect
from serve_app.cli.console import stdout

_GROUPINGS = ("model", "day")


def run(*, days: int, as_json: bool) -> None:
    since = datetime.now(UTC) - timedelta(days=days)
    with connect(load_settings()) as client:
        found = {group_by: client.usage(group_by, since) for group_by in _GROUPINGS}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = stdout()
    if not found["model"]:
        console.print(f"No model was called in the last {days} days.")
        return
    for group_by, sums in found.items():
        console.print(table(group_by.capitalize(), sums))
        console.print()


def table(title: str, sums: list[dict[str, Any]]) -> Table:
    rows = Table(title, box=None, pad_edge=False)
    for column in ("Calls", "Tokens read", "of which cached", "Tokens written", "US dollars"):
        rows.add_column(column, justify="right")
    for one in sums:
        tokens = one["tokens"]
        counts = (one["calls"], tokens["input"], tokens["cached"], tokens["output"])
        rows.add_row(escape(one["group"]), *(f"{count:,}" for count in counts), one["cost"])
    return rows
