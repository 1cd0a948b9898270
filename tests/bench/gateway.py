"""`make bench-gateway`: the model router beside LiteLLM, Portkey and nothing at all; same provider, one run."""

import argparse
import collections
import json
import os
import platform as machine
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.bench.__main__ import processor, say
from tests.bench.load import Load, Measured
from tests.bench.peers import TARGETS, AbsentError, Target
from tests.bench.verdicts import FIGURES, Rounds, Verdict, judge, judge_memory
from tests.doubles.servers import free_port, running
from tests.e2e.conftest import Platform

CLIENTS = 32
CHUNKS = 100
SOAK_POINTS = 10
STUCK_S = 600.0
PROMPT = "Tell me about the sea, in as many words as you like."


def body(*, stream: bool, prompt: str = PROMPT) -> str:
    asked = {"model": "mock", "messages": [{"role": "user", "content": prompt}], "max_tokens": 200, "stream": stream}
    return json.dumps(asked)


def loads(seconds: float) -> dict[str, Load]:
    """By name; the address and headers are each target's own."""
    slow = f"{PROMPT} [wait 50 ms]"
    return {
        "whole-1": Load("", body(stream=False), seconds=seconds),
        "whole-32": Load("", body(stream=False), seconds=seconds, clients=CLIENTS),
        "stream-32": Load("", body(stream=True), seconds=seconds, clients=CLIENTS, chunks=CHUNKS),
        "stream-1": Load("", body(stream=True), seconds=seconds, chunks=CHUNKS),
        "thought-1": Load("", body(stream=True, prompt=slow), seconds=seconds, chunks=CHUNKS),
    }


def put(load: Load, target: Target) -> Measured:
    """From a process of its own, so that what measures shares nothing with what waits here."""
    told = json.dumps({**asdict(load), "url": target.url, "headers": target.headers})
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=told, capture_output=True, text=True, check=False, timeout=STUCK_S,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"the load on {target.name} failed:\n{done.stderr}")
    measured = Measured(**json.loads(done.stdout))
    if measured.failures:
        sys.exit(f"{target.name}: {measured.failures} of {measured.requests} requests failed. {measured.why}")
    return measured


def measure(targets: dict[str, Target], *, seconds: float, rounds: int) -> Mapping[str, Rounds]:
    """Every target once in each round, so that whatever changes on the machine meanwhile changes it for all."""
    found: dict[str, dict[str, list[Measured]]] = {}
    for kind, load in loads(seconds).items():
        by_target: dict[str, list[Measured]] = collections.defaultdict(list)
        for number in range(rounds):
            say(f"{kind}, round {number + 1} of {rounds}")
            for name, target in targets.items():
                by_target[name].append(put(load, target))
        found[kind] = by_target
    return found


def soak(target: Target, requests: int) -> list[int]:
    """Resident bytes of the replica: warmed up, then after each tenth of the requests; a tenth of them are streams."""
    assert target.platform is not None
    whole, streamed = loads(0)["whole-32"], loads(0)["stream-32"]
    part = requests // SOAK_POINTS
    sizes = []
    for number in range(SOAK_POINTS + 1):
        # The part before the first reading fills caches and pools, which are then as large as they get.
        for load, share in ((whole, part - part // 10), (streamed, part // 10)):
            put(Load(load.url, load.body, clients=CLIENTS, requests=max(share, CLIENTS), chunks=load.chunks), target)
        sizes.append(replica_bytes(target.platform))
        say(f"{number * part:,} requests: {sizes[-1] / 2**20:.1f} MiB")
    return sizes


def replica_bytes(platform: Platform) -> int:
    found = [p["pid"] for p in platform.status()["processes"] if "models" in p["component"]]
    assert len(found) == 1, f"one replica of the models app is measured, not {len(found)}"
    return int(psutil.Process(found[0]).memory_info().rss)


def draw(targets: dict[str, Target], found: Mapping[str, Rounds], verdicts: list[Verdict]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("", *(target.name for target in targets.values()), title="Median of the rounds (slowest–fastest)")
    for figure in FIGURES:
        table.add_row(figure.what, *(figure.cell(found[figure.load][name]) for name in targets))
    console.print(table)
    if verdicts:
        table = Table("Must reach", "Reached", "Target", "")
        for verdict in verdicts:
            table.add_row(verdict.what, verdict.reached, verdict.wanted, "met" if verdict.is_met else "NOT MET")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description=__doc__)
    parser.add_argument("--only", default=",".join(TARGETS), help="of %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each round lasts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=int, default=0, metavar="REQUESTS", help="for example 200000; 0: none")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := set(wanted) - TARGETS.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    folder = Path(tempfile.mkdtemp(prefix="aether-bench-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.mock_provider", "--port", str(port), "--chunks", str(CHUNKS)]
        stack.enter_context(running(command, port=port, log=folder / "mock.log"))
        targets: dict[str, Target] = {}
        for name in wanted:
            say(f"starting {name}")
            try:
                targets[name] = stack.enter_context(TARGETS[name](f"http://127.0.0.1:{port}", folder))
            except AbsentError as exc:
                print(f"{name} is left out: {exc}")
        found = measure(targets, seconds=given.seconds, rounds=given.rounds)
        verdicts = judge(found)
        if given.soak and "ours" in targets:
            verdicts.append(judge_memory(soak(targets["ours"], given.soak)))
    print(f"\n{os.cpu_count()} cores ({processor()}), {machine.system()}, Python {machine.python_version()}; "
          f"load and provider on the same cores; {given.rounds} rounds of {given.seconds:g} s\n")  # fmt: skip
    draw(targets, found, verdicts)


if __name__ == "__main__":
    main()
