"""Whether a server somebody else runs can be reached; nothing more is asked of it here."""

import asyncio
from urllib.parse import parse_qs, urlsplit

from serve_app.embedded.failures import StartError


def endpoint(url: str, default_port: int) -> tuple[str, int] | str:
    """Host and port, or the path of a Unix socket, that a database, Redis or Ray address names."""
    parts = urlsplit(url if "://" in url else f"tcp://{url}")
    if parts.scheme == "unix":
        return parts.path
    query_host = parse_qs(parts.query).get("host", [""])[0]
    if query_host.startswith("/"):
        return f"{query_host}/.s.PGSQL.{parts.port or default_port}"
    return parts.hostname or query_host or "localhost", parts.port or default_port


async def check(variable: str, url: str, default_port: int, *, timeout_s: float = 5.0) -> None:
    """Connect and hang up.

    Raises:
        StartError: naming the variable and the place, never a password.
    """
    target = endpoint(url, default_port)
    place = target if isinstance(target, str) else f"{target[0]}:{target[1]}"
    try:
        opening = asyncio.open_unix_connection(target) if isinstance(target, str) else asyncio.open_connection(*target)
        _, writer = await asyncio.wait_for(opening, timeout_s)
    except (OSError, TimeoutError) as exc:
        reason = f"no answer within {timeout_s:.0f} s" if isinstance(exc, TimeoutError) else exc.strerror or str(exc)
        raise StartError(
            f"{variable} points at {place}, which cannot be reached: {reason}.",
            mend=f"start that server, correct {variable}, or unset it to use the embedded one",
        ) from exc
    writer.close()
