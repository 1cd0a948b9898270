"""Where a sandbox goes."""

from actors.sandbox.placement import less_one, ranked
from actors.sandbox.ports import Capacity, Room


def node(name: str, warm: int, free: int, profile: str = "small") -> Capacity:
    return Capacity(name, {profile: Room(warm, free)})


def order(*capacities: Capacity, near: str = "near", prefer: str | None = None) -> list[str]:
    return ranked(capacities, "small", near=near, prefer=prefer)


def test_a_node_without_room_or_without_the_profile_is_none() -> None:
    assert order(node("full", 0, 0), node("other", 3, 3, profile="large"), node("far", 0, 1)) == ["far"]
    assert order() == []


def test_near_and_ready_comes_before_far_and_ready() -> None:
    assert order(node("far", 5, 50), node("near", 1, 2)) == ["near", "far"]


def test_a_ready_one_far_away_comes_before_a_cold_start_here() -> None:
    assert order(node("near", 0, 50), node("far", 1, 2)) == ["far", "near"]


def test_where_the_workspace_was_comes_first() -> None:
    assert order(node("near", 5, 50), node("far", 0, 1), prefer="far") == ["far", "near"]
    assert order(node("near", 5, 50), node("far", 0, 0), prefer="far") == ["near"]
    assert order(node("near", 5, 50), prefer="gone") == ["near"]


def test_else_where_most_is_free() -> None:
    assert order(node("a", 0, 1), node("b", 0, 9), node("c", 0, 5), near="elsewhere") == ["b", "c", "a"]


def test_what_was_leased_is_not_given_out_again_before_the_next_look() -> None:
    capacity = node("near", 1, 2)
    assert less_one(capacity, "small").rooms["small"] == Room(0, 1)
    assert less_one(less_one(less_one(capacity, "small"), "small"), "small").rooms["small"] == Room(0, 0)
    assert less_one(capacity, "unknown") == capacity
