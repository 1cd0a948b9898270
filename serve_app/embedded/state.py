"""What this machine remembers of a running platform: its folders, its lock and the processes it started."""

import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.embedded import processes
from serve_app.embedded.failures import StartError
from serve_app.embedded.processes import ProcessMark

# Every process below the supervisor carries this variable, so that it can be told apart after a crash.
# It must not begin with AETHER_: those names are settings, and unknown ones are refused.
RUN_VARIABLE = "AETHEROS_RUN_ID"


class Instance(BaseModel):
    """One run of the platform, as written to the data folder."""

    model_config = ConfigDict(frozen=True)
    run_id: str
    boot_id: str
    supervisor: ProcessMark
    host: str
    port: int
    base_url: str
    started_at: float
    ready_at: float | None = None
    processes: tuple[ProcessMark, ...] = ()

    @property
    def is_of_this_boot(self) -> bool:
        return self.boot_id == processes.boot_id()

    def living(self) -> set[int]:
        """Pids of everything this run started that still lives, the supervisor too."""
        if not self.is_of_this_boot:
            return set()
        known = {known.pid for known in (self.supervisor, *self.processes) if processes.is_alive(known)}
        known |= processes.carrying(RUN_VARIABLE, self.run_id)
        return {pid for pid in known | processes.descendants(known) if processes.start_ticks(pid) is not None}


class Folders:
    """The data folder (kept) and the run folder (sockets and Ray's session; removed at the stop)."""

    def __init__(self, data_dir: Path, run_root: Path = Path("/tmp")) -> None:  # noqa: S108 - owned and 0700, checked
        self.data_dir = data_dir
        # Short, because a Unix socket's path must stay below 97 bytes and Serve puts 57 of a node id before it.
        digest = hashlib.sha256(f"{os.geteuid()}:{data_dir}".encode()).hexdigest()[:8]
        self.run_dir = run_root / f"aether-{digest}"
        self.logs_dir = data_dir / "logs"
        self.sandbox_dir = self.run_dir / "s"
        self.control_socket = self.run_dir / "control.sock"
        self.instance_file = data_dir / "instance.json"
        self.cli_key_file = data_dir / "cli.key"

    def prepare(self) -> None:
        """Make both folders, for their owner alone.

        Raises:
            StartError: one exists and belongs to somebody else, or is open to others.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        owned_by_us(self.data_dir)
        self.data_dir.chmod(0o700)
        self.logs_dir.mkdir(exist_ok=True, mode=0o700)
        try:
            self.run_dir.mkdir(mode=0o700)
        except FileExistsError:
            info = self.run_dir.lstat()
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
                raise StartError(
                    f"{self.run_dir} exists and is not a private folder of this user.",
                    mend=f"look at it, then: rm -rf {self.run_dir}",
                ) from None

    def read_instance(self) -> Instance | None:
        """The last run's record; None when there is none or it cannot be understood."""
        try:
            return Instance.model_validate_json(self.instance_file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write_instance(self, instance: Instance) -> None:
        write_private(self.instance_file, instance.model_dump_json().encode())

    def leftovers(self) -> set[int]:
        """Processes of an earlier run whose supervisor is gone. Empty while a supervisor lives."""
        instance = self.read_instance()
        if instance is None or (instance.is_of_this_boot and processes.is_alive(instance.supervisor)):
            return set()
        return instance.living()

    def clear_run(self) -> None:
        """Remove what only makes sense while running."""
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.instance_file.unlink(missing_ok=True)


def owned_by_us(folder: Path) -> None:
    """Refuse a folder of another user, even for root: the files made in it would be nobody's to read."""
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise StartError(
            f"The data folder {folder} belongs to user id {owner}, and this is user id {os.geteuid()}.",
            mend="run as its owner, or set AETHER_DATA_DIR to a folder of your own",
        )


def write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def marks_of(pids: Iterable[int]) -> tuple[ProcessMark, ...]:
    """Marks of those that live."""
    found = (processes.mark(pid, processes.title(pid)[:80]) for pid in sorted(pids))
    return tuple(known for known in found if known is not None)


def new_instance(run_id: str, *, host: str, port: int, base_url: str) -> Instance:
    """The record of a run that begins now, supervised by this process."""
    supervisor = processes.mark(os.getpid(), "supervisor")
    assert supervisor is not None  # noqa: S101 - this process lives
    return Instance(
        run_id=run_id,
        boot_id=processes.boot_id(),
        supervisor=supervisor,
        host=host,
        port=port,
        base_url=base_url,
        started_at=time.time(),
    )


class Lock:
    """Held by the supervisor for its whole life; the kernel releases it when the process dies."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> bool:
        """False when another supervisor has it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self._descriptor)
