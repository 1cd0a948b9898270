"""`aether up`: starts the supervisor in the background, shows its checklist, and stays until Ctrl-C."""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console

from configs.settings import Settings, load_settings
from serve_app.cli.checklist import Checklist
from serve_app.cli.console import seconds, stdout
from serve_app.cli.down import ask_to_stop
from serve_app.embedded import logfiles, preflight
from serve_app.embedded.board import Snapshot
from serve_app.embedded.control import ControlClient
from serve_app.embedded.failures import StartError
from serve_app.embedded.state import Folders

SUPERVISOR = (sys.executable, "-P", "-m", "serve_app.embedded.supervisor")


def run(*, host: str | None, port: int | None, detach: bool) -> None:
    settings = with_address(load_settings(), host, port)
    bring_up(settings, stdout(), detach=detach)


def with_address(settings: Settings, host: str | None, port: int | None) -> Settings:
    """The settings with what was said on the command line."""
    said = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return settings.model_copy(update={"http": settings.http.model_copy(update=said)})


def bring_up(
    settings: Settings,
    console: Console,
    *,
    detach: bool,
    supervisor: Sequence[str] = SUPERVISOR,
    min_free_bytes: int = preflight.MIN_FREE_BYTES,
) -> None:
    """Start the platform, or find the one that runs.

    Raises:
        StartError: with the reason and what mends it; nothing it started is left running.
    """
    folders = Folders(settings.data_dir)
    control = ControlClient(folders.control_socket)
    if control.status() is not None:
        _join(control, console)
        return
    preflight.require(settings, min_free_bytes=min_free_bytes)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    is_ready = False
    try:
        if not _start_supervisor(settings, folders, supervisor):
            _join(control, console)
            return
        for snapshot in _watch(control, console):
            is_ready = True
            _say_ready(snapshot, console, is_first=True)
            if detach:
                console.print("Stop it with [bold]aether down[/].")
                return
            console.print("Ctrl-C stops it.")
    except KeyboardInterrupt:
        console.print("\nStopping…")
        ask_to_stop(folders)
        console.print("Stopped.")
        if not is_ready:
            raise typer.Exit(130) from None


def _watch(control: ControlClient, console: Console) -> Iterator[Snapshot]:
    """Draw until ready, yield that snapshot, then wait for the end."""
    last: Snapshot | None = None
    stream = control.talk("watch")
    with Checklist(console) as checklist:
        for snapshot in stream:
            last = snapshot
            checklist.show(snapshot)
            if snapshot.phase != "starting":
                break
    if last is not None and last.phase == "ready":
        yield last
    for snapshot in stream:
        if last is not None:
            _say_restart(last, snapshot, console)
        last = snapshot
    if last is None or last.phase not in {"stopped", "failed"}:
        raise StartError("The supervisor is gone.", mend="aether down, then look at `aether logs supervisor`")
    if last.phase == "failed":
        raise StartError(last.reason or "The start failed.", mend=last.mend)
    console.print("Stopped.")


def _say_restart(before: Snapshot, now: Snapshot, console: Console) -> None:
    match before.phase, now.phase:
        case "ready", "starting":
            console.print("Ray's head died; it and the applications are being started again.")
        case "starting", "ready":
            console.print("Ready again.")
        case _:
            return


def _join(control: ControlClient, console: Console) -> None:
    """Another `up` was first: wait for it if need be, and say where it is."""
    last: Snapshot | None = None
    for _ in range(50):
        try:
            for snapshot in control.talk("watch"):
                last = snapshot
                if snapshot.phase != "starting":
                    break
            break
        except ConnectionError:
            time.sleep(0.1)
    if last is None or last.phase != "ready":
        raise StartError((last and last.reason) or "The platform is stopping.", mend="aether up, once it has stopped")
    console.print("[bold]AetherOS is already up.[/]")
    _say_ready(last, console, is_first=False)


def _say_ready(snapshot: Snapshot, console: Console, *, is_first: bool) -> None:
    if is_first:
        console.print(f"\n[bold green]AetherOS is ready[/] after {seconds(snapshot.seconds)}.")
    console.print(f"  Product API   {snapshot.base_url}/api/v1")
    console.print(f"  Models        {snapshot.base_url}/v1  (OpenAI's protocol)")
    console.print(f"  Data          {snapshot.data_dir}")
    if snapshot.owner_api_key:
        console.print("\n[bold]The owner's API key, shown this once:[/]")
        console.print(f"  {snapshot.owner_api_key}")
    console.print('\nTry: [bold]aether create "A one-page guide to brewing coffee"[/]')
    console.print("     [bold]aether chat[/]  or  [bold]aether sandbox shell[/]")


def _start_supervisor(settings: Settings, folders: Folders, command: Sequence[str]) -> bool:
    """Start it on its own, out of this terminal's reach. False when another start was faster."""
    folders.prepare()
    environment = os.environ | {
        "AETHER_DATA_DIR": str(settings.data_dir),
        "AETHER_HTTP_HOST": settings.http.host,
        "AETHER_HTTP_PORT": str(settings.http.port),
    }
    read_end, write_end = os.pipe()
    with Path(os.devnull).open("rb") as nothing, logfiles.open_log(folders.logs_dir / "supervisor.log") as log:
        # Not a subprocess.Popen: it outlives this command, and nobody here will wait for it.
        os.posix_spawn(
            command[0],
            [*command],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, write_end, 1),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
            ],
            setsid=True,
        )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as said_by_it:
        readable, _, _ = select.select([said_by_it], [], [], 30.0)
        line = said_by_it.readline() if readable else b""
    said = json.loads(line or "{}")
    if said.get("ok"):
        return True
    if said.get("is_taken"):
        return False
    reason = said.get("error") or "The supervisor ended before it said why."
    raise StartError(reason, mend=said.get("mend") or "aether logs supervisor")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
