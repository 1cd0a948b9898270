"""Tickets and keys, without a database."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import new_org_id, new_user_id
from serve_app.core.domain.keys import StoredKey
from serve_app.core.errors import UnauthenticatedError
from serve_app.core.services.callers import Authenticator, TicketSigner, make_key


class SetClock:
    """A clock a test turns."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


class Keys:
    """Keys in a dict."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredKey] = {}
        self.lookups = 0

    async def find_key(self, prefix: str) -> StoredKey | None:
        self.lookups += 1
        return self.stored.get(prefix)


CALLER = Caller(org_id=new_org_id(), user_id=new_user_id(), role="member")
SIGNER = TicketSigner(b"k" * 32, SetClock())


def test_a_ticket_brings_its_caller_back_for_its_purpose_until_it_expires() -> None:
    clock = SetClock()
    signer = TicketSigner(b"k" * 32, clock)
    ticket = signer.issue(CALLER, "models", 60)
    assert signer.read(ticket, "models") == CALLER
    assert len(ticket) < 100
    with pytest.raises(UnauthenticatedError):
        signer.read(ticket, "preview:cre_x")
    with pytest.raises(UnauthenticatedError):
        TicketSigner(b"j" * 32, clock).read(ticket, "models")
    clock.time += timedelta(seconds=61)
    with pytest.raises(UnauthenticatedError):
        signer.read(ticket, "models")


@given(st.text(max_size=120))
def test_no_text_is_a_ticket_by_luck(text: str) -> None:
    for attempt in (text, "aet_" + text):
        with pytest.raises(UnauthenticatedError):
            SIGNER.read(attempt, "models")


@given(st.integers(0, 89), st.characters(codec="ascii", categories=["L", "N"]))
def test_changing_any_character_breaks_a_ticket(position: int, letter: str) -> None:
    ticket = SIGNER.issue(CALLER, "models", 60)
    changed = ticket[:position] + letter + ticket[position + 1 :]
    if changed != ticket:
        with pytest.raises(UnauthenticatedError):
            SIGNER.read(changed, "models")


async def test_a_key_is_looked_up_once_a_second_and_dies_when_revoked() -> None:
    clock, keys = SetClock(), Keys()
    authenticator = Authenticator(keys, TicketSigner(b"k" * 32, clock), clock)
    key = make_key()
    keys.stored[key.prefix] = StoredKey(CALLER.org_id, CALLER, key.secret_digest, None)  # type: ignore[arg-type]  # any id
    for _ in range(5):
        assert await authenticator.authenticate(key.text) == CALLER
    assert keys.lookups == 1
    keys.stored[key.prefix] = StoredKey(CALLER.org_id, CALLER, key.secret_digest, clock.now())  # type: ignore[arg-type]  # any id
    clock.time += timedelta(seconds=1.1)
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate(key.text)


async def test_tickets_are_taken_only_where_an_edge_asks_for_them() -> None:
    clock = SetClock()
    signer = TicketSigner(b"k" * 32, clock)
    authenticator = Authenticator(Keys(), signer, clock)
    ticket = signer.issue(CALLER, "models", 60)
    assert await authenticator.authenticate(ticket, "models") == CALLER
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate(ticket)
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate(ticket, "other")
