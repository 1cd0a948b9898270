"""`aether status`: what runs on this machine, process by process."""

import json
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from configs.settings import load_settings
from serve_app.cli.console import seconds, size, stdout
from serve_app.embedded import processes
from serve_app.embedded.board import Snapshot
from serve_app.embedded.control import ControlClient
from serve_app.embedded.failures import StartError
from serve_app.embedded.state import Folders

_SANDBOX = "sandbox"
_COMPONENTS = (
    ("serve_app.embedded.supervisor", "supervisor"),
    ("serve_app.main", "deployer"),
    ("ray/dashboard/dashboard.py", "ray dashboard"),
    ("valkey-server", "valkey"),
    ("ray/_private/workers/", "ray worker (idle)"),
)


def run(*, as_json: bool) -> None:
    folders = Folders(load_settings().data_dir)
    snapshot = ControlClient(folders.control_socket).status()
    if snapshot is None and (left := folders.leftovers()):
        raise StartError(
            f"An earlier start did not finish; {len(left)} of its processes still run.", mend="aether down"
        )
    if as_json:
        typer.echo(json.dumps(report(snapshot), indent=2))
    elif snapshot is None:
        stdout().print("Not running. Start it with [bold]aether up[/].")
    else:
        _show(snapshot)
    if snapshot is None or snapshot.phase != "ready":
        raise typer.Exit(1)


def report(snapshot: Snapshot | None) -> dict[str, Any]:
    """The same for programs."""
    if snapshot is None:
        return {"phase": "stopped"}
    rows = family(snapshot.pid)
    return {
        **snapshot.model_dump(exclude={"owner_api_key"}),
        "processes": rows,
        "rss_bytes": sum(row["rss_bytes"] for row in rows),
    }


def family(supervisor_pid: int) -> list[dict[str, Any]]:
    """The supervisor and everything below it. What runs in sandboxes may call itself anything, and is `sandbox`."""
    pids = [supervisor_pid, *sorted(processes.descendants([supervisor_pid]))]
    titles = {pid: processes.title(pid) for pid in pids}
    doors = [pid for pid, title in titles.items() if component(title) == "bwrap"]
    inside = {*doors, *processes.descendants(doors)}
    rows = [
        {
            "component": _SANDBOX if pid in inside else component(title),
            "pid": pid,
            "rss_bytes": processes.rss_bytes(pid),
        }
        for pid, title in titles.items()
        if processes.start_ticks(pid) is not None
    ]
    return sorted(rows, key=lambda row: str(row["component"]))


def component(title: str) -> str:
    """What a command line is, in the platform's own words."""
    first = title.split(" ", maxsplit=1)[0]
    name = Path(first.rstrip(":")).name
    if title.startswith("ray::"):
        return first.removeprefix("ray::").partition("[")[0].partition(".")[0]
    if name in {"gcs_server", "raylet"}:
        return f"ray {name}"
    if name == "postgres":
        return "postgres" if "/" in first else f"postgres {title.partition(':')[2].strip()}".rstrip()
    for word, is_called in _COMPONENTS:
        if word in title:
            return is_called
    return name


def _show(snapshot: Snapshot) -> None:
    console = stdout()
    colour = {"ready": "green", "failed": "red"}.get(snapshot.phase, "yellow")
    console.print(f"AetherOS is [bold {colour}]{snapshot.phase}[/] at {snapshot.base_url}, data in {snapshot.data_dir}")
    steps = Table("Component", "State", "Started in", box=None, pad_edge=False)
    for step in snapshot.steps:
        steps.add_row(step.title, step.state, seconds(step.seconds))
    console.print(steps)
    if snapshot.metrics_url:
        console.print(f"Prometheus metrics at {snapshot.metrics_url}")
    rows = family(snapshot.pid)
    table = Table("Process", "Pid", "Memory", box=None, pad_edge=False)
    sandboxed = [row["rss_bytes"] for row in rows if row["component"] == _SANDBOX]
    for row in rows:
        if row["component"] != _SANDBOX:
            table.add_row(str(row["component"]), str(row["pid"]), size(row["rss_bytes"]))
    if sandboxed:
        table.add_row(f"sandboxes: {len(sandboxed)} processes", "", size(sum(sandboxed)))
    table.add_row("[bold]Total[/]", "", f"[bold]{size(sum(row['rss_bytes'] for row in rows))}[/]")
    console.print()
    console.print(table)
