"""Stored responses as OpenAI's endpoints answer them, and conversations that go on from one."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

import orjson

from serve_app.core.clock import Clock
from serve_app.core.domain.ids import OrgId, UserId
from serve_app.core.domain.responses import StoredResponse
from serve_app.core.errors import InvalidRequestError, NotFoundError
from serve_app.router.dialects.openai_responses_wire import response_of_item
from serve_app.router.dialects.responses_schema import kind_of

KEEP = timedelta(days=30)
MAX_TURNS = 200
MAX_BYTES = 4 * 1024 * 1024
MAX_PAGE = 100

_DONE = frozenset({"completed", "incomplete"})
_INPUT_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}

Item = dict[str, Any]


class ResponseStore(Protocol):
    """Where responses are kept; `SqlResponseRepository` says what each does."""

    async def put(
        self,
        org_id: OrgId,
        response_id: str,
        user_id: UserId,
        expires_at: datetime,
        body: dict[str, Any],
        items: Sequence[dict[str, Any]],
    ) -> None: ...

    async def get(self, org_id: OrgId, response_id: str) -> StoredResponse: ...

    async def find(self, org_id: OrgId, ids: Sequence[str]) -> list[StoredResponse]: ...

    async def chain(self, org_id: OrgId, response_id: str, max_turns: int, max_bytes: int) -> list[StoredResponse]: ...

    async def delete(self, org_id: OrgId, response_id: str) -> None: ...


class Conversations:
    """What an organisation's requests may go on from. Nothing here looks at who in the organisation stored it."""

    def __init__(self, repository: ResponseStore, clock: Clock) -> None:
        self._stored = repository
        self._clock = clock

    async def resolve(self, org_id: OrgId, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The request with the whole conversation as its `input`; unchanged when it refers to nothing stored.

        References to items of stored responses become those items.

        Raises:
            InvalidRequestError: the previous response is not there, or the conversation is too long.
        """
        previous = raw.get("previous_response_id")
        if previous is None and not _references(raw.get("input")):
            return dict(raw)
        items = _sent(raw)
        if previous is not None:
            items = [*await self._earlier(org_id, previous), *items]
        items = await self._dereferenced(org_id, items)
        return {name: value for name, value in raw.items() if name != "previous_response_id"} | {"input": items}

    async def remember(
        self, org_id: OrgId, user_id: UserId, raw: Mapping[str, Any], response: Mapping[str, Any]
    ) -> None:
        """Store a response unless its request said not to. `raw` is the request as it came, before `resolve`."""
        if raw.get("store") is False or response.get("status") not in _DONE:
            return
        body = {**response, "previous_response_id": raw.get("previous_response_id"), "store": True}
        await self._stored.put(org_id, body["id"], user_id, self._clock.now() + KEEP, body, _sent(raw))

    async def retrieve(self, org_id: OrgId, response_id: str) -> dict[str, Any]:
        """Raises `NotFoundError`."""
        return (await self._get(org_id, response_id)).body

    async def delete(self, org_id: OrgId, response_id: str) -> dict[str, Any]:
        """Conversations that went on from it cannot go on any more.

        Raises:
            NotFoundError: it is not there.
        """
        try:
            await self._stored.delete(org_id, response_id)
        except NotFoundError as exc:
            raise _not_found(response_id) from exc
        return {"id": response_id, "object": "response", "deleted": True}

    async def input_items(
        self,
        org_id: OrgId,
        response_id: str,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """One page of what the caller sent for this response.

        Raises:
            NotFoundError: the response is not there.
            InvalidRequestError: `limit`, `order` or `after` is not possible.
        """
        if not 1 <= limit <= MAX_PAGE:
            bound, sign, side = (1, ">=", "below_min") if limit < 1 else (MAX_PAGE, "<=", "above_max")
            raise InvalidRequestError(
                f"Invalid 'limit': integer {side.replace('_', ' ')}imum value. "
                f"Expected a value {sign} {bound}, but got {limit} instead.",
                param="limit",
                code=f"integer_{side}_value",
            )
        if order not in {"asc", "desc"}:
            raise InvalidRequestError(
                f"Invalid value: '{order}'. Supported values are: 'asc' and 'desc'.",
                param="order",
                code="invalid_value",
            )
        stored = await self._get(org_id, response_id)
        items = _with_ids(stored)
        if order == "desc":
            items.reverse()
        if after is not None:
            ids = [item.get("id") for item in items]
            if after not in ids:
                raise InvalidRequestError(f"No item with id '{after}' found.", param="after", code="invalid_value")
            items = items[ids.index(after) + 1 :]
        page = items[:limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0].get("id") if page else None,
            "last_id": page[-1].get("id") if page else None,
            "has_more": len(items) > limit,
        }

    async def _get(self, org_id: OrgId, response_id: str) -> StoredResponse:
        try:
            return await self._stored.get(org_id, response_id)
        except NotFoundError as exc:
            raise _not_found(response_id) from exc

    async def _earlier(self, org_id: OrgId, response_id: str) -> list[Item]:
        # The store measures JSON with spaces in it; the exact measure is taken below.
        turns = await self._stored.chain(org_id, response_id, MAX_TURNS, 2 * MAX_BYTES)
        if len(turns) > MAX_TURNS:
            raise _too_long(f"it has more than {MAX_TURNS} turns")
        items = [item for turn in turns for item in (*turn.input, *turn.body["output"])]
        if len(orjson.dumps(items)) > MAX_BYTES:
            raise _too_long(f"it is larger than {MAX_BYTES // 1024 // 1024} MiB")
        missing = turns[0].body.get("previous_response_id") if turns else response_id
        if missing is not None:
            raise InvalidRequestError(
                f"Previous response with id '{missing}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return items

    async def _dereferenced(self, org_id: OrgId, items: list[Item]) -> list[Item]:
        """References to what is not stored here stay: the provider may know them."""
        here = {item["id"]: item for item in items if "id" in item and kind_of(item) != "item_reference"}
        wanted = {response_of_item(reference) for reference in _references(items) if reference not in here}
        for stored in await self._stored.find(org_id, sorted(wanted)) if wanted else ():
            here |= {item["id"]: item for item in (*stored.input, *stored.body["output"]) if "id" in item}
        return [here.get(item["id"], item) if kind_of(item) == "item_reference" else item for item in items]


def _sent(raw: Mapping[str, Any]) -> list[Item]:
    """The `input` of a request as a list of items."""
    sent = raw.get("input") or []
    if isinstance(sent, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": sent}]}]
    return list(sent)


def _with_ids(stored: StoredResponse) -> list[Item]:
    """The items as they are listed. An id the caller did not give is made here and only here: a provider that was sent
    one would look for the item it names."""
    tail = stored.id.removeprefix("resp_")
    return [
        {"id": f"{_INPUT_PREFIXES.get(kind_of(item), 'item')}_in{index}_{tail}", **item}
        for index, item in enumerate(stored.input)
    ]


def _references(items: Any) -> list[str]:
    if not isinstance(items, list):
        return []
    return [item["id"] for item in items if kind_of(item) == "item_reference"]


def _not_found(response_id: str) -> NotFoundError:
    return NotFoundError(f"Response with id '{response_id}' not found.", param=None, code=None)


def _too_long(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"This conversation is too long to go on from: {why}. Send what matters of it as 'input' instead.",
        param="previous_response_id",
        code="conversation_too_long",
    )
