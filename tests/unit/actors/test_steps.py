"""What a log says must happen next."""

from datetime import UTC, datetime
from typing import Any

from actors.session.steps import Answer, Commit, Finish, Message, Rest, fitting, next_step, title_of, without_old_turns
from serve_app.core.domain.events import Event, EventType
from serve_app.core.domain.ids import new_session_id

SESSION = new_session_id()


def log(*entries: tuple[EventType, dict[str, Any]]) -> list[Event]:
    return [
        Event(session_id=SESSION, seq=number, type=kind, at=datetime.now(UTC), data=data)
        for number, (kind, data) in enumerate(entries, start=1)
    ]


CREATED: tuple[EventType, dict[str, Any]] = (EventType.SESSION_CREATED, {})


def user(text: str) -> tuple[EventType, dict[str, Any]]:
    return EventType.MESSAGE_USER, {"text": text}


def said(turn: int, text: str) -> tuple[EventType, dict[str, Any]]:
    return EventType.MESSAGE_ASSISTANT, {"turn": turn, "text": text}


def test_a_new_session_rests() -> None:
    assert next_step(log(CREATED)) == Rest()


def test_a_turn_goes_through_answer_commit_finish_rest() -> None:
    entries = [CREATED, user("hi")]
    assert next_step(log(*entries)) == Answer(2, (Message("user", "hi"),))
    entries.append(said(2, "hello"))
    assert next_step(log(*entries)) == Commit(2, "hi", {"turn": 2, "text": "hello"})
    entries.append((EventType.CREATION_VERSION, {"turn": 2}))
    assert next_step(log(*entries)) == Finish(2)
    entries.append((EventType.TURN_COMPLETED, {"turn": 2}))
    assert next_step(log(*entries)) == Rest()


def test_messages_posted_during_a_turn_wait_for_theirs_and_hear_what_was_said() -> None:
    entries = [CREATED, user("one"), user("two"), said(2, "first")]
    assert next_step(log(*entries)) == Commit(2, "one", {"turn": 2, "text": "first"})
    entries += [(EventType.CREATION_VERSION, {"turn": 2}), (EventType.TURN_COMPLETED, {"turn": 2})]
    step = next_step(log(*entries))
    assert step == Answer(3, (Message("user", "one"), Message("assistant", "first"), Message("user", "two")))


def test_a_failed_turn_is_over_and_is_not_told_to_the_model() -> None:
    entries = [CREATED, user("bad"), (EventType.TURN_FAILED, {"turn": 2}), user("good")]
    assert next_step(log(*entries)) == Answer(4, (Message("user", "good"),))


def test_history_is_cut_by_whole_exchanges_and_keeps_the_last_message() -> None:
    messages = [Message("user", "a" * 10), Message("assistant", "b" * 10), Message("user", "c" * 10)]
    assert fitting(messages, 100) == tuple(messages)
    assert fitting(messages, 25) == (messages[2],)
    assert fitting(messages[2:], 1) == (messages[2],)


def test_old_turns_are_forgotten_and_open_ones_are_not() -> None:
    entries = [CREATED]
    for turn in (2, 5, 8):
        entries += [user("q" * 10), said(turn, "a" * 10), (EventType.TURN_COMPLETED, {"turn": turn})]
    entries.append(user("now"))
    whole = log(*entries)
    kept = without_old_turns(whole, 45)
    assert [event.seq for event in kept] == [1, 5, 6, 7, 8, 9, 10, 11]
    said_before = (Message("user", "q" * 10), Message("assistant", "a" * 10))
    assert next_step(kept) == Answer(11, (*said_before, *said_before, Message("user", "now")))
    assert without_old_turns(whole, 1_000) == whole


def test_titles_come_from_the_first_heading_or_else_the_prompt() -> None:
    assert title_of("intro\n\n## **Tomatoes**\ntext", "prompt") == "Tomatoes"
    assert title_of("no heading\n#\n", "  two\n words ") == "two words"
    assert title_of("", "x" * 100) == "x" * 79 + "…"
    assert title_of("", " ") == "Untitled"
