"""What the spawner asks of the kernel that Python 3.11 does not offer: namespaces, mounts, a signal at death."""

import ctypes
import os

NEW_NAMESPACE_MOUNT, NEW_NAMESPACE_USER = 0x00020000, 0x10000000
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS, REMOUNT, BIND = 1, 2, 4, 8, 32, 4096
RECURSIVE, PRIVATE = 16384, 1 << 18
_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "new namespaces")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    kind_bytes = kind.encode() if kind else None
    _check(
        _libc.mount(os.fsencode(source), os.fsencode(target), kind_bytes, flags, options.encode() or None),
        f"mounting {source} at {target}",
    )


def bind(source: str, target: str) -> None:
    """With everything mounted below."""
    mount(source, target, None, BIND | RECURSIVE)


def make_root(folder: str) -> None:
    """Make `folder`, a mount, the root of this process's mount namespace, and let go of all that was there before."""
    os.chdir(folder)
    # The same place twice: the old root lands on top of the new one and can be taken off (pivot_root(2)).
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "changing the root")
    _check(_libc.umount2(b".", _DETACH), "letting go of the old root")
    os.chdir("/")


def die_with_parent(parent_pid: int, signal_number: int) -> None:
    """The kernel sends the signal when the thread that started this process ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "dying with the parent")
    if os.getppid() != parent_pid:
        raise SystemExit(1)


def adopt_orphans() -> None:
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "adopting orphans")
