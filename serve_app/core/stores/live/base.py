"""The live events port: many watchers of many channels in one process, none of which slows a publisher down."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class LiveFrame:
    """An event as it travels: already encoded, so that nobody on the way parses it again.

    `seq` is None for an event that is only live. `body` is the event's JSON.
    """

    seq: int | None
    type: str
    body: bytes


@dataclass(frozen=True)
class Disturbed:
    """Frames may be missing here: the watcher was too slow, or the broker was away. Read the log again."""


class Subscription(Protocol):
    """Frames of one channel, from the moment the subscription was opened."""

    async def next(self, timeout_s: float) -> Sequence[LiveFrame | Disturbed]:
        """What has gathered, at once; waits up to `timeout_s` for something. Empty when nothing came."""
        ...


class LiveEvents(Protocol):
    """Channels are made by publishing. Old frames are dropped: channels are short and expire."""

    async def publish(self, channel: str, frames: Sequence[LiveFrame]) -> None:
        """Raises `UnavailableError`; the caller decides whether that matters."""
        ...

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[Subscription]:
        """Watch a channel. Opens also while the broker is away; the first item then is `Disturbed`."""
        ...

    async def append(self, stream: str, fields: dict[str, bytes]) -> None:
        """Add to a stream that others consume at their own pace (the outbox's far side)."""
        ...

    def entries(self, stream: str) -> AsyncIterator[dict[str, bytes]]:
        """What a stream holds now, oldest first."""
        ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...
