"""Whom the kernel kills first when memory is short: programs, not the supervisor."""

import os

_PATH = "/proc/self/oom_score_adj"
_MORE = 500
_MOST = 1000


class OomScore:
    """Forks inherit the score of the one who forks, and a process that hides its memory cannot write its own: so the
    file is opened before, and the score raised for the moment of a fork."""

    def __init__(self) -> None:
        self._own = b"0"
        try:
            self._fd = os.open(_PATH, os.O_RDWR)
            self._own = os.read(self._fd, 16).strip()
        except OSError:
            self._fd = -1

    def offer_up(self) -> None:
        """What is forked from now on is killed first."""
        self._write(b"%d" % min(_MOST, int(self._own) + _MORE))

    def restore(self) -> None:
        self._write(self._own)

    def _write(self, score: bytes) -> None:
        if self._fd < 0:
            return
        try:
            os.pwrite(self._fd, score, 0)
        except OSError:
            # Not permitted here; the kernel's own choice, by size, is a good one too.
            os.close(self._fd)
            self._fd = -1
