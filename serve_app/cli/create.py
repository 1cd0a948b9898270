"""`aether create`: each prompt becomes a creation, shown while it is made."""

import time
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.settings import load_settings
from serve_app.cli.client import PlatformClient, connect
from serve_app.cli.console import seconds, size, stdout
from serve_app.cli.turn import Turn, take
from serve_app.core.errors import AetherError, InvalidRequestError


@dataclass
class Made:
    """One prompt's outcome."""

    prompt: str
    session_s: float | None = None
    turn: Turn | None = None
    link: str | None = None
    failure: str | None = None
    mend: str | None = None


def run(*, prompts: list[str], file: Path | None, model: str | None) -> None:
    wanted = [*prompts, *(read_prompts(file) if file else [])]
    if not wanted:
        raise InvalidRequestError("There is no prompt.", mend='aether create "A haiku about the sea"')
    console = stdout()
    with connect(load_settings()) as client:
        made = [create_one(client, console, prompt, model=model) for prompt in wanted]
    summarise(made, console)
    if any(one.failure for one in made):
        raise typer.Exit(1)


def read_prompts(file: Path) -> list[str]:
    """A prompt a line; empty lines and comments (#) are passed over."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def create_one(client: PlatformClient, console: Console, prompt: str, *, model: str | None) -> Made:
    """Open a session, ask, stream the answer, and say where the creation is. A failure is in the result."""
    made = Made(prompt)
    console.print(f"\n[bold cyan]›[/] [bold]{escape(prompt)}[/]")
    try:
        began = time.monotonic()
        session = client.create_session(title=prompt[:80], model=model)
        made.session_s = time.monotonic() - began
        made.turn = take(
            client,
            session["id"],
            prompt,
            after=int(session["last_seq"]),
            write=lambda piece: console.out(piece, end="", highlight=False),
        )
        console.print()
        made.failure = made.turn.failure
        if made.failure is None and not made.turn.versions:
            made.failure = "the agent made nothing"
        if made.turn.versions:
            made.link = client.preview_link(made.turn.versions[-1]["creation_id"])["url"]
    except AetherError as exc:
        made.failure = exc.message
        made.mend = str(exc.details["mend"]) if exc.details.get("mend") else None
    _say(made, console)
    return made


def _say(made: Made, console: Console) -> None:
    if made.failure:
        console.print(f"[bold red]✗[/] {escape(made.failure)}")
        if made.mend:
            console.print(f"  → {escape(made.mend)}")
        return
    assert made.turn is not None  # noqa: S101 - no failure, so there was a turn
    version = made.turn.versions[-1]
    console.print(
        f"[green]✓[/] {version['creation_id']} version {version['number']} "
        f"([italic]{escape(version['title'])}[/], {size(version['size_bytes'])})"
    )
    console.print(f"  Open  {made.link}")
    console.print(
        f"  [dim]session {_ms(made.session_s)} · first token {_ms(made.turn.first_token_s)} · "
        f"answer {seconds(made.turn.answer_s)} · stored {seconds(made.turn.total_s)}[/]"
    )


def summarise(made: list[Made], console: Console) -> None:
    """One row for each prompt."""
    table = Table("Prompt", box=None, pad_edge=False)
    table.add_column("Creation", no_wrap=True)  # whole, so that it can be copied
    for heading in ("Version", "Size", "First token", "Total"):
        table.add_column(heading, justify="right")
    for one in made:
        version = one.turn.versions[-1] if one.turn and one.turn.versions else None
        prompt = escape(one.prompt if len(one.prompt) <= 40 else one.prompt[:39] + "…")
        if version is None or one.turn is None:
            table.add_row(prompt, f"[red]{escape((one.failure or '')[:60])}[/]")
            continue
        table.add_row(
            prompt,
            version["creation_id"] if not one.failure else f"[red]{escape(one.failure[:60])}[/]",
            str(version["number"]),
            size(version["size_bytes"]),
            _ms(one.turn.first_token_s),
            seconds(one.turn.total_s),
        )
    console.print()
    console.print(table)


def _ms(value_s: float | None) -> str:
    return "" if value_s is None else f"{value_s * 1000:.0f} ms"
