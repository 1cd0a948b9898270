"""docs/escape.md tells of the attacks as they are tried."""

from tests.escape.attack import BACKENDS
from tests.escape.catalogue import ATTACKS
from tests.escape.table import COMMITTED, render

_LEAST = 80


def test_the_table_of_attacks_is_as_they_are_tried() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == render(), "write it anew: python -m tests.escape.table"


def test_there_are_attacks_enough_and_each_says_how_every_backend_answers() -> None:
    assert len(ATTACKS) >= _LEAST
    assert all(attack.refusals.keys() == set(BACKENDS) for attack in ATTACKS)
    assert all(bool(attack.program) != (attack.act is not None) for attack in ATTACKS)
