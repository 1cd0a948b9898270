"""Output of sandboxes as events: text wherever it is, never half a character, nothing lost."""

import asyncio
import base64
from collections.abc import AsyncGenerator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.problems import problem
from serve_app.api.resources.sandboxes.events import Pieces, begun, ending_with_errors, frame
from serve_app.api.resources.sandboxes.files.schemas import raw, shown, time_of
from serve_app.api.sse import kept_alive
from serve_app.core.errors import NoSuchFileError
from serve_app.core.services.session_log import KeepAlive
from serve_app.core.stores.live.base import LiveFrame


@given(st.lists(st.one_of(st.binary(max_size=6), st.text(max_size=6).map(lambda text: text.encode("utf-8", "ignore")))))
def test_nothing_is_lost_and_text_stays_text(written: list[bytes]) -> None:
    pieces = Pieces()
    told = [one for one in (*(pieces.take(data) for data in written), pieces.end()) if one is not None]
    assert b"".join(
        one["text"].encode() if "text" in one else base64.b64decode(one["base64"]) for one in told
    ) == b"".join(written)


@given(st.text(), st.integers(1, 5))
def test_a_character_that_is_cut_waits_for_its_other_half(text: str, step: int) -> None:
    data = text.encode("utf-8", "ignore")
    pieces = Pieces()
    told = [pieces.take(data[at : at + step]) for at in range(0, len(data), step)]
    assert pieces.end() is None
    assert "".join(one["text"] for one in told if one) == data.decode()


@given(st.integers())
def test_times_are_times_whatever_is_told(nanos: int) -> None:
    assert time_of(nanos).year >= 1970


def test_names_that_are_no_utf8_are_shown_and_can_be_asked_for() -> None:
    assert (shown("a\udce9b"), raw("a\udce9b")) == ("a\ufffdb", "a%E9b")
    assert (shown("é/b c"), raw("é/b c")) == ("é/b c", None)


async def test_what_is_refused_before_it_begins_is_raised() -> None:
    closed = []

    async def frames(*, is_refused: bool) -> AsyncGenerator[LiveFrame, None]:
        try:
            if is_refused:
                raise NoSuchFileError("Not there.")
            yield frame("one", {})
            yield frame("two", {})
        finally:
            closed.append(is_refused)

    with pytest.raises(NoSuchFileError):
        await begun(frames(is_refused=True))
    assert [one.type async for one in await begun(frames(is_refused=False))] == ["one", "two"]
    left = await begun(frames(is_refused=False))
    assert (await anext(left)).type == "one"
    await left.aclose()
    assert closed == [True, False, False]


async def test_silence_is_filled() -> None:
    closed = asyncio.Event()

    async def slow() -> AsyncGenerator[LiveFrame, None]:
        try:
            yield frame("one", {})
            await asyncio.sleep(0.1)
            yield frame("two", {})
            await asyncio.Event().wait()
        finally:
            closed.set()

    seen = []
    items = kept_alive(slow(), every_s=0.03)
    async for item in items:
        seen.append("…" if isinstance(item, KeepAlive) else item.type)
        if seen[-2:] == ["…", "…"] and "two" in seen:
            break
    await items.aclose()
    assert closed.is_set()
    assert seen[0] == "one"
    assert seen[1] == "…"
    assert seen.count("two") == 1


async def test_no_detail_takes_the_place_of_what_every_error_has() -> None:
    error = NoSuchFileError(
        "Not there.", code="ok", status=200, detail="fine", request_id="x", retryable=True, path="p"
    )
    told = orjson.loads(bytes(problem(error, {}).body))
    assert (told["code"], told["status"], told["detail"], told["path"]) == ("file_not_found", 404, "Not there.", "p")
    assert told["request_id"] is None

    async def frames() -> AsyncGenerator[LiveFrame, None]:
        yield frame("one", {})
        raise error

    _, last = [one async for one in ending_with_errors(frames())]
    told = orjson.loads(last.body)
    assert (told["code"], told["detail"], told["retryable"]) == ("file_not_found", "Not there.", False)
