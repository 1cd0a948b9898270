"""`aether doctor`: every question `up` would ask, answered all at once."""

import asyncio
import os
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.markup import escape

from configs.settings import Settings, SettingsError, load_settings
from serve_app.cli.console import stdout
from serve_app.embedded import preflight
from serve_app.embedded.children import Children
from serve_app.embedded.control import ControlClient
from serve_app.embedded.preflight import Finding
from serve_app.embedded.state import Folders
from serve_app.embedded.userns import namespaces_work


def run() -> None:
    try:
        settings = load_settings()
    except SettingsError as exc:
        bad = Finding(name="Settings", ok=False, message=str(exc), mend="correct or unset the variables above")
        raise typer.Exit(show([bad], stdout())) from None
    raise typer.Exit(show(list(examine(settings)), stdout()))


def examine(settings: Settings, *, min_free_bytes: int = preflight.MIN_FREE_BYTES) -> Iterator[Finding]:
    """All findings for this machine."""
    yield Finding(name="Settings", ok=True, message="every AETHER_* variable is known and good")
    snapshot = ControlClient(Folders(settings.data_dir).control_socket).status()
    if snapshot is not None:
        yield Finding(name="Platform", ok=True, message=f"{snapshot.phase} at {snapshot.base_url}")
    yield from preflight.examine(settings, min_free_bytes=min_free_bytes, is_running=snapshot is not None)
    if os.geteuid() == 0 and not settings.database.url:
        yield _namespaces()


def show(findings: list[Finding], console: Console) -> int:
    """Print them; the exit code is 1 when one is bad."""
    for finding in findings:
        sign = "[green]✓[/]" if finding.ok else "[bold red]✗[/]"
        console.print(f"{sign} {finding.name}: {escape(finding.message)}")
        if not finding.ok and finding.mend:
            console.print(f"  → {escape(finding.mend)}")
    return 0 if all(finding.ok for finding in findings) else 1


def _namespaces() -> Finding:
    async def ask() -> bool:
        children = Children()
        try:
            return await namespaces_work(children)
        finally:
            children.close()

    works = asyncio.run(ask())
    message = "PostgreSQL will run unprivileged in one" if works else "not available; PostgreSQL will run as nobody"
    return Finding(name="User namespaces", ok=True, message=message)
