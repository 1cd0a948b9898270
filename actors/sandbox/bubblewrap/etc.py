"""The /etc of sandboxes: a handful of files made here, and copies of the host's that programs need and that tell nothing."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

AGENT_ID = 1000
HOSTNAME = "sandbox"

_MADE = {
    "passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:{AGENT_ID}:{AGENT_ID}:agent:/home/agent:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nagent:x:{AGENT_ID}:\nnogroup:x:65534:\n",
    "hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n",
    "hostname": f"{HOSTNAME}\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    # Resolvers try with a datagram socket which address can be reached; without one, what every machine has comes first.
    "gai.conf": "precedence ::ffff:0:0/96 100\n",
    # Nobody answers there: names are resolved by the proxy, where a sandbox has one.
    "resolv.conf": "options timeout:1 attempts:1\n",
    "shells": "/bin/sh\n/bin/bash\n",
}
_COPIED = (
    "alternatives", "bash.bashrc", "ca-certificates.conf", "debian_version", "fonts", "host.conf", "inputrc",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "login.defs", "magic", "mailcap", "mime.types", "netconfig",
    "os-release", "pki/ca-trust/extracted", "pki/tls/certs", "protocols", "rpc", "services", "ssl/cert.pem", "ssl/certs",
    "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
_COPIED_PATTERNS = ("python3*",)
_MOST_BYTES = 4 * 1024**2
"""Of one file. Bundles of certificates have a quarter of a megabyte."""


def make_etc(target: Path, source: Path = Path("/etc")) -> None:
    """Fill the folder `target`, which must not exist. What the host lacks or hides is left out."""
    target.mkdir(mode=0o755)
    names = [*_COPIED, *(path.name for pattern in _COPIED_PATTERNS for path in source.glob(pattern))]
    for name in names:
        with suppress(OSError):
            _copy(source / name, target / name)
    for name, text in _MADE.items():
        (target / name).write_text(text)
        (target / name).chmod(0o644)
    for folder, _, _ in os.walk(target):
        Path(folder).chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    """A link stays one, when it leads to what a sandbox sees too; else it becomes what it leads to."""
    if source.is_symlink() and _is_shown(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for entry in source.iterdir():
            with suppress(OSError):
                _copy(entry, target / entry.name)
    elif source.is_file() and source.stat().st_size <= _MOST_BYTES and source.stat().st_mode & 0o004:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o644)


def _is_shown(link: Path) -> bool:
    leads_to = Path(os.path.normpath(link.parent / link.readlink()))
    return leads_to.is_relative_to("/usr") or leads_to.parent == link.parent
