"""A deployer that only says its lines, for tests of the supervisor; with a file `fail` beside it, it fails."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(folder: Path, action: str, options: list[str]) -> int:
    with (folder / "calls").open("a") as calls:
        calls.write(action + "\n")
    if action == "undeploy":
        return 0
    if sys.stdin.readline() != "go\n":
        return 1
    (folder / "environment.json").write_text(json.dumps(dict(os.environ)))
    say(stage="migrations", state="started")
    time.sleep(0.05)
    if (folder / "fail").exists():
        say(stage="migrations", state="failed", message="the schema is from the future")
        return 1
    say(stage="migrations", state="done", seconds=0.05)
    say(stage="owner", state="done", api_key="aek_owner")
    if "--cli-key-prefix" not in options:
        say(stage="cli-key", state="done", api_key="aek_cli")
    say(stage="ready", state="done")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
