"""A turn's text reaches the terminal once, whatever the connection does."""

import io
from collections.abc import Callable
from pathlib import Path

import httpx
from rich.console import Console

from serve_app.cli import chat, create, turn
from serve_app.cli.client import PlatformClient
from tests.unit.cli.conftest import VERSION, WHOLE_TURN, ScriptedPlatform, event, sse

Make = Callable[[], PlatformClient]


def _take(client: PlatformClient) -> tuple[turn.Turn, str]:
    written: list[str] = []
    result = turn.take(client, "ses_1", "hi", after=1, write=written.append)
    return result, "".join(written)


def test_a_whole_turn(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.streams = [sse(*WHOLE_TURN)]
    with make_client() as client:
        result, written = _take(client)
    assert written == result.text == "The sea."
    assert result.versions == [VERSION["data"]]
    assert (result.model, result.failure, result.last_seq) == ("m", None, 5)
    assert result.first_token_s is not None
    assert result.total_s is not None


def test_deltas_that_come_twice_or_not_at_all(platform: ScriptedPlatform, make_client: Make) -> None:
    delta = WHOLE_TURN[1]
    missing = event("message.delta", turn=1, offset=6, text="a.")
    platform.streams = [sse(delta), httpx.ReadError("cut"), sse(WHOLE_TURN[0], delta, missing, *WHOLE_TURN[3:])]
    with make_client() as client:
        _, written = _take(client)
    assert written == "The sea."


def test_the_durable_message_wins(platform: ScriptedPlatform, make_client: Make) -> None:
    other = event("message.delta", turn=1, offset=0, text="A lake")
    platform.streams = [sse(WHOLE_TURN[0], other, *WHOLE_TURN[3:])]
    with make_client() as client:
        result, written = _take(client)
    assert written == "A lake\nThe sea."
    assert result.text == "The sea."


def test_a_failed_turn(platform: ScriptedPlatform, make_client: Make) -> None:
    failed = event("turn.failed", 3, turn=1, code="engine_failed", message="The model stopped.", retryable=True)
    platform.streams = [sse(WHOLE_TURN[0], failed)]
    with make_client() as client:
        result, _ = _take(client)
    assert result.failure == "The model stopped. (engine_failed)"


def test_history_is_not_taken_for_the_answer(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.posts = ['{"session_id": "ses_1", "seq": 9}']
    later = [{**one, "seq": one["seq"] + 7} if one["seq"] else one for one in WHOLE_TURN]
    old = [one for one in WHOLE_TURN if one["seq"]]
    platform.streams = [sse(*old, *later)]
    with make_client() as client:
        result, written = _take(client)
    assert written == "The sea."
    assert result.last_seq == 12


def test_create_shows_what_was_made_and_where(platform: ScriptedPlatform, make_client: Make) -> None:
    platform.streams = [sse(*WHOLE_TURN), 404]
    out = io.StringIO()
    console = Console(file=out, width=200)
    with make_client() as client:
        made = [create.create_one(client, console, prompt, model=None) for prompt in ("The sea [here]", "Nothing")]
    create.summarise(made, console)
    assert [bool(one.failure) for one in made] == [False, True]
    said = out.getvalue()
    assert "› The sea [here]" in said
    assert "cre_1 version 1" in said
    assert "1.2 kB" in said
    assert "http://cre-1.localhost:8000/x" in said
    assert "No such thing." in said


def test_prompts_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# a comment\n\n one \ntwo\n")
    assert create.read_prompts(file) == ["one", "two"]


def test_chat_asks_until_the_person_leaves(platform: ScriptedPlatform, make_client: Make) -> None:
    class Typist(Console):
        said = iter(["", "hi"])

        def input(self, *_args: object, **_kwargs: object) -> str:
            try:
                return next(self.said)
            except StopIteration:
                raise EOFError from None

    platform.streams = [sse(*WHOLE_TURN)]
    out = io.StringIO()
    with make_client() as client:
        chat.converse(client, Typist(file=out, width=200), session_id=None, model=None)
    assert "The sea.\n" in out.getvalue()
    assert "aether chat --session ses_1" in out.getvalue()
