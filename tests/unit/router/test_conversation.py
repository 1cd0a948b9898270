"""Conversations that go on from stored responses, with what is stored held in memory."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.core.domain.ids import OrgId, UserId, new_org_id, new_user_id
from serve_app.core.domain.responses import StoredResponse
from serve_app.core.errors import InvalidRequestError, NotFoundError
from serve_app.router.conversation import KEEP, MAX_BYTES, MAX_TURNS, Conversations
from serve_app.router.dialects.openai_responses_wire import item_id

ORG, OTHER, USER = new_org_id(), new_org_id(), new_user_id()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class StoppedClock:
    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class MemoryResponses:
    """Keeps responses by organisation; `tests/integration/test_stored_responses.py` holds PostgreSQL to the same."""

    def __init__(self) -> None:
        self.kept: dict[tuple[OrgId, str], StoredResponse] = {}

    async def put(
        self,
        org_id: OrgId,
        response_id: str,
        user_id: UserId,
        expires_at: datetime,
        body: dict[str, Any],
        items: Sequence[dict[str, Any]],
    ) -> None:
        one = StoredResponse(response_id, org_id, user_id, NOW, expires_at, tuple(items), body)
        self.kept.setdefault((org_id, response_id), one)

    async def get(self, org_id: OrgId, response_id: str) -> StoredResponse:
        try:
            return self.kept[org_id, response_id]
        except KeyError as exc:
            raise NotFoundError("There is no such response.") from exc

    async def find(self, org_id: OrgId, ids: Sequence[str]) -> list[StoredResponse]:
        return [self.kept[org_id, one] for one in ids if (org_id, one) in self.kept]

    async def chain(self, org_id: OrgId, response_id: str, max_turns: int, max_bytes: int) -> list[StoredResponse]:
        turns: list[StoredResponse] = []
        at: str | None = response_id
        while at is not None and (org_id, at) in self.kept and len(turns) <= max_turns:
            turns.insert(0, self.kept[org_id, at])
            at = turns[0].body["previous_response_id"]
        return turns

    async def delete(self, org_id: OrgId, response_id: str) -> None:
        await self.get(org_id, response_id)
        del self.kept[org_id, response_id]


def message(text: str, index: int = 0, response_id: str = "resp_1") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": item_id("msg", response_id, index), "role": "assistant", "content": content}


def response(response_id: str, *output: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    return {"id": response_id, "status": status, "output": list(output), "previous_response_id": None}


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"] if isinstance(item["content"], str) else item["content"][0]["text"] for item in items]


@pytest.fixture
def stored() -> MemoryResponses:
    return MemoryResponses()


@pytest.fixture
def conversations(stored: MemoryResponses) -> Conversations:
    return Conversations(stored, StoppedClock())


async def tell(conversations: Conversations, turns: int) -> str:
    """A conversation of so many turns; the id of its last response."""
    previous = None
    for turn in range(turns):
        raw = {"model": "m", "input": f"question {turn}"} | ({"previous_response_id": previous} if previous else {})
        previous = f"resp_{turn}"
        await conversations.remember(ORG, USER, raw, response(previous, message(f"answer {turn}")))
    assert previous
    return previous


async def test_a_request_that_refers_to_nothing_stays_as_it_is(conversations: Conversations) -> None:
    for sent in ("Hi", [{"role": "user", "content": "Hi"}]):
        raw = {"model": "m", "input": sent, "unknown": 1}
        assert await conversations.resolve(ORG, raw) == raw


async def test_the_whole_conversation_comes_before_the_new_input(conversations: Conversations) -> None:
    last = await tell(conversations, 2)
    raw = {"model": "m", "previous_response_id": last, "input": [{"role": "user", "content": "new"}], "store": False}
    resolved = await conversations.resolve(ORG, raw)
    assert texts(resolved.pop("input")) == ["question 0", "answer 0", "question 1", "answer 1", "new"]
    assert resolved == {"model": "m", "store": False}


async def test_no_id_is_made_up_for_what_the_caller_sent(conversations: Conversations) -> None:
    last = await tell(conversations, 1)
    resolved = await conversations.resolve(ORG, {"model": "m", "previous_response_id": last})
    assert "id" not in resolved["input"][0]


@pytest.mark.parametrize("store", [False, True, None])
async def test_a_response_is_stored_unless_its_request_said_no(
    conversations: Conversations, stored: MemoryResponses, store: bool | None
) -> None:
    await conversations.remember(ORG, USER, {"model": "m", "input": "Hi", "store": store}, response("resp_1"))
    assert bool(stored.kept) is (store is not False)
    if stored.kept:
        assert stored.kept[ORG, "resp_1"].expires_at == NOW + KEEP == NOW + timedelta(days=30)


async def test_a_response_that_failed_is_not_stored(conversations: Conversations, stored: MemoryResponses) -> None:
    await conversations.remember(ORG, USER, {"model": "m", "input": "Hi"}, response("resp_1", status="failed"))
    assert not stored.kept


async def test_a_stored_response_names_the_one_before(conversations: Conversations) -> None:
    last = await tell(conversations, 2)
    assert (await conversations.retrieve(ORG, last))["previous_response_id"] == "resp_0"


@pytest.mark.parametrize("org", [ORG, OTHER])
async def test_an_unknown_previous_response(conversations: Conversations, org: OrgId) -> None:
    last = "resp_unknown" if org == ORG else await tell(conversations, 1)
    with pytest.raises(InvalidRequestError) as refused:
        await conversations.resolve(org, {"model": "m", "input": "Hi", "previous_response_id": last})
    assert refused.value.message == f"Previous response with id '{last}' not found."
    assert refused.value.details == {"param": "previous_response_id", "code": "previous_response_not_found"}


async def test_a_conversation_with_a_deleted_turn_does_not_go_on(conversations: Conversations) -> None:
    last = await tell(conversations, 3)
    assert await conversations.delete(ORG, "resp_0") == {"id": "resp_0", "object": "response", "deleted": True}
    with pytest.raises(InvalidRequestError, match="'resp_0' not found"):
        await conversations.resolve(ORG, {"model": "m", "input": "Hi", "previous_response_id": last})


async def test_turns_are_bounded(conversations: Conversations) -> None:
    await tell(conversations, MAX_TURNS + 1)
    raw = {"model": "m", "input": "Hi"}
    fits = await conversations.resolve(ORG, raw | {"previous_response_id": f"resp_{MAX_TURNS - 1}"})
    assert len(fits["input"]) == 2 * MAX_TURNS + 1
    with pytest.raises(InvalidRequestError) as refused:
        await conversations.resolve(ORG, raw | {"previous_response_id": f"resp_{MAX_TURNS}"})
    assert refused.value.details["code"] == "conversation_too_long"


async def test_size_is_bounded(conversations: Conversations) -> None:
    await conversations.remember(ORG, USER, {"model": "m", "input": "x" * MAX_BYTES}, response("resp_1"))
    with pytest.raises(InvalidRequestError, match="larger than 4 MiB"):
        await conversations.resolve(ORG, {"model": "m", "input": "Hi", "previous_response_id": "resp_1"})


async def test_a_reference_becomes_the_item_it_names(conversations: Conversations) -> None:
    one, two = message("one", 0, "resp_a"), message("two", 1, "resp_a")
    await conversations.remember(ORG, USER, {"model": "m", "input": "Hi"}, response("resp_a", one, two))
    sent = [
        {"type": "item_reference", "id": two["id"]},
        {"id": one["id"]},
        {"type": "item_reference", "id": "msg_else"},
    ]
    resolved = await conversations.resolve(ORG, {"model": "m", "input": sent})
    assert resolved["input"] == [two, one, sent[2]]
    assert (await conversations.resolve(OTHER, {"model": "m", "input": sent}))["input"] == sent


async def test_what_was_sent_is_listed_in_pages(conversations: Conversations) -> None:
    sent = [{"role": "user", "content": str(number)} for number in range(5)]
    await conversations.remember(ORG, USER, {"model": "m", "input": sent}, response("resp_1"))
    first = await conversations.input_items(ORG, "resp_1", limit=2)
    assert (texts(first["data"]), first["has_more"], first["object"]) == (["4", "3"], True, "list")
    rest = await conversations.input_items(ORG, "resp_1", after=first["last_id"])
    assert (texts(rest["data"]), rest["has_more"]) == (["2", "1", "0"], False)
    up = await conversations.input_items(ORG, "resp_1", order="asc", limit=1)
    assert up["first_id"] == up["last_id"] == rest["last_id"]
    empty = await conversations.input_items(ORG, "resp_1", after=rest["last_id"])
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)


@pytest.mark.parametrize("asked", [{"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "msg_nowhere"}])
async def test_a_page_that_cannot_be(conversations: Conversations, asked: dict[str, Any]) -> None:
    await tell(conversations, 1)
    with pytest.raises(InvalidRequestError) as refused:
        await conversations.input_items(ORG, "resp_0", **asked)
    assert refused.value.details["param"] in asked


async def test_what_is_not_there_is_not_found(conversations: Conversations) -> None:
    for ask in (conversations.retrieve, conversations.delete, conversations.input_items):
        with pytest.raises(NotFoundError, match=r"Response with id 'resp_x' not found\."):
            await ask(ORG, "resp_x")
