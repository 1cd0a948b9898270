"""The way into a sandbox that runs from an image: the folder its token lies in, the sockets, and the first question."""

import os
from pathlib import Path

from actors.sandbox.containers.places import TOKEN_NAME
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix

START_S = 30.0
"""For everything until a supervisor answers."""
_LONGEST_SOCKET_PATH_BYTES = 107


def make_folder(folder: Path, token: str) -> None:
    """Blocks. What the sandbox sees as its door, with the token in it."""
    folder.mkdir(parents=True)
    # The sandbox's user is not ours. Nobody else comes here: the run folder above is closed to others.
    folder.chmod(0o755)
    path = folder / TOKEN_NAME
    path.touch(mode=0o644)
    path.write_text(token, encoding="ascii")


async def ask(door: Path, token: str) -> None:
    """Until the supervisor answers."""
    client = SandboxClient(dial_unix(os.fspath(door)), token, answer_timeout_s=START_S)
    try:
        await client.ping()
    finally:
        await client.close()


def check_socket_paths(*paths: Path) -> None:
    """Raises `ValueError` for one that no Unix socket can have."""
    for path in paths:
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH_BYTES:
            raise ValueError(f"{path} is too long for a Unix socket: choose a shorter run folder")
