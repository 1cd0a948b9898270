"""bubblewrap's command line."""

import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from actors.sandbox.base import HOME
from actors.sandbox.bubblewrap.etc import AGENT_ID, HOSTNAME
from actors.sandbox.bubblewrap.image import SUPERVISOR, Image
from actors.sandbox.bubblewrap.spawner import FILTER, INFO, LISTENING, TOKEN
from actors.sandbox.bubblewrap.stage import BOX, IMAGE

_HIDDEN_FILES = (
    "cmdline", "interrupts", "kallsyms", "key-users", "keys", "latency_stats", "modules", "sched_debug", "softirqs",
    "timer_list",
)  # fmt: skip
_HIDDEN_FOLDERS = ("acpi", "asound", "scsi")
"""Of /proc: what tells about the machine and its other tenants, and everybody may read. Each costs a fifth of a
millisecond of every start, so what only the machine's root may read, which nobody in a sandbox is, is not among them."""


def hidden_entries(proc: Path = Path("/proc")) -> dict[str, bool]:
    """Those that this machine has and everybody may read, and whether each is a folder."""
    found = {}
    for name in (*_HIDDEN_FILES, *_HIDDEN_FOLDERS):
        with suppress(OSError):
            mode = (proc / name).stat().st_mode
            if mode & stat.S_IROTH:
                found[name] = stat.S_ISDIR(mode)
    return found


def bubblewrap_arguments(
    image: Image, *, has_egress: bool, disables_user_namespaces: bool, hidden: Mapping[str, bool]
) -> list[str]:
    masks = [
        word
        for name, is_folder in hidden.items()
        for word in ("--ro-bind", "/empty" if is_folder else "/dev/null", f"/proc/{name}")
    ]
    covered = [word for path in image.covered for word in ("--ro-bind", f"{IMAGE}{path}", path)]
    return [
        image.bubblewrap,
        "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup",
        *(["--disable-userns"] if disables_user_namespaces else []),
        "--uid", str(AGENT_ID), "--gid", str(AGENT_ID), "--hostname", HOSTNAME, "--cap-drop", "ALL",
        "--as-pid-1", "--die-with-parent", "--new-session",
        "--ro-bind", IMAGE, "/",
        "--proc", "/proc", *masks,
        "--dev-bind", "/dev", "/dev", "--bind", f"{BOX}/shm", "/dev/shm",  # noqa: S108 - the sandbox's own
        "--bind", f"{BOX}/tmp", "/tmp",  # noqa: S108 - the same
        "--bind", f"{BOX}/home", HOME, "--bind", f"{BOX}/work", "/work",
        *covered,
        "--chdir", "/work", "--info-fd", str(INFO), "--seccomp", str(FILTER),
        str(image.python), "-I", "-S", "-B", str(SUPERVISOR / "__main__.pyc"),
        "--listen-fd", str(LISTENING), "--token-fd", str(TOKEN), *(["--egress"] if has_egress else []),
    ]  # fmt: skip
