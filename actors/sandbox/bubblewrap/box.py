"""What one sandbox has on the host: a folder with its door, its control group and a user id, made and removed together."""

import json
import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from actors.sandbox.bubblewrap.cgroups import Group, Groups, Quota, kill_members, remove_folders
from serve_app.core.domain.ids import SandboxId

_RECORD = "record.json"
_DOOR = "door"
LONGEST_DOOR_BYTES = 107
"""What fits into the address of a Unix socket."""
_BACKLOG = 128
_MOST_LAST_WORDS_BYTES = 4096


def door_of(folder: Path) -> Path:
    return folder / _DOOR


@dataclass
class Box:
    """`listening`, `token` and `errors_end` go to the sandbox and are closed here once it has them."""

    folder: Path
    group: Group | None
    uid: int | None
    listening: socket.socket
    token: int
    errors: int
    """Where the sandbox's standard error can be read, without waiting."""
    errors_end: int

    @property
    def door(self) -> Path:
        return door_of(self.folder)

    def descriptors(self) -> list[int]:
        return [self.listening.fileno(), self.token, self.errors_end, *(self.group.joins if self.group else ())]

    def hand_over(self) -> None:
        """Close what only the sandbox needs, so that its end is seen and its door shut with it."""
        self.listening.close()
        for name in ("token", "errors_end"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)
        if self.group:
            self.group.close_joins()

    def last_words(self) -> str:
        """What the sandbox has written to standard error, for the log. It may be anything."""
        with suppress(OSError):
            said = os.read(self.errors, _MOST_LAST_WORDS_BYTES).decode(errors="replace")
            return "".join(letter if letter.isprintable() else " " for letter in said).strip()
        return ""

    def kill(self) -> None:
        if self.group:
            kill_members(self.group.folders)

    def try_remove(self) -> bool:
        """False: the kernel has not let go of the group yet, try again."""
        self.hand_over()
        if self.errors >= 0:
            os.close(self.errors)
            self.errors = -1
        if self.group and not remove_folders(self.group.folders):
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        return True


def make_box(
    boxes: Path, sandbox_id: SandboxId, groups: Groups | None, quota: Quota, uid: int | None, token: str
) -> Box:
    """All of it, or nothing and an `OSError`."""
    folder = boxes / sandbox_id
    opened: list[int] = []
    group: Group | None = None
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder.mkdir(mode=0o700)
        group = groups.create(sandbox_id, quota) if groups else None
        # What a pool that was killed leaves behind is found by this.
        record = {"groups": [str(path) for path in group.folders] if group else []}
        (folder / _RECORD).write_text(json.dumps(record))
        listening.bind(str(door_of(folder)))
        door_of(folder).chmod(0o600)
        listening.listen(_BACKLOG)
        token_end, token_start = os.pipe2(os.O_CLOEXEC)
        opened += (token_end, token_start)
        os.write(token_start, token.encode("ascii"))
        os.close(opened.pop())
        errors, errors_end = os.pipe2(os.O_CLOEXEC)
        opened += (errors, errors_end)
        os.set_blocking(errors, False)
        return Box(folder, group, uid, listening, token_end, errors, errors_end)
    except BaseException:
        listening.close()
        for descriptor in opened:
            os.close(descriptor)
        if group:
            group.close_joins()
            remove_folders(group.folders)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def recorded_groups(folder: Path) -> Sequence[Path]:
    """Of a sandbox of an earlier life."""
    try:
        named = json.loads((folder / _RECORD).read_text())["groups"]
        return [Path(name) for name in named if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
