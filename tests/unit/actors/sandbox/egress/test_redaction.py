"""Secrets taken out of streams."""

from hypothesis import given
from hypothesis import strategies as st

from actors.sandbox.egress.redaction import Redaction

SECRET = b"sk-abcabcabd"


def cleaned(secret: bytes, pieces: list[bytes]) -> bytes:
    redaction = Redaction(secret)
    return b"".join(redaction.feed(piece) for piece in pieces) + redaction.finish()


def test_wherever_the_borders_are() -> None:
    text = b"before " + SECRET + b" and " + SECRET + SECRET + b" after"
    expected = text.replace(SECRET, b"*" * len(SECRET))
    for size in range(1, len(text) + 1):
        assert cleaned(SECRET, [text[at : at + size] for at in range(0, len(text), size)]) == expected


def test_what_only_looks_like_the_beginning_goes_on_at_once() -> None:
    redaction = Redaction(SECRET)
    assert redaction.feed(b"data: sk-abx\n\n") == b"data: sk-abx\n\n"
    assert redaction.feed(b"data: sk-ab") == b"data: "
    assert redaction.feed(b"!") == b"sk-ab!"
    assert redaction.feed(b"sk-abcabc") == b""
    assert redaction.feed(b"abd") == b"***" + b"*" * 9
    assert redaction.finish() == b""


@given(
    st.lists(st.sampled_from([b"a", b"b", b"aab", b"aabaab", b"x", b"aabaabaac"]), max_size=30),
    st.lists(st.integers(min_value=1, max_value=9), max_size=30),
)
def test_nothing_is_lost_and_nothing_slips_through(words: list[bytes], sizes: list[int]) -> None:
    secret, text = b"aabaabaac", b"".join(words)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    result = cleaned(secret, [*pieces, text[at:]])
    assert secret not in result
    assert result == text.replace(secret, b"*" * len(secret))
