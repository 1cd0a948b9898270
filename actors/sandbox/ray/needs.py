"""What Ray's sandboxes need on a node, found by looking: gVisor and a tool that makes its images."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

_OLDEST_GVISOR = 2024_01_01
"""Since about then it mounts EROFS images as the root, which Ray's sandboxes rely on."""
_ANSWER_S = 20


@dataclass(frozen=True)
class Needs:
    """`missing`: in words, what must be installed; empty when a sandbox may be tried."""

    missing: str
    can_limit: bool
    """Control groups may be made. Ray starts gVisor without them for everybody but root."""


def look() -> Needs:
    """Blocks for as long as the tools take to tell their version."""
    missing = [problem for problem in (_runsc_problem(), _mkfs_problem()) if problem]
    return Needs("; ".join(missing), can_limit=os.geteuid() == 0)


def runsc_problem(version: str) -> str:
    """`version` as `runsc --version` prints it."""
    date = re.search(r"(\d{8})(?:\.\d+)?", version)
    if date is None:
        return f"runsc does not tell its version: {version.strip()[:100]}"
    if int(date[1]) < _OLDEST_GVISOR:
        return f"runsc is of {date[1]}, and Ray's sandboxes need one of 2024 or later (https://gvisor.dev/docs/user_guide/install)"
    return ""


def _runsc_problem() -> str:
    if shutil.which("runsc") is None:
        return "runsc (gVisor) is not on PATH"
    return runsc_problem(_output("runsc", "--version"))


def _mkfs_problem() -> str:
    if shutil.which("mkfs.erofs") is None:
        return "mkfs.erofs is not on PATH: install erofs-utils 1.7 or later"
    if "--tar" not in _output("mkfs.erofs", "--help"):
        return "mkfs.erofs is older than 1.7: install a newer erofs-utils"
    return ""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return done.stdout + done.stderr
