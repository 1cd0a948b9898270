"""`aether down`: stops the platform of this data folder, whatever state it is in."""

import time

from configs.settings import load_settings
from serve_app.cli.console import seconds, stdout
from serve_app.core.errors import AetherError
from serve_app.embedded import processes
from serve_app.embedded.control import ControlClient
from serve_app.embedded.leftovers import end_leftovers
from serve_app.embedded.state import Folders

_PATIENCE_S = 90.0


def run() -> None:
    settings = load_settings()
    folders = Folders(settings.data_dir)
    began = time.monotonic()
    crashed = folders.read_instance() is not None and ControlClient(folders.control_socket).status() is None
    stopped = ask_to_stop(folders)
    if crashed and settings.ray.address:
        stdout().print(
            f"The supervisor had been killed, so the applications may still be on the cluster at {settings.ray.address}."
            f"\n→ aether up && aether down"
        )
    took = seconds(time.monotonic() - began)
    stdout().print(f"Stopped after {took}." if stopped else "Nothing is running.")


def ask_to_stop(folders: Folders) -> bool:
    """Stop the platform and wait until it is gone; False when there was nothing to stop.

    Raises:
        AetherError: some processes could not be ended.
    """
    instance = folders.read_instance()
    was_asked = False
    try:
        for _ in ControlClient(folders.control_socket).talk("stop", timeout_s=_PATIENCE_S):
            was_asked = True
    except (ConnectionError, TimeoutError):
        pass  # killed, or hanging: ended from outside below
    if was_asked and instance is not None:
        deadline = time.monotonic() + 5.0
        while processes.is_alive(instance.supervisor) and time.monotonic() < deadline:
            time.sleep(0.02)
    found, left = end_leftovers(folders)
    if left:
        raise AetherError(f"These processes could not be ended: {left}", mend="end them by hand, then `aether down`")
    return was_asked or found > 0
