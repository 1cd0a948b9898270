"""The `aether` command: what it offers. Each command's work is in the file of its name, imported when it is called."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="aether",
    help="AetherOS: give AI agents a task, get live, versioned creations back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

sandbox = typer.Typer(help="Sandboxes: run code that nobody has read.", no_args_is_help=True)
app.add_typer(sandbox, name="sandbox")

Profile = Annotated[str | None, typer.Option(help="Profile of the sandbox; default: the platform's.")]
Model = Annotated[str | None, typer.Option(help="Model to use; default: the platform's.")]


@app.callback(invoke_without_command=True)
def aether(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"aether {importlib.metadata.version('aetheros')}")
        raise typer.Exit


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the platform.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when ready; stop with `aether down`.")] = False,
) -> None:
    """Start the platform on this machine; Ctrl-C stops it."""
    from serve_app.cli.up import run

    run(host=host, port=port, detach=detach)


@app.command()
def down() -> None:
    """Stop everything `aether up` started, also after a crash."""
    from serve_app.cli.down import run

    run()


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show what runs, its processes and their memory. Exits 1 unless the platform is ready."""
    from serve_app.cli.status import run

    run(as_json=as_json)


@app.command()
def doctor() -> None:
    """Say what is wrong with this machine's set-up, and the one command that mends it."""
    from serve_app.cli.doctor import run

    run()


@app.command()
def logs(
    component: Annotated[
        str | None, typer.Argument(help="supervisor, postgres, valkey, ray, serve, workers, …")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines of each file.")] = 20,
) -> None:
    """Show the logs, also of a platform that has stopped."""
    from serve_app.cli.logs import run

    run(component=component, follow=follow, lines=lines)


@app.command()
def chat(
    session: Annotated[str | None, typer.Option(help="Go on with this session (ses_…).")] = None,
    model: Model = None,
) -> None:
    """Talk with an agent; Ctrl-C or Ctrl-D leaves."""
    from serve_app.cli.chat import run

    run(session_id=session, model=model)


@app.command()
def create(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="What to make.")] = None,
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A prompt a line; # comments.")] = None,
    model: Model = None,
) -> None:
    """Turn each prompt into a creation and show where it is. Exits 1 when one failed."""
    from serve_app.cli.create import run

    run(prompts=prompts or [], file=file, model=model)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the models that can be called now, and the aliases that choose between them."""
    from serve_app.cli.models import run

    run(as_json=as_json)


@app.command()
def usage(
    days: Annotated[int, typer.Option(min=1, max=366, help="How many of the last days.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what calls to models used and cost, by model and by day."""
    from serve_app.cli.usage import run

    run(days=days, as_json=as_json)


# What follows the program's name is the program's, as with `docker run` and `env`.
@sandbox.command("run", context_settings={"allow_interspersed_args": False})
def sandbox_run(
    command: Annotated[list[str], typer.Argument(metavar="PROGRAM", help="What to run, with its arguments.")],
    profile: Profile = None,
    use: Annotated[str | None, typer.Option("--in", help="A sandbox there is (sbx_…), which is kept.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the new sandbox.")] = False,
) -> None:
    """Run a program in a sandbox. Input, output and exit code are the program's; 125: the platform failed.

    What is piped in is read to its end before the program starts.
    """
    from serve_app.cli.sandbox import run

    run(command=command, profile=profile, sandbox_id=use, keep=keep)


@sandbox.command("shell")
def sandbox_shell(
    use: Annotated[str | None, typer.Argument(metavar="[SANDBOX]", help="A sandbox there is (sbx_…).")] = None,
    profile: Profile = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the new sandbox.")] = False,
) -> None:
    """Open a terminal in a sandbox; Ctrl-D or `exit` leaves."""
    from serve_app.cli.sandbox import shell

    shell(profile=profile, sandbox_id=use, keep=keep)


@sandbox.command("ls")
def sandbox_ls(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the organisation's sandboxes, but for those that have ended."""
    from serve_app.cli.sandbox import show

    show(as_json=as_json)


@sandbox.command("rm")
def sandbox_rm(
    sandboxes: Annotated[list[str], typer.Argument(metavar="SANDBOX", help="As `aether sandbox ls` shows it.")],
) -> None:
    """Delete sandboxes, with their files."""
    from serve_app.cli.sandbox import remove

    remove(sandboxes)


@app.command(hidden=True)
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform up.")] = False,
) -> None:
    """Bring the platform up, make the shipped example creations, take it down again."""
    from serve_app.cli.demo import run

    run(keep=keep)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong use or settings, 130 interrupted; a program's own."""
    from configs.settings import SettingsError
    from serve_app.cli.console import say_failure
    from serve_app.core.errors import AetherError
    from serve_app.embedded.failures import as_start_error

    try:
        app()
    except SettingsError as exc:
        say_failure(str(exc), "correct or unset the variables above")
        sys.exit(2)
    except AetherError as exc:
        mend = exc.details.get("mend")
        say_failure(exc.message, str(mend) if mend else None)
        sys.exit(int(exc.details.get("exit_code", 1)))
    except OSError as exc:
        error = as_start_error(exc)
        say_failure(error.message, error.mend)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
