"""The checklist of a start on the terminal: redrawn in place on a TTY, one plain line per finished step elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from serve_app.cli.console import seconds
from serve_app.embedded.board import Snapshot, Step

_MARKS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "external": "[cyan]↗[/]", "waiting": "[dim]·[/]"}


class Checklist:
    """Shows snapshots as they come. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._snapshot: Snapshot | None = None
        self._at = time.monotonic()
        self._spinners: dict[str, Spinner] = {}
        self._said: set[tuple[str, str]] = set()
        self._live = (
            Live(console=console, get_renderable=self._draw, refresh_per_second=10) if _draws(console) else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        self._snapshot, self._at = snapshot, time.monotonic()
        if self._live:
            self._live.refresh()
            return
        for step in snapshot.steps:
            if step.state in {"done", "failed", "external"} and (step.key, step.state) not in self._said:
                self._said.add((step.key, step.state))
                detail = f"  {escape(step.message)}" if step.message else ""
                self._console.print(f"{_MARKS[step.state]} {step.title}  {seconds(step.seconds)}{detail}")

    def _draw(self) -> Table:
        table = Table.grid(padding=(0, 1))
        if self._snapshot:
            since = time.monotonic() - self._at
            for step in self._snapshot.steps:
                table.add_row(*self._row(step, since))
        return table

    def _row(self, step: Step, since_s: float) -> tuple[Spinner | str, str, Text, str]:
        running = step.state == "started"
        took_s = (step.seconds or 0.0) + since_s if running else step.seconds
        sign = self._spinners.setdefault(step.key, Spinner("dots", style="cyan")) if running else _MARKS[step.state]
        title = f"[dim]{step.title}[/]" if step.state == "waiting" else step.title
        return sign, title, Text(seconds(took_s), justify="right", style="dim"), escape(step.message or "")


def _draws(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal
