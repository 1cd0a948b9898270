"""Headers of our own: what may stand in one, and a client's limits by each vendor's names."""

import re
from datetime import datetime, timedelta

from serve_app.core.domain.spending import Allowance
from serve_app.router.dialects.canonical import Dialect

Headers = list[tuple[bytes, bytes]]
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")


def printable(text: str) -> bytes:
    """A header's value: what is not printable ASCII would end the header, or the connection."""
    return _UNPRINTABLE.sub(b"?", text.encode("utf-8", "replace"))


def rate_headers(dialect: Dialect, requests: Allowance | None, tokens: Allowance | None, now: datetime) -> Headers:
    """Of the tightest limits that bind the call; none where nothing binds."""
    headers: Headers = []
    for name, allowance in ((b"requests", requests), (b"tokens", tokens)):
        if allowance is None:
            continue
        if dialect is Dialect.ANTHROPIC:
            at = (now + timedelta(seconds=allowance.reset_s)).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
            prefix = b"anthropic-ratelimit-" + name
            headers += [
                (prefix + b"-limit", b"%d" % allowance.limit),
                (prefix + b"-remaining", b"%d" % allowance.remaining),
                (prefix + b"-reset", at),
            ]
        else:
            headers += [
                (b"x-ratelimit-limit-" + name, b"%d" % allowance.limit),
                (b"x-ratelimit-remaining-" + name, b"%d" % allowance.remaining),
                (b"x-ratelimit-reset-" + name, _duration(allowance.reset_s)),
            ]
    return headers


def _duration(seconds: float) -> bytes:
    """As OpenAI writes it: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return b"%dms" % round(seconds * 1000)
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    minutes, rest = divmod(round(seconds), 60)
    return b"%dm%ds" % (minutes, rest)
