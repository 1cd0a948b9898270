"""One turn of a session as a person sees it: the question goes out, the answer streams in, things are made."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serve_app.cli.client import PlatformClient


@dataclass
class Turn:
    """What came of it. Times count from the moment the message was sent."""

    text: str = ""
    model: str | None = None
    first_token_s: float | None = None
    answer_s: float | None = None
    total_s: float | None = None
    last_seq: int = 0
    failure: str | None = None
    versions: list[dict[str, Any]] = field(default_factory=list)


def take(
    client: PlatformClient,
    session_id: str,
    text: str,
    *,
    after: int,
    write: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Turn:
    """Post `text` and follow its turn to the end; `write` gets the answer's text piece by piece, each piece once."""
    turn = Turn(last_seq=after)
    sent_at = clock()
    posted_seq: int | None = None

    def post() -> None:
        nonlocal posted_seq, sent_at
        sent_at = clock()
        posted_seq = client.post_message(session_id, text)["seq"]

    number: int | None = None
    for event in client.events(session_id, after=after, on_open=post):
        seq, kind, data = event.get("seq"), event["type"], event["data"]
        if seq is not None:
            turn.last_seq = seq
            if posted_seq is not None and seq <= posted_seq:
                continue  # history before our question
        if kind in {"message.delta", "message.assistant"}:
            number = data["turn"] if number is None else number
            if turn.first_token_s is None:
                turn.first_token_s = clock() - sent_at
            if kind == "message.assistant":
                _show_rest(turn, data["text"], write)
                turn.model = data.get("model")
                turn.answer_s = clock() - sent_at
            elif data["offset"] <= len(turn.text):
                # A reconnect may repeat what was shown. What is missing comes with the durable message.
                fresh = data["text"][len(turn.text) - data["offset"] :]
                turn.text += fresh
                write(fresh)
        elif kind == "creation.version":
            turn.versions.append(data)
        elif kind in {"turn.completed", "turn.failed"} and posted_seq is not None and seq is not None:
            turn.total_s = clock() - sent_at
            if kind == "turn.failed":
                turn.failure = f"{data.get('message') or 'the turn failed'} ({data.get('code')})"
            return turn
    return turn


def _show_rest(turn: Turn, whole: str, write: Callable[[str], None]) -> None:
    if whole.startswith(turn.text):
        write(whole[len(turn.text) :])
    else:  # the durable message is the truth; say it anew rather than leave a mixture standing
        write("\n" + whole)
    turn.text = whole
