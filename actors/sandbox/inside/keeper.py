"""The keeper of one program: a process of its own that adopts whatever the program leaves behind, and tells how it ended."""

import _signal  # type: ignore[import-not-found]  # nobody types what signal is made of; signal is expensive to import
import _struct
import gc
import os
import select

from . import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .programs import Program

    FileAction = tuple[int, int, int] | tuple[int, int, str, int, int]

STARTED, FAILED, ENDED, ALONE = b"SFEA"
"""It runs (its pid) · it could not be started (errno) · it ended (wait status) · nothing below the keeper is left."""
_REPORT = _struct.Struct("=Bi")
REPORT_BYTES = _REPORT.size
unpack_report = _REPORT.unpack_from

_CANNOT_RUN_THIS = 8  # ENOEXEC: a script without a first line that names its interpreter
_FIRST_FREE_FD = 3
_RELEASE_LOOK_MS = 20
_MOST_FDS = max(64, os.sysconf("SC_OPEN_MAX"))


def keep(program: "Program", report_fd: int, fds: "dict[int, int]", drained: "tuple[int, ...]") -> "NoReturn":
    """What the fork does with its life. `fds` maps the program's descriptors to ours.

    `drained` are pipes to read for those who outlive the program, so that writing does not end them.
    """
    status = 70
    try:
        _keep(program, report_fd, fds, drained)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the supervisor's code, whatever happened
        status = 71
    finally:
        os._exit(status)


def _keep(program: "Program", report_fd: int, fds: "dict[int, int]", drained: "tuple[int, ...]") -> None:
    gc.disable()
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    native.become_subreaper()
    _close_all_but({report_fd, *fds.values(), *drained})
    try:
        pid = _start(program, fds)
    except OSError as exc:
        os.write(report_fd, _REPORT.pack(FAILED, exc.errno or 0))
        return
    _close_all_but({report_fd, *drained})
    os.write(report_fd, _REPORT.pack(STARTED, pid))
    gone, status = 0, 0
    while gone != pid:
        gone, status = os.waitpid(-1, 0)
    reports = _REPORT.pack(ENDED, status)
    if _is_alone():
        os.write(report_fd, reports + _REPORT.pack(ALONE, 0))
        return
    os.write(report_fd, reports)
    if drained and not _is_alone_before_release(report_fd):
        _drain(drained)
    _outlive_all()
    os.write(report_fd, _REPORT.pack(ALONE, 0))


def _start(program: "Program", fds: "dict[int, int]") -> int:
    os.chdir(program.cwd)
    os.umask(0o022)
    actions: list[FileAction] = []
    if program.terminal is not None:
        # The leader of a session without a terminal gets the first one it opens.
        actions.append((os.POSIX_SPAWN_OPEN, 0, program.terminal, os.O_RDWR, 0))
        actions += [(os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
    # A source may have the number of another one's target.
    moved = {target: _above(source, max(fds)) for target, source in fds.items()}
    actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in moved.items()]
    try:
        return _spawn(program.path, program.argv, program, actions)
    except OSError as exc:
        if exc.errno != _CANNOT_RUN_THIS:
            raise
        return _spawn("/bin/sh", ["/bin/sh", program.path, *program.argv[1:]], program, actions)


def _above(fd: int, highest: int) -> int:
    if fd > highest:
        return fd
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, highest + 1)


def _spawn(path: str, argv: "list[str]", program: "Program", actions: "list[FileAction]") -> int:
    return os.posix_spawn(
        path,
        argv,
        program.env,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=(_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGCHLD),
    )


def _close_all_but(kept: "set[int]") -> None:
    start = _FIRST_FREE_FD
    for fd in sorted(kept):
        if fd >= start:
            os.closerange(start, fd)
            start = fd + 1
    os.closerange(start, _MOST_FDS)


def _is_alone() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _is_alone_before_release(report_fd: int) -> bool:
    """Wait until the supervisor wants no more reports: till then what the program wrote last is the supervisor's to read."""
    poll = select.poll()
    poll.register(report_fd, 0)  # the other end's closing is told unasked
    while not poll.poll(_RELEASE_LOOK_MS):
        if _is_alone():
            return True
    return False


def _drain(pipes: "tuple[int, ...]") -> None:
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # the kernel reaps while we read
    poll = select.poll()
    for fd in pipes:
        poll.register(fd, select.POLLIN)
    left = set(pipes)
    while left:
        for fd, _ in poll.poll():
            if not _read_some(fd):
                poll.unregister(fd)
                left.discard(fd)


def _read_some(fd: int) -> bool:
    try:
        return bool(os.read(fd, 65536))
    except BlockingIOError:
        return True


def _outlive_all() -> None:
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return
