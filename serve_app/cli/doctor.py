"""`aether doctor`: every question `up` would ask, answered all at once."""

import asyncio
import os
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.markup import escape

from actors.sandbox.backends import abilities
from actors.sandbox.base import Ability, Means
from configs.sandboxes import DEFAULT_PATH, ProfileError, load_profiles
from configs.settings import Settings, SettingsError, load_settings
from serve_app.cli.console import stdout
from serve_app.core.errors import AetherError
from serve_app.core.telemetry.logs import configure_logs
from serve_app.embedded import preflight
from serve_app.embedded.children import Children
from serve_app.embedded.control import ControlClient
from serve_app.embedded.preflight import Finding
from serve_app.embedded.state import Folders
from serve_app.embedded.userns import namespaces_work


def run() -> None:
    # What is found is told as findings; a line of a log beside them would say it twice.
    configure_logs("error", "doctor")
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
    yield from _sandboxes(settings)


def show(findings: list[Finding], console: Console) -> int:
    """Print them; the exit code is 1 when one is bad."""
    for finding in findings:
        sign = "·" if finding.is_note else "[green]✓[/]" if finding.ok else "[bold red]✗[/]"
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


def _sandboxes(settings: Settings) -> Iterator[Finding]:
    """Which limits each backend holds on this machine. It starts a sandbox to know."""
    try:
        profiles = load_profiles(settings.sandbox.profiles or DEFAULT_PATH)
        found = asyncio.run(abilities(profiles, settings))
    except ProfileError as exc:
        yield Finding(name="Sandboxes", ok=False, message=str(exc), mend="correct the file of profiles")
    except AetherError as exc:
        yield Finding(name="Sandboxes", ok=False, message=exc.message, mend=exc.details.get("mend"))
    else:
        used = {profile.backend for profile in profiles.profiles}
        for ability in found:
            yield _sandbox_backend(ability, is_used=ability.backend in used)


def _sandbox_backend(ability: Ability, *, is_used: bool) -> Finding:
    """One that no profile uses may be missing."""
    name = f"Sandboxes by {ability.backend}"
    if not ability.is_usable:
        why = ability.reason if is_used else f"not usable here, and no profile uses it: {ability.reason}"
        return Finding(name=name, ok=not is_used, message=why, is_note=not is_used)
    lines = [
        f"{limit.limit.replace('_', ' ')}: {'not held' if limit.means is Means.NOTHING else limit.means.value}"
        + (f" ({limit.note})" if limit.note else "")
        for limit in ability.limits
    ]
    is_good = not (is_used and ability.missing())
    return Finding(name=name, ok=is_good, message="what holds each limit\n    " + "\n    ".join(lines))
