"""Streams cut anywhere: whole events come out, in the bytes they came in, and translations do not depend on the cut."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import AetherError, ProviderError
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.providers.base import parsed
from serve_app.router.sse import EventSplitter, events
from serve_app.router.ways import PROVIDERS

STREAMS = sorted((Path(__file__).parents[2] / "fixtures" / "streams").glob("*/*.sse"))


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def fed(stream: bytes, *cuts: int) -> list[bytes]:
    splitter = EventSplitter(1_000_000)
    edges = [0, *sorted(cuts), len(stream)]
    whole = [splitter.feed(stream[start:end]) for start, end in pairwise(edges)]
    return [*whole, splitter.rest()]


@pytest.mark.parametrize("path", STREAMS, ids=named)
def test_a_stream_cut_at_any_byte_is_the_same_stream(path: Path) -> None:
    stream = path.read_bytes()
    for cut in range(len(stream)):
        first, second, rest = fed(stream, cut)
        assert first + second + rest == stream
        for whole in (first, second):
            assert not whole or whole.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    ones = fed(stream, *range(len(stream)))
    assert b"".join(ones) == stream
    assert list(events(b"".join(ones))) == list(events(stream))


@pytest.mark.parametrize("path", STREAMS, ids=named)
def test_a_translation_is_the_same_for_every_cut(path: Path) -> None:
    stream = path.read_bytes()
    whole = translated(path, [stream])
    for size in (1, 2, 3, 7, 64):
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert translated(path, pieces) == whole


def translated(path: Path, pieces: list[bytes]) -> list[object]:
    decoder = PROVIDERS[Dialect(path.parent.name)].stream_decoder()
    splitter = EventSplitter(1_000_000)
    found: list[object] = []
    try:
        for piece in pieces:
            for name, data in events(splitter.feed(piece)):
                if data != b"[DONE]":
                    found += decoder.decode(name, parsed(data))
        found += decoder.end()
    except AetherError as exc:
        found.append((exc.code, exc.message))
    return found


@given(
    st.lists(st.sampled_from([b"data: a\n\n", b"event: x\r\ndata: b\r\n\r\n", b": c\n\n", b"data: d\r\r"])), st.data()
)
def test_mixed_line_ends(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(stream))))
    assert b"".join(fed(stream, *cuts)) == stream
    assert b"".join(fed(stream, *cuts)[:-1]).endswith(stream[-2:])


@pytest.mark.parametrize("size", [1, 1000, 4096])
def test_an_event_without_an_end_is_not_held_for_ever(size: int) -> None:
    splitter = EventSplitter(10_000)
    fed_bytes = 0
    while fed_bytes + size <= 10_000:
        assert splitter.feed(b"x" * size) == b""
        fed_bytes += size
    with pytest.raises(ProviderError, match="too long"):
        splitter.feed(b"x" * size)


def test_names_and_lines_of_events() -> None:
    stream = b": comment\n\nevent: a\ndata: 1\ndata:2\n\ndata: 3\nid: 7\n\nevent: empty\n\ndata: last"
    assert list(events(stream)) == [("a", b"1\n2"), (None, b"3"), (None, b"last")]
