"""What the idle platform holds in memory, process by process."""

import collections

import psutil

from tests.bench.report import Row
from tests.e2e.conftest import Platform


def measure_memory(platform: Platform) -> list[Row]:
    """Resident size counts shared pages once a process; the proportional size (PSS) counts them once in all."""
    rss: collections.Counter[str] = collections.Counter()
    pss: collections.Counter[str] = collections.Counter()
    for found in platform.status()["processes"]:
        try:
            memory = psutil.Process(found["pid"]).memory_full_info()
        except psutil.NoSuchProcess:
            continue
        name = found["component"] if not found["component"].startswith("postgres") else "postgres"
        rss[name] += memory.rss
        pss[name] += memory.pss
    rows = [
        Row(
            "Idle platform, resident, all processes",
            f"{rss.total() / 2**30:.2f} GiB (proportional {pss.total() / 2**30:.2f} GiB)",
            "< 2.5 GB",
        )
    ]
    rows += [
        Row(f"– {name}", f"{size / 2**20:.0f} MiB (proportional {pss[name] / 2**20:.0f})")
        for name, size in rss.most_common()
    ]
    return rows
