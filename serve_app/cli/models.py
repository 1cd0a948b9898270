"""`aether models`: what can be called now."""

import json
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from configs.settings import load_settings
from serve_app.cli.client import connect
from serve_app.cli.console import stdout

_ALIAS = "alias"


def run(*, as_json: bool) -> None:
    with connect(load_settings()) as client:
        found = client.models()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        stdout().print(table(found))


def table(models: list[dict[str, Any]]) -> Table:
    """Models first, then aliases."""
    rows = Table("Model", "Of", box=None, pad_edge=False)
    for model in sorted(models, key=lambda one: (one["owned_by"] == _ALIAS, one["id"])):
        rows.add_row(escape(model["id"]), escape(model["owned_by"]))
    return rows
