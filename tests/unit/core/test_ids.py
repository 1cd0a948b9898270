"""Ids: their form, that none comes twice, and that they stand in the order of their making."""

import os
import uuid

from serve_app.core.domain.ids import is_id, new_org_id, new_request_id

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def test_the_tail_is_a_uuid_of_version_seven() -> None:
    for _ in range(600):
        made = new_request_id()
        assert is_id(made, "req")
        value = 0
        for digit in made[4:]:
            value = value << 5 | _ALPHABET.index(digit)
        read = uuid.UUID(int=value)
        assert (read.version, read.variant) == (7, uuid.RFC_4122)


def test_none_comes_twice_and_later_ones_stand_behind() -> None:
    made = [new_org_id() for _ in range(20_000)]
    assert len(set(made)) == len(made)
    assert [one[:12] for one in made] == sorted(one[:12] for one in made)


def test_a_child_process_makes_others() -> None:
    new_org_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(new_org_id()[-16:] for _ in range(3)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 1000).decode()
    os.close(reading)
    os.close(writing)
    assert not any(new_org_id()[-16:] in theirs for _ in range(300))
