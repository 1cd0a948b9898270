"""`aether sandbox`: programs, terminals and lists of sandboxes."""

import base64
import itertools
import json
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, BinaryIO, Never

import typer
from rich.markup import escape
from rich.table import Table

from configs.settings import load_settings
from serve_app.cli.client import PlatformClient, PlatformError, connect
from serve_app.cli.console import age, say_failure, stdout
from serve_app.cli.terminal import attach

_KILLED = 128
"""Shells tell a signal as this much more than its number."""
_NOT_RUN, _NOT_FOUND = 125, 127
"""As `docker run` and `env` tell that it was not the program that failed."""
_MOST_INLINE_BYTES = 4 * 1024**2
"""Of input, within the request that starts the program; more goes ahead as a file."""
_PIECE_BYTES = 1024**2
_FROM_FILE = 'exec < "$1" && rm -f -- "$1" && shift && exec "$@"'


def run(*, command: list[str], profile: str | None, sandbox_id: str | None, keep: bool) -> None:
    given = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer
    try:
        # Before there is a sandbox: whatever writes here may take its time.
        first = None if given is None else given.read(_MOST_INLINE_BYTES + 1)
        with connect(load_settings()) as client, _sandbox(client, profile, sandbox_id, keep=keep) as used:
            body: dict[str, Any] = {"argv": command, "timeout_s": 86_400}
            if first is not None and len(first) <= _MOST_INLINE_BYTES:
                body["stdin_base64"] = base64.b64encode(first).decode()
            elif first is not None and given is not None:
                body["argv"] = _with_input_file(client, used, command, first, given)
            code = execute(client, used, body, sys.stdout.buffer, sys.stderr.buffer)
    except PlatformError as exc:
        exit_code = _NOT_FOUND if exc.details.get("problem") == "file_not_found" else _NOT_RUN
        raise PlatformError(exc.message, **exc.details, exit_code=exit_code) from exc
    raise typer.Exit(code)


def _with_input_file(
    client: PlatformClient, sandbox_id: str, command: list[str], first: bytes, rest: BinaryIO
) -> list[str]:
    """The command that reads what was piped in from a file, which is gone as soon as it is open."""
    path = f"/tmp/stdin-{uuid.uuid4().hex}"  # noqa: S108 - in the sandbox, which has it to itself
    client.upload(sandbox_id, path, itertools.chain([first], iter(lambda: rest.read(_PIECE_BYTES), b"")))
    return ["/bin/sh", "-c", _FROM_FILE, "sh", path, *command]


def execute(client: PlatformClient, sandbox_id: str, body: dict[str, Any], out: BinaryIO, err: BinaryIO) -> int:
    """Its output as it comes; returns what its exit code is to a shell."""
    for kind, data in client.execute(sandbox_id, body):
        match kind:
            case "stdout" | "stderr":
                target = out if kind == "stdout" else err
                target.write(data["text"].encode() if "text" in data else base64.b64decode(data["base64"]))
                target.flush()
            case "exit":
                return int(data["exit_code"] if data["exit_code"] is not None else _KILLED + (data["signal"] or 0))
            case "error":
                raise PlatformError(data["detail"])
            case _:
                continue
    raise PlatformError("The program's output was broken off.", mend="aether status")


def shell(*, profile: str | None, sandbox_id: str | None, keep: bool) -> None:
    with connect(load_settings()) as client, _sandbox(client, profile, sandbox_id, keep=keep) as used:
        code = attach(client.base_url, client.api_key or "", used)
    raise typer.Exit(code)


def show(*, as_json: bool) -> None:
    with connect(load_settings()) as client:
        found = client.sandboxes()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    rows = Table(box=None, pad_edge=False)
    for column in ("Sandbox", "Profile", "State", "Last used"):
        rows.add_column(column)
    now = datetime.now(UTC)
    for one in found:
        used = age(datetime.fromisoformat(one["active_at"]), now)
        rows.add_row(*(escape(one[name]) for name in ("id", "profile", "state")), used)
    stdout().print(rows if found else "There are no sandboxes.")


def remove(sandbox_ids: list[str]) -> None:
    """All that can be; says which could not."""
    left = False
    with connect(load_settings()) as client:
        for sandbox_id in sandbox_ids:
            try:
                client.delete_sandbox(sandbox_id)
            except PlatformError as exc:
                if exc.details.get("is_connection"):
                    raise
                say_failure(f"{sandbox_id}: {exc.message}", exc.details.get("mend"))
                left = True
    if left:
        raise typer.Exit(1)


@contextmanager
def _sandbox(client: PlatformClient, profile: str | None, sandbox_id: str | None, *, keep: bool) -> Iterator[str]:
    """The one that was named, or a new one for as long as this lasts."""
    if sandbox_id is not None:
        yield sandbox_id
        return
    with _leaving_on_signals():
        made = str(client.create_sandbox(profile)["id"])
        if keep:
            typer.echo(made, err=True)
        try:
            yield made
        finally:
            if not keep:
                _delete(client, made)


def _delete(client: PlatformClient, sandbox_id: str) -> None:
    """What the program did counts more than this: a failure is told, and changes nothing."""
    try:
        client.delete_sandbox(sandbox_id)
    except PlatformError as exc:
        say_failure(f"{sandbox_id} was not deleted: {exc.message}", f"aether sandbox rm {sandbox_id}")


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """A closed window or a `kill` ends this in order, so that no sandbox is left behind."""

    def leave(number: int, _frame: FrameType | None) -> Never:
        raise SystemExit(_KILLED + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
