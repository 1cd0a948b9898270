"""The program that starts sandboxes: one small process per image, which forks for each of them and dies with its pool.

It speaks JSON over a socket it inherited, one object a packet; descriptors travel beside them. It has one thread,
because only then may it make namespaces and fork.
"""

import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
from array import array
from collections.abc import Mapping
from typing import NoReturn, TypedDict

from actors.sandbox.bubblewrap import stage, system

MOST_REQUEST_BYTES = 64 * 1024
MOST_DESCRIPTORS = 16
LISTENING, TOKEN, FILTER, INFO = 3, 4, 5, 6
"""Where bubblewrap finds its descriptors; the first two live on in the sandbox."""
NOT_STARTED = 111
_FIRST_CLEAR = 32


class Order(TypedDict):
    """One sandbox. With it come the listening socket, the token, where errors go, and the cgroups' files to join."""

    id: str
    uid: int | None
    """None: the spawner's own user."""
    size_bytes: int
    inodes: int
    processes: int
    limits: list[tuple[int, int]]
    """Resources (RLIMIT_…) and the most of each."""
    cpus: list[int] | None
    oom_score: int
    seeds: list[stage.Seed]
    argv: list[str]
    env: dict[str, str]


class Spawner:
    """`control` leads to the pool. When it closes, the spawner ends and with it all it started."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid = os.getpid()
        self._poll = select.poll()
        self._infos: dict[int, tuple[int, Order, bytes]] = {}
        """Open pipes on which bubblewrap tells the pid of the sandbox's first process: its own pid, the order, what was told."""
        self._ids: dict[int, str] = {}

    def run(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(wake_read, select.POLLIN)
        while True:
            for ready, _ in self._poll.poll():
                if ready == wake_read:
                    os.read(wake_read, 4096)
                elif ready in self._infos:
                    self._learn(ready)
                elif not self._take_order():
                    return
            self._reap()

    def _take_order(self) -> bool:
        data, ancillary, _, _ = self._control.recvmsg(
            MOST_REQUEST_BYTES, socket.CMSG_SPACE(4 * MOST_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
        )
        descriptors = array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content)
        if not data:
            return False
        order: Order = json.loads(data)
        info_read, info_write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _become(order, list(descriptors), info_write, self._pid)
        os.close(info_write)
        for descriptor in descriptors:
            os.close(descriptor)
        self._ids[pid] = order["id"]
        self._infos[info_read] = (pid, order, b"")
        self._poll.register(info_read, select.POLLIN)
        return True

    def _learn(self, info: int) -> None:
        """bubblewrap waits with going on until it has told. An object, perhaps in pieces; the pipe stays open for long."""
        pid, order, told = self._infos[info]
        piece = os.read(info, 4096)
        told += piece
        if piece and not told.rstrip().endswith(b"}"):
            self._infos[info] = (pid, order, told)
            return
        self._forget(info)
        if not piece:
            return  # It failed; its end will be told.
        first = int(json.loads(told)["child-pid"])
        try:
            pidfd = os.pidfd_open(first)
        except ProcessLookupError:
            return
        try:
            if order["uid"] is None:
                # From outside and only now: counted in the sandbox's own user namespace, not among all this user runs.
                resource.prlimit(first, resource.RLIMIT_NPROC, (order["processes"], order["processes"]))
        except OSError:
            os.close(pidfd)
            os.kill(pid, signal.SIGKILL)
            return
        socket.send_fds(self._control, [_message(id=order["id"], event="started", pid=first)], [pidfd])
        os.close(pidfd)

    def _forget(self, info: int) -> None:
        del self._infos[info]
        self._poll.unregister(info)
        os.close(info)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if sandbox_id := self._ids.pop(pid, None):
                for info in [info for info, (owner, _, _) in self._infos.items() if owner == pid]:
                    self._forget(info)
                code = os.waitstatus_to_exitcode(status)
                self._control.send(_message(id=sandbox_id, event="ended", code=code))


def _become(order: Order, descriptors: list[int], info: int, parent: int) -> NoReturn:
    """In the forked child: turn into bubblewrap, within all limits, or say on standard error why not."""
    listening, token, errors, *joins = descriptors
    try:
        system.die_with_parent(parent, signal.SIGKILL)
        for join in joins:
            # "0" is the writer itself, which a thread of its own right may be moved by without stopping all others.
            os.write(join, b"0")
        _raise_oom_score(order["oom_score"])
        uid = os.geteuid() if order["uid"] is None else order["uid"]
        gid = os.getegid() if order["uid"] is None else order["uid"]
        stage.open_box(order["size_bytes"], order["inodes"], uid, gid)
        filter_file = os.open(stage.FILTER, os.O_RDONLY)
        if order["cpus"] is not None:
            os.sched_setaffinity(0, order["cpus"])
        if order["uid"] is not None:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            # Becoming another user took back what was said above.
            system.die_with_parent(parent, signal.SIGKILL)
        os.umask(0o022)
        stage.fill_box(order["seeds"])
        null = os.open("/dev/null", os.O_RDWR)
        for at, descriptor in enumerate((null, errors, errors, listening, token, filter_file, info)):
            os.dup2(_aside(descriptor), at)
        errors = 2
        os.closerange(INFO + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        limits = order["limits"]
        if order["uid"] is not None:
            limits.append((resource.RLIMIT_NPROC, order["processes"]))
        for name, most in limits:
            hardest = resource.getrlimit(name)[1]
            bound = most if hardest == resource.RLIM_INFINITY else min(most, hardest)
            resource.setrlimit(name, (bound, bound))
        # What is ignored stays ignored in whatever program follows.
        for ignored in (signal.SIGPIPE, signal.SIGINT):
            signal.signal(ignored, signal.SIG_DFL)
        os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - a program by list, no shell
    except BaseException as exc:  # noqa: BLE001 - a child that fails must end here, whatever it was
        os.write(errors, f"{type(exc).__name__}: {exc}".encode())
    os._exit(NOT_STARTED)


def _raise_oom_score(least: int) -> None:
    """When memory runs out, a sandbox goes before the pool does."""
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        if int(file.read()) < least:
            file.seek(0)
            file.write(str(least))


def _aside(descriptor: int) -> int:
    """A copy out of the way of the numbers that are to be filled."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_CLEAR)


def _message(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def main(arguments: Mapping[str, str]) -> None:
    control = socket.socket(fileno=int(arguments["control"]))
    control.set_inheritable(False)
    system.die_with_parent(int(arguments["parent"]), signal.SIGKILL)
    system.adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)
    plan: stage.Plan = json.loads(control.recv(MOST_REQUEST_BYTES))
    try:
        stage.build(plan)
    except OSError as exc:
        control.send(_message(event="unable", reason=str(exc)))
        return
    control.send(_message(event="ready"))
    Spawner(control).run()


if __name__ == "__main__":
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
