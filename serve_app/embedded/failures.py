"""The one error of this floor: a start that cannot go on, with the command that mends it."""

import errno
from typing import ClassVar

from serve_app.core.errors import AetherError


class StartError(AetherError):
    """Something on this machine keeps the platform from starting. `details["mend"]` is what to do about it."""

    code: ClassVar[str] = "start_failed"

    @property
    def mend(self) -> str | None:
        mend = self.details.get("mend")
        return mend if isinstance(mend, str) else None


def as_start_error(exc: BaseException) -> StartError:
    """Say an operating-system failure in the words of the person who has to mend it."""
    if isinstance(exc, StartError):
        return exc
    if isinstance(exc, OSError):
        where = f" ({exc.filename})" if exc.filename else ""
        match exc.errno:
            case errno.ENOSPC | errno.EDQUOT:
                return StartError(f"The disk is full{where}.", mend="free some space, then run `aether up` again")
            case errno.EACCES | errno.EPERM:
                return StartError(f"Permission denied{where}.", mend="aether doctor")
            case errno.EROFS:
                return StartError(f"The file system is read-only{where}.", mend="set AETHER_DATA_DIR to another folder")
            case _:
                return StartError(f"{exc.strerror or type(exc).__name__}{where}.", mend="aether doctor")
    return StartError(f"The start failed unexpectedly: {type(exc).__name__}: {exc}", mend="aether logs supervisor")
