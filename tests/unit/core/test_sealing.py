"""What is sealed opens only whole, for the same owner, and under a key the platform has."""

import pytest

from serve_app.core.errors import CorruptedError
from serve_app.core.services.sealing import Sealer

OLD, NEW = b"o" * 32, b"n" * 48


@pytest.mark.parametrize("plain", [b"", b"sk-secret", b"\x00" * 10_000])
def test_what_was_sealed_opens(plain: bytes) -> None:
    sealer = Sealer([NEW])
    sealed = sealer.seal(plain, b"org_1\nopenai")
    assert sealer.open(sealed, b"org_1\nopenai") == plain
    assert not plain or plain not in sealed


def test_the_same_secret_never_looks_the_same() -> None:
    sealer = Sealer([NEW])
    assert sealer.seal(b"secret", b"c") != sealer.seal(b"secret", b"c")


def test_it_does_not_open_for_somebody_else() -> None:
    sealer = Sealer([NEW])
    with pytest.raises(CorruptedError):
        sealer.open(sealer.seal(b"secret", b"org_1\nopenai"), b"org_2\nopenai")


def test_no_byte_can_be_changed() -> None:
    sealer = Sealer([NEW])
    sealed = sealer.seal(b"secret", b"c")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(CorruptedError):
            sealer.open(bytes(changed), b"c")


def test_no_part_can_be_cut_off_or_swapped() -> None:
    sealer = Sealer([NEW])
    one, two = sealer.seal(b"first!", b"c"), sealer.seal(b"second", b"c")
    for end in range(len(one)):
        with pytest.raises(CorruptedError):
            sealer.open(one[:end], b"c")
    with pytest.raises(CorruptedError):
        sealer.open(one[:69] + two[69:], b"c")
    with pytest.raises(CorruptedError):
        sealer.open(one + b"x", b"c")


def test_a_new_master_key_goes_in_front_and_the_old_one_still_opens() -> None:
    sealed = Sealer([OLD]).seal(b"secret", b"c")
    rotated = Sealer([NEW, OLD])
    assert rotated.open(sealed, b"c") == b"secret"
    assert not rotated.is_current(sealed)
    anew = rotated.seal(b"secret", b"c")
    assert rotated.is_current(anew)
    assert Sealer([NEW]).open(anew, b"c") == b"secret"
    with pytest.raises(CorruptedError, match="does not have"):
        Sealer([NEW]).open(sealed, b"c")


@pytest.mark.parametrize("keys", [[], [b"short"], [NEW, b"short"]])
def test_a_weak_master_key_is_refused(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(keys)
