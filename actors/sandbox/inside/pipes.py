"""The pipes between a program and the supervisor."""

import fcntl
import os

_F_SETPIPE_SZ = 1031
PIPE_BYTES = 1024 * 1024
_FIRST_READ_BYTES = 64 * 1024
_READ_BYTES = 512 * 1024


class Pipes:
    """Close them all with `close`; `let_go` closes the program's ends, once it has its own copies."""

    def __init__(self, null_fd: int, *, has_input: bool, is_merged: bool) -> None:
        self._ours: set[int] = set()
        self._theirs: set[int] = set()
        self.input: int | None = None
        try:
            out, theirs = self._make(is_ours_reading=True)
            self.outputs: tuple[int, ...] = (out,)
            self.fds = {0: null_fd, 1: theirs, 2: theirs}
            if not is_merged:
                err, self.fds[2] = self._make(is_ours_reading=True)
                self.outputs = (out, err)
            if has_input:
                self.input, self.fds[0] = self._make(is_ours_reading=False)
        except BaseException:
            self.close()
            raise

    def let_go(self) -> None:
        while self._theirs:
            os.close(self._theirs.pop())

    def close_input(self) -> None:
        if self.input is not None:
            self._ours.discard(self.input)
            os.close(self.input)
            self.input = None

    def close(self) -> None:
        self.let_go()
        while self._ours:
            os.close(self._ours.pop())

    def _make(self, *, is_ours_reading: bool) -> "tuple[int, int]":
        reading, writing = os.pipe()
        ours, theirs = (reading, writing) if is_ours_reading else (writing, reading)
        self._ours.add(ours)
        self._theirs.add(theirs)
        # A program can open its end again through /proc and take what we were told is there: never wait for it.
        os.set_blocking(ours, False)
        try:
            fcntl.fcntl(ours, _F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            # The user has as much memory in pipes as the kernel lets it have; small ones do.
            return ours, theirs
        return ours, theirs


class Reader:
    """Reads into memory that is used again; larger where a program writes much."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(_FIRST_READ_BYTES))

    def read(self, fd: int) -> "memoryview | None":
        """What is there, valid until the next call. Empty at the end; None when nothing is there now."""
        try:
            size = os.readv(fd, [self._memory])
        except BlockingIOError:
            return None
        found = self._memory[:size]
        if size == len(self._memory) < _READ_BYTES:
            self._memory = memoryview(bytearray(_READ_BYTES))
        return found
