"""`make bench-sandbox`: how fast sandboxes are leased, started, used and cleared away, beside what people run today."""

import argparse
import os
import platform as machine
import shutil
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.__main__ import processor, say
from tests.bench.report import Row, print_table
from tests.bench.sandbox_grounds import WARM, LocalGround, local_database, local_ground
from tests.bench.sandbox_leftovers import AT_ONCE, cycles
from tests.bench.sandbox_measures import (
    Leased,
    allow_many_descriptors,
    burst,
    cells,
    cold_starts,
    in_event_loop,
    leases,
    programs,
    stream,
)  # fmt: skip
from tests.bench.sandbox_peers import bare_bubblewrap, docker_run, engine, kernel_cells, whether_there
from tests.bench.sandbox_platform import measure_platform, platform_with_stock, requests

BURST = 100
COLD, STREAMS = 40, 3
MIB = 2**20


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def in_ms(seconds: list[float]) -> str:
    """`4.1 ms, p99 6.0 [3.5–5.2]`: the median, the slowest hundredth, and from the lowest to the highest tenth."""
    middle, worst, low, high = (f"{percentile(seconds, share) * 1000:.1f}" for share in (0.5, 0.99, 0.1, 0.9))
    return f"{middle} ms, p99 {worst} [{low}–{high}]"


@dataclass
class Found:
    """The lines of the table, as they are measured."""

    rows: list[Row] = field(default_factory=list)

    def tell(self, what: str, measured: str, target: str = "", *, is_met: bool | None = None) -> None:
        verdict = "" if is_met is None else " – met" if is_met else " – NOT MET"
        self.rows.append(Row(what, measured, target + verdict))

    def lease(self, where: str, leased: list[Leased]) -> None:
        output = [one.output_s for one in leased]
        p50, p99 = percentile(output, 0.5), percentile(output, 0.99)
        self.tell(
            f"Warm lease to the first command's output, {where}", in_ms(output), "p50 ≤ 10 ms, p99 ≤ 40 ms",
            is_met=p50 <= 0.010 and p99 <= 0.040,
        )  # fmt: skip
        self.tell(f"– the lease alone, {where}", in_ms([one.lease_s for one in leased]))

    def burst(self, where: str, seconds: list[float], failures: list[str]) -> None:
        p95 = percentile(seconds, 0.95) if seconds else float("inf")
        self.tell(
            f"{BURST} leases at once, {WARM} warm, {where}",
            f"p50 {percentile(seconds, 0.5):.2f} s, p95 {p95:.2f} s, {len(failures)} failed",
            "p95 ≤ 1 s, none failed", is_met=p95 <= 1.0 and not failures,
        )  # fmt: skip
        if failures:
            say(f"failures: {sorted(set(failures))}")


async def measure_here(folder: Path, found: Found, given: argparse.Namespace) -> None:
    """Without Ray."""
    async with local_database(folder) as (database, caller):
        if given.only & {"lease", "burst"}:
            async with local_ground(folder, database, caller, WARM) as ground:
                if "lease" in given.only:
                    say("leases, in process")
                    found.lease("in process", await leases(ground, given.rounds))
                if "burst" in given.only:
                    say("a burst of leases, in process")
                    found.burst("in process", *await burst(ground, BURST))
        if given.only & {"exec", "cell", "stream", "cold"}:
            async with local_ground(folder, database, caller, 0) as ground:
                await _measure_one(ground, found, given)
    if "cycles" in given.only:
        say(f"{given.cycles} lives")
        # So few connections that all of them are open from the beginning.
        async with (
            local_database(folder / "c", connections=2) as (database, caller),
            local_ground(folder / "c", database, caller, 0) as ground,
        ):
            took_s, left = await cycles(ground, given.cycles)
        found.tell(
            f"{given.cycles:,} lives, {AT_ONCE} at a time: what is left", "; ".join(left)[:500] or "nothing",
            "nothing", is_met=not left,
        )  # fmt: skip
        found.tell("– lives a second, database and clearing away included", f"{given.cycles / took_s:.0f}")


async def _measure_one(ground: LocalGround, found: Found, given: argparse.Namespace) -> None:
    sandbox = await ground.front.create(ground.caller, None)
    client = await ground.front.client(ground.caller, sandbox.id)
    if "exec" in given.only:
        say("programs")
        seconds = await programs(client, 10 * given.rounds)
        found.tell(
            "`exec true` in a held sandbox", in_ms(seconds), "p50 ≤ 4 ms", is_met=percentile(seconds, 0.5) <= 0.004
        )
    if "cell" in given.only:
        say("cells")
        seconds = await cells(client, 10 * given.rounds)
        p50 = percentile(seconds, 0.5)
        found.tell("Python cell `1+1`", in_ms(seconds), "p50 ≤ 4 ms", is_met=p50 <= 0.004)
        if kernel := whether_there("Jupyter", lambda: kernel_cells(10 * given.rounds), say):
            theirs = percentile(kernel[1], 0.5)
            found.tell(
                "– the same in a Jupyter kernel (`jupyter_client`), unisolated",
                f"{in_ms(kernel[1])}; {theirs / p50:.1f} × ours", "not faster than ours", is_met=theirs >= p50,
            )  # fmt: skip
    if "stream" in given.only:
        say("output")
        rates = [await stream(client) / 1e6 for _ in range(STREAMS)]
        found.tell(
            "Output, `head -c 2G /dev/zero` through the client",
            f"{statistics.median(rates):.0f} MB/s [{min(rates):.0f}–{max(rates):.0f}]", "≥ 200 MB/s",
            is_met=statistics.median(rates) >= 200,
        )  # fmt: skip
    await ground.front.delete(ground.caller, sandbox.id)
    if "cold" in given.only:
        say("cold starts")
        cold = await cold_starts(ground, COLD)
        p50 = percentile(cold.start_s, 0.5)
        cpu = f"; {cold.cpu_s * 1000:.1f} ms of a core each" if cold.cpu_s else ""
        found.tell("Cold start, until it answers", in_ms(cold.start_s) + cpu, "p50 ≤ 80 ms", is_met=p50 <= 0.080)
        if bare := whether_there("bubblewrap", lambda: bare_bubblewrap(COLD), say):
            found.tell(
                "– bubblewrap alone, `/bin/true`", f"{in_ms(bare)}; ours {p50 / percentile(bare, 0.5):.1f} × that"
            )
        pss, group = statistics.median(cold.pss_bytes), statistics.median(cold.group_bytes)
        found.tell(
            f"Idle sandbox, one of {COLD}",
            f"{pss / MIB:.1f} MiB proportional (PSS), {group / MIB:.1f} MiB in its control group", "≤ 15 MB",
            is_met=max(pss, group) <= 15e6,
        )  # fmt: skip


def measure_docker(folder: Path, found: Found) -> None:
    say("docker run")

    def measure() -> list[float]:
        with engine(folder) as running:
            return docker_run(running, COLD // 2)

    if seconds := whether_there("Docker", measure, say):
        found.tell("– `docker run --rm --network none … true` (runc)", in_ms(seconds))


def main() -> None:
    parts = ("lease", "burst", "exec", "cell", "stream", "cold", "docker", "platform", "cycles")
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sandbox", description=__doc__)
    parser.add_argument("--only", default=",".join(parts), help="of %(default)s")
    parser.add_argument("--rounds", type=int, default=100, help="leases; ten times as many programs and cells")
    parser.add_argument("--cycles", type=int, default=500, help="lives that must leave nothing; the target is 5000")
    given = parser.parse_args()
    given.only = set(given.only.split(","))
    if unknown := given.only - set(parts):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    allow_many_descriptors()
    folder, found = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp")), Found()
    before = os.getloadavg()[0]
    try:
        if given.only - {"docker", "platform"}:
            in_event_loop(measure_here(folder, found, given))
        if "docker" in given.only:
            measure_docker(folder / "e", found)
        if "platform" in given.only:
            say("starting the platform")
            with platform_with_stock(folder) as platform:
                say("leases and a burst of them, the pool in a Ray actor")
                figures = measure_platform(platform, rounds=given.rounds, at_once=BURST)
                found.lease("pool in a Ray actor", figures.leases)
                found.burst("pool in a Ray actor", figures.burst, figures.failures)
                say("the same over HTTP")
                found.tell("– make a sandbox and run `echo` in it, two requests over HTTP",
                           in_ms(requests(platform, given.rounds // 2)))  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"\n{os.cpu_count()} cores ({processor()}), {machine.system()} {machine.release()}, "
              f"Python {machine.python_version()}; load of the machine before {before:.1f}; medians, the slowest "
              f"hundredth, and from the lowest to the highest tenth in brackets\n")  # fmt: skip
        print_table(found.rows)


if __name__ == "__main__":
    main()
