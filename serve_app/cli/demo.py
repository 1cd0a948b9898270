"""`aether demo`: the whole way from nothing to creations, as `make demo` shows it."""

import time
from importlib import resources

import typer

from configs.settings import load_settings
from serve_app.cli import create
from serve_app.cli.client import connect
from serve_app.cli.console import seconds, stdout
from serve_app.cli.down import ask_to_stop
from serve_app.cli.up import bring_up
from serve_app.embedded.control import ControlClient
from serve_app.embedded.state import Folders


def run(*, keep: bool) -> None:
    settings = load_settings()
    console = stdout()
    folders = Folders(settings.data_dir)
    was_up = ControlClient(folders.control_socket).status() is not None
    began = time.monotonic()
    bring_up(settings, console, detach=True)
    up_s = time.monotonic() - began
    try:
        with resources.as_file(resources.files("serve_app.cli") / "prompts.txt") as file:
            prompts = create.read_prompts(file)
        began = time.monotonic()
        with connect(settings) as client:
            made = [create.create_one(client, console, prompt, model=None) for prompt in prompts]
        create.summarise(made, console)
        console.print(
            f"\nUp in {seconds(up_s)}, {len(made)} prompts in {seconds(time.monotonic() - began)}. "
            f"Everything is kept in {settings.data_dir}."
        )
    finally:
        if keep or was_up:
            console.print("The platform stays up; stop it with [bold]aether down[/].")
        else:
            began = time.monotonic()
            ask_to_stop(folders)
            console.print(
                f"Stopped after {seconds(time.monotonic() - began)}. To look at the creations: "
                "[bold]aether up[/], or run the demo with KEEP=1."
            )
    if any(one.failure for one in made):
        raise typer.Exit(1)
