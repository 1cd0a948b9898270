"""How the command line speaks: one place for colours, failures and units."""

from datetime import datetime

from rich.console import Console
from rich.markup import escape


def stdout() -> Console:
    """Where results go. Nothing is highlighted by guess, so that what is printed can be copied."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say_failure(message: str, mend: str | None = None) -> None:
    """What went wrong and the one thing that mends it."""
    console = stderr()
    console.print(f"[bold red]✗[/] {escape(message)}")
    if mend:
        console.print(f"  → {escape(mend)}")


def size(size_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.2f} GB"


def seconds(value_s: float | None) -> str:
    """Seconds for people."""
    return "" if value_s is None else f"{value_s:.1f} s"


def age(then: datetime, now: datetime) -> str:
    """How long ago, for people. Two clocks may differ, and nothing is from the future."""
    left_s = max(0, int((now - then).total_seconds()))
    for unit, length in (("s", 60), ("min", 60), ("h", 48)):
        if left_s < length:
            return f"{left_s} {unit} ago"
        left_s //= 60 if unit != "h" else 24
    return f"{left_s} days ago"
