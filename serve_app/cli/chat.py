"""`aether chat`: a conversation with an agent on the terminal."""

from rich.console import Console
from rich.markup import escape

from configs.settings import load_settings
from serve_app.cli import turn
from serve_app.cli.client import PlatformClient, connect
from serve_app.cli.console import stdout


def run(*, session_id: str | None, model: str | None) -> None:
    with connect(load_settings()) as client:
        converse(client, stdout(), session_id=session_id, model=model)


def converse(client: PlatformClient, console: Console, *, session_id: str | None, model: str | None) -> None:
    """Ask and answer until the person leaves."""
    session = client.session(session_id) if session_id else client.create_session(title="Chat", model=model)
    console.print(f"[dim]Session {session['id']} with {session['model']}. Ctrl-D leaves.[/]")
    after = int(session["last_seq"])
    try:
        while True:
            text = console.input("[bold cyan]›[/] ").strip()
            if not text:
                continue
            result = turn.take(
                client,
                session["id"],
                text,
                after=after,
                write=lambda piece: console.out(piece, end="", highlight=False),
            )
            after = result.last_seq
            console.print()
            if result.failure:
                console.print(f"[red]✗[/] {escape(result.failure)}")
            for version in result.versions:
                console.print(
                    f"[dim]{version['creation_id']} version {version['number']}: {escape(version['title'])}[/]"
                )
    except (EOFError, KeyboardInterrupt):
        console.print(f"\n[dim]Go on later: aether chat --session {session['id']}[/]")
