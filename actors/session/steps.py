"""What a session's log says must happen next. Pure: the same log always gives the same step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.core.domain.events import TURN_ENDS, Event, EventType

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One message of the conversation, as models read it."""

    role: Role
    text: str


@dataclass(frozen=True)
class Answer:
    """Ask the model. `messages` ends with the user's message that opened the turn."""

    turn: int
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Commit:
    """Make the answer the next version of the session's creation."""

    turn: int
    prompt: str
    answer: dict[str, Any]


@dataclass(frozen=True)
class Finish:
    """Say that the turn is over."""

    turn: int


@dataclass(frozen=True)
class Rest:
    """Nothing waits."""


Step = Answer | Commit | Finish | Rest


def next_step(log: Sequence[Event]) -> Step:
    """A turn is named by the `seq` of the user's message that opened it; turns run one after the other."""
    ended = {event.data["turn"] for event in log if event.type in TURN_ENDS}
    answers = {event.data["turn"]: event for event in log if event.type is EventType.MESSAGE_ASSISTANT}
    committed = {event.data["turn"] for event in log if event.type is EventType.CREATION_VERSION}
    for event in log:
        if event.type is not EventType.MESSAGE_USER or event.seq is None or event.seq in ended:
            continue
        turn = event.seq
        if turn not in answers:
            return Answer(turn, _conversation(log, answers, turn))
        if turn not in committed:
            return Commit(turn, event.data["text"], answers[turn].data)
        return Finish(turn)
    return Rest()


def _conversation(log: Sequence[Event], answers: dict[int, Event], turn: int) -> tuple[Message, ...]:
    """What was said up to `turn`. A turn without an answer failed: the model is spared it."""
    messages = []
    for event in log:
        if event.type is not EventType.MESSAGE_USER or event.seq is None or event.seq > turn:
            continue
        if event.seq == turn:
            messages.append(Message("user", event.data["text"]))
        elif event.seq in answers:
            messages.append(Message("user", event.data["text"]))
            messages.append(Message("assistant", answers[event.seq].data["text"]))
    return tuple(messages)


def without_old_turns(log: Sequence[Event], budget_chars: int) -> list[Event]:
    """What is still needed of a log: turns that are not over, and the newest that are, as far as models hear them."""
    ended = {event.data["turn"] for event in log if event.type in TURN_ENDS}
    forgotten: set[int] = set()
    used = 0
    for event in reversed(log):
        if event.type is EventType.MESSAGE_ASSISTANT and event.data["turn"] in ended:
            used += len(event.data["text"])
        elif event.type is EventType.MESSAGE_USER and event.seq in ended:
            used += len(event.data["text"])
            if used > budget_chars and event.seq is not None:
                forgotten.add(event.seq)
    return [event for event in log if event.seq not in forgotten and event.data.get("turn") not in forgotten]


def fitting(messages: Sequence[Message], budget_chars: int) -> tuple[Message, ...]:
    """The newest messages that fit, whole exchanges at a time; the last one always stays."""
    kept = list(messages[-1:])
    used = sum(len(message.text) for message in kept)
    older = list(messages[:-1])
    while len(older) >= 2:
        answer, question = older.pop(), older.pop()
        used += len(answer.text) + len(question.text)
        if used > budget_chars:
            break
        kept[:0] = [question, answer]
    return tuple(kept)


def title_of(markdown: str, prompt: str, max_chars: int = 80) -> str:
    """The first heading, or else the prompt, on one line."""
    for line in markdown.splitlines():
        if line.startswith("#") and (heading := line.strip("# \t*_`")):
            return _short(heading, max_chars)
    return _short(prompt, max_chars) or "Untitled"


def _short(text: str, max_chars: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= max_chars else line[: max_chars - 1].rstrip() + "…"
