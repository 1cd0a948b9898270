"""The operations run and restart, and the interpreters that keep their state between cells."""

import _socket
import _thread
import os

from . import own_python
from .asked import MOST, seconds, text, whole
from .cells import Cell
from .pipes import Pipes
from .programs import Program, find
from .refusals import Refused
from .talks import FramedTalk, ShellTalk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .inside import Inside
    from .talks import Talk
    from .trees import Tree

_MOST = 8
_MOST_NAME = 64
_WAIT_S = 0.05
_LINK_FD = 3
_ERROR_FD, _REPORT_FD = 8, 9
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash")


class Session:
    """An interpreter that runs. Used and ended by whoever holds its slot."""

    def __init__(self, tree: "Tree", pipes: Pipes, talk: "Talk", *, is_shell: bool) -> None:
        self.tree = tree
        self.pipes = pipes
        self.talk = talk
        self.is_shell = is_shell
        self.is_unwanted = False
        """Somebody asked for a restart while a cell runs."""
        self.is_over = False

    def end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.tree.kill()
            self.tree.close()
            self.talk.close()
            self.pipes.close()


class _Slot:
    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()
        self.session: Session | None = None


class Interpreters:
    """All of the sandbox, by kind and name."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._slots: dict[tuple[str, str], _Slot] = {}

    def slot(self, kind: str, name: str) -> _Slot:
        with self._lock:
            slot = self._slots.get((kind, name))
            if slot is None:
                self._drop_unused()
                if len(self._slots) >= _MOST:
                    raise Refused("too_many", f"There are {_MOST} interpreters already; restart one to be rid of it.")
                slot = self._slots[kind, name] = _Slot()
            return slot

    def find(self, kind: str, name: str) -> "_Slot | None":
        with self._lock:
            return self._slots.get((kind, name))

    def _drop_unused(self) -> None:
        for key, slot in list(self._slots.items()):
            if slot.session is None and not slot.lock.locked():
                del self._slots[key]


def run(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":
    kind, name = _asked_for(request)
    code = text(request, "code")
    timeout_s = seconds(request, "timeout_s")
    output_bytes = whole(request, "output_bytes", MOST)
    interpreters = channel.inside.keep(Interpreters)
    slot = _hold(channel, interpreters, kind, name)
    try:
        was_lost = slot.session is not None
        if slot.session is not None:
            slot.session.tree.look()
            if slot.session.tree.has_ended:
                slot.session.end()
                slot.session = None
        if slot.session is None:
            slot.session = _STARTS[kind](channel.inside)
        else:
            was_lost = False
        session = slot.session
        try:
            outcome = Cell(channel, session, timeout_s, output_bytes).run(code)
            if "restarted" in outcome:
                session.end()
        finally:
            if session.is_over or session.is_unwanted:
                session.end()
                slot.session = None
        return outcome | {"restarted": True} if was_lost else outcome
    finally:
        slot.lock.release()


def restart(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":
    kind, name = _asked_for(request)
    slot = channel.inside.keep(Interpreters).find(kind, name)
    if slot is None:
        return {}
    while not slot.lock.acquire(timeout=_WAIT_S):
        session = slot.session
        if session is not None:
            session.is_unwanted = True
        if channel.is_cancelled():
            return {}
    try:
        if slot.session is not None:
            slot.session.end()
            slot.session = None
    finally:
        slot.lock.release()
    return {}


def _asked_for(request: "dict[str, object]") -> "tuple[str, str]":
    kind, name = text(request, "interpreter"), text(request, "name", "main")
    if kind not in _STARTS:
        raise Refused("bad_request", f"interpreter must be one of {', '.join(_STARTS)}.")
    if not 0 < len(name) <= _MOST_NAME:
        raise Refused("bad_request", f"name has 1 to {_MOST_NAME} letters.")
    return kind, name


def _hold(channel: "Channel", interpreters: Interpreters, kind: str, name: str) -> _Slot:
    """One cell at a time; whoever comes meanwhile waits its turn."""
    while True:
        slot = interpreters.slot(kind, name)
        if slot.lock.acquire(timeout=_WAIT_S):
            if interpreters.find(kind, name) is slot:
                return slot
            slot.lock.release()  # it was dropped while we waited
        elif channel.is_cancelled():
            raise Refused("failed", "The cell was cancelled before it ran.")


def _start_python(inside: "Inside") -> Session:
    return _start_framed(inside, own_python.among_users(inside, "python_cell", [str(_LINK_FD)]))


def _start_node(inside: "Inside") -> Session:
    from .node_cell import SOURCE

    cwd = inside.roots["work"]
    path = find("node", inside.environment, cwd)
    return _start_framed(inside, Program(path, ["node", "-e", SOURCE, str(_LINK_FD)], inside.environment, cwd))


def _start_framed(inside: "Inside", program: Program) -> Session:
    ours, theirs = _socket.socketpair()
    pipes = Pipes(inside.null_fd, has_input=False, is_merged=False)
    try:
        tree = inside.trees.start(program, pipes.fds | {_LINK_FD: theirs.fileno()})
    except BaseException:
        pipes.close()
        ours.close()
        raise
    finally:
        theirs.close()
    pipes.let_go()
    fd = ours.detach()
    return Session(tree, pipes, FramedTalk(fd, fd), is_shell=False)


def _start_shell(inside: "Inside") -> Session:
    path = next((path for path in _SHELLS if os.access(path, os.X_OK)), None)
    if path is None:
        raise Refused("not_found", "There is no bash in this sandbox, which a shell with a memory needs; use exec.")
    # No job control and no history; and empty prompts, which would be written to stderr.
    options = ["--noprofile", "--norc", "--noediting", "+m", "+H", "+o", "history", "-i"]
    env = inside.environment | {"PROMPT_COMMAND": "", "PS1": "", "PS2": ""}
    reports, reports_end = os.pipe()
    pipes = Pipes(inside.null_fd, has_input=True, is_merged=False)
    try:
        program = Program(path, ["bash", *options], env, inside.roots["work"])
        fds = pipes.fds | {2: inside.null_fd, _ERROR_FD: pipes.fds[2], _REPORT_FD: reports_end}
        tree = inside.trees.start(program, fds)
    except BaseException:
        pipes.close()
        os.close(reports)
        raise
    finally:
        os.close(reports_end)
    pipes.let_go()
    assert pipes.input is not None  # noqa: S101 - it was asked for
    commands = os.dup(pipes.input)
    pipes.close_input()
    return Session(tree, pipes, ShellTalk(reports, commands, _REPORT_FD, _ERROR_FD), is_shell=True)


_STARTS = {"python": _start_python, "shell": _start_shell, "node": _start_node}
