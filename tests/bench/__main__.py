"""`make bench`: brings up a platform of its own, measures it, and prints one table (Markdown, for the README)."""

import asyncio
import os
import platform as machine
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.events import measure_events
from tests.bench.http import measure_http
from tests.bench.memory import measure_memory
from tests.bench.model import measure_model
from tests.bench.report import Row, median_and_spread, print_table
from tests.e2e.conftest import AETHER, Platform, clean_environ, free_port

STARTS = 3


def start(folder: Path, **more: str) -> Platform:
    data_dir, port = folder / "data", free_port()
    environ = clean_environ(data_dir, port, **more)
    done = subprocess.run([AETHER, "up", "--detach"], env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the platform did not start:\n{done.stdout}\n{done.stderr}")
    key = next((word for word in done.stdout.split() if word.startswith("aek_")), "")
    return Platform(data_dir, port, key, done.stdout, environ)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="aether-bench-", dir="/tmp"))
    rows: list[Row] = []
    running: Platform | None = None
    try:
        say("starting the platform, first time")
        running = start(folder)
        key = running.owner_key
        seconds = []
        for number in range(STARTS):
            running.aether("down")
            say(f"starting again, {number + 1} of {STARTS}")
            began = time.monotonic()
            running = start(folder)
            seconds.append(time.monotonic() - began)
        running.owner_key = key
        rows.append(Row("`aether up`, set up before", median_and_spread(seconds, "s"), "< 20 s"))
        say("idle memory")
        time.sleep(10)
        rows += measure_memory(running)
        say("the model, alone and through the platform")
        rows += asyncio.run(measure_model(running))
        say("durable events")
        found, session = asyncio.run(measure_events(running))
        rows += found
        say("plain requests, Serve in its fast mode")
        fast = asyncio.run(measure_http(running, session))
        say("plain requests, Serve in its default mode")
        running.aether("down")
        running = start(folder, AETHER_RAY_FAST_SERVE="false")
        running.owner_key = key
        default = asyncio.run(measure_http(running, session))
        for ours, theirs in zip(fast, default, strict=True):
            rows.append(Row(ours.what, f"{ours.measured} (Serve's default mode: {theirs.measured})"))
    finally:
        if running:
            running.aether("down", check=False)
        shutil.rmtree(folder, ignore_errors=True)
    memory_gib = psutil.virtual_memory().total / 2**30
    print(f"\n{os.cpu_count()} cores ({processor()}), {memory_gib:.0f} GiB, {machine.system()}, "
          f"Python {machine.python_version()}; medians, spread in brackets\n")  # fmt: skip
    print_table(rows)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return machine.machine()


def say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
