"""Which node a sandbox goes to: where its files are, else close by with one ready, else where most is free."""

from collections.abc import Iterable
from dataclasses import replace

from actors.sandbox.ports import Capacity, Room


def ranked(capacities: Iterable[Capacity], profile: str, *, near: str, prefer: str | None) -> list[str]:
    """Ids of the nodes with room for `profile`, the best first.

    `near` is the node that asks: a sandbox there is reached without a relay. `prefer` is where the workspace was last.
    """

    def rank(capacity: Capacity) -> tuple[bool, bool, bool, int]:
        room = capacity.rooms[profile]
        is_ready = room.warm > 0
        return (
            capacity.node_id == prefer,
            is_ready,
            capacity.node_id == near,
            room.free,
        )

    with_room = [capacity for capacity in capacities if profile in capacity.rooms and capacity.rooms[profile].free > 0]
    return [capacity.node_id for capacity in sorted(with_room, key=rank, reverse=True)]


def less_one(capacity: Capacity, profile: str) -> Capacity:
    """What a node has after one sandbox of `profile` was leased there, as far as can be told without asking it."""
    room = capacity.rooms.get(profile)
    if room is None:
        return capacity
    left = Room(warm=max(0, room.warm - 1), free=max(0, room.free - 1))
    return replace(capacity, rooms={**capacity.rooms, profile: left})
