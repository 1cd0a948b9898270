"""`aether logs`: the log files of every component, running or stopped."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from configs.settings import load_settings
from serve_app.cli.console import stdout
from serve_app.core.errors import InvalidRequestError
from serve_app.embedded.logfiles import tail
from serve_app.embedded.state import Folders

# Component → patterns in the logs folder, and in Ray's session while it runs (kept flat in logs/ray afterwards).
_OWN = ("supervisor", "postgres", "valkey", "deployer", "ray")
_RAY = {
    "ray": ("gcs_server.*", "raylet.*", "dashboard*.log"),
    "serve": ("serve/*.log",),
    "workers": ("worker-*.err",),
}
# Without a component: what an operator reads first, and none of Ray's own chatter.
_DEFAULT = ("supervisor", "deployer", "postgres", "valkey", "workers")


def run(*, component: str | None, follow: bool, lines: int) -> None:
    folders = Folders(load_settings().data_dir)
    known = list(dict.fromkeys([*_OWN, *_RAY]))
    if component is not None and component not in known:
        raise InvalidRequestError(f"There is no component {component!r}.", mend=f"one of: {', '.join(known)}")
    wanted = [component] if component else list(_DEFAULT)
    console = stdout()
    positions: dict[Path, int] = {}
    for path in files(folders, wanted):
        for line in tail(path, lines) if lines else []:
            _print(console, path, line)
        positions[path] = path.stat().st_size
    if follow:
        try:
            while True:
                time.sleep(0.3)
                for path in files(folders, wanted):
                    positions[path] = _print_new(console, path, positions.get(path, 0))
        except KeyboardInterrupt:
            return


def files(folders: Folders, components: list[str]) -> list[Path]:
    """Every file of these components that exists now."""
    session = folders.run_dir / "ray" / "session_latest" / "logs"
    found: list[Path] = []
    for component in components:
        if component in _OWN:
            found += [path for path in [folders.logs_dir / f"{component}.log"] if path.exists()]
        for pattern in _RAY.get(component, ()):
            if session.is_dir():
                found += sorted(session.glob(pattern))
            else:
                found += sorted((folders.logs_dir / "ray").glob(pattern.replace("/", "-")))
    return [path for path in found if path.is_file()]


def _print(console: Console, path: Path, line: str) -> None:
    if not line.strip() or line.startswith((":job_id:", ":actor_name:")):
        return  # Ray's own marks, for a log monitor that one machine does not run
    # worker-<id of 56>-<job>-<pid>: the pid is what `aether status` shows.
    name = f"worker {path.stem.rpartition('-')[2]}" if path.stem.startswith("worker-") else path.stem
    console.print(f"[cyan]{escape(name)}[/] {escape(line)}")


def _print_new(console: Console, path: Path, position: int) -> int:
    try:
        size_bytes = path.stat().st_size
        if size_bytes < position:
            position = 0  # cut or replaced
        if size_bytes == position:
            return position
        with path.open("rb") as file:
            file.seek(position)
            new = file.read()
    except FileNotFoundError:
        return 0
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        _print(console, path, line)
    return position + len(whole)
