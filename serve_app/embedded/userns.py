"""How root starts a server that refuses to be root: in a user namespace of its own, else as `nobody`.

In the namespace an unprivileged id is mapped to root's, so the server sees itself as an ordinary user while its
files stay root's, mode 0700, and no folder has to be opened to anybody.
"""

import os
import pwd
import sys
from dataclasses import dataclass, field

from serve_app.embedded.children import Children

_INNER_ID = 65534

# CLONE_NEWUSER. The program replaces itself, so the pid that was started is the server's own.
_LAUNCHER = f"""
import ctypes, os, sys
uid, gid = os.geteuid(), os.getegid()
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000):
    raise OSError(ctypes.get_errno(), "unshare")
for name, text in (("setgroups", "deny"), ("uid_map", f"{_INNER_ID} {{uid}} 1"), ("gid_map", f"{_INNER_ID} {{gid}} 1")):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Identity:
    """Whom a server runs as: words to put before its command line, and ids to switch to (None: our own)."""

    prefix: tuple[str, ...] = field(default=())
    user: int | None = None
    group: int | None = None

    @property
    def is_nobody(self) -> bool:
        return self.user is not None


NAMESPACED = Identity(prefix=(sys.executable, "-I", "-S", "-c", _LAUNCHER))


def nobody() -> Identity:
    """The machine's own unprivileged user."""
    entry = pwd.getpwnam("nobody")
    return Identity(user=entry.pw_uid, group=entry.pw_gid)


async def unprivileged(children: Children) -> Identity:
    """Ourselves when we are not root; otherwise the first way that works on this machine."""
    if os.geteuid() != 0:
        return Identity()
    return NAMESPACED if await namespaces_work(children) else nobody()


async def namespaces_work(children: Children) -> bool:
    """Whether this process may make user namespaces. Containers and hardened kernels may forbid it."""
    code = await children.run([*NAMESPACED.prefix, "/bin/sh", "-c", "exit 0"], timeout_s=10)
    return code == 0
