"""Catalogue entries of an organisation's own, in the catalogue's words, and what they may not say."""

import math
import re
from collections.abc import Iterator
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, Field

from configs.catalog import LOCAL, Alias, ModelEntry, ProviderEntry

MAX_ENTRY_BYTES = 8 * 1024
_MAX_NUMBER = 10**8
_MAX_PRICE = 10_000
"""With the largest context, a call's cost still is a number that all who count it can hold."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,199}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,1000}")
_NOT_TO_BE_SET = frozenset(
    [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "accept-encoding",
    ]
)
_SECRETS = frozenset(["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"])

Problem = tuple[str, str]
"""(field, what is wrong with it)"""
Entry = TypeVar("Entry", ModelEntry, Alias, ProviderEntry)


class EntriesOut(BaseModel, Generic[Entry]):
    items: list[Entry]
    unreadable: list[str] = Field(description="ids of stored entries this version cannot read; replace or delete them")
    next_cursor: str | None


class ModelsOut(EntriesOut[ModelEntry]):
    pass


class AliasesOut(EntriesOut[Alias]):
    pass


class ProvidersOut(EntriesOut[ProviderEntry]):
    pass


def problems_of_any(entry: BaseModel) -> Iterator[Problem]:
    """What no entry may hold: the database and the accounts could not carry it."""
    content = entry.model_dump(mode="json", exclude_unset=True)
    found = list(_unstorable(content, ""))
    yield from found
    if not found and len(orjson.dumps(content)) > MAX_ENTRY_BYTES:
        yield "", f"must be at most {MAX_ENTRY_BYTES} bytes"


def problems_of_model(model: ModelEntry) -> Iterator[Problem]:
    if model.provider == LOCAL:
        yield "provider", "models this platform runs are added by its operator"
    for field in ("engine", "source", "vllm", "adapter_of"):
        if getattr(model, field) is not None:
            yield field, "belongs to models this platform runs"
    if model.name is not None and not _NAME.fullmatch(model.name):
        yield "name", "must be 1 to 200 letters, digits and . _ : @ / -"
    for field, price in _prices(model):
        if price > _MAX_PRICE:
            yield field, f"must be at most {_MAX_PRICE} dollars"


def problems_of_provider(provider: ProviderEntry) -> Iterator[Problem]:
    if provider.id == LOCAL:
        yield "id", "is the platform's own"
    if provider.credentials:
        yield "credentials", "must be left out: store keys at /api/v1/provider-keys"
    if provider.base_url is None:
        yield "base_url", "is needed"
    elif not _is_plain_address(provider.base_url):
        yield "base_url", "must be http(s)://host, with a port and a path if need be, and no user name"
    for name, value in provider.headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            yield f"headers.{name[:100]}", "is no header that HTTP can carry"
        elif name.lower() in _NOT_TO_BE_SET:
            yield f"headers.{name}", "is set by the platform"
        elif name.lower() in _SECRETS:
            yield f"headers.{name}", "holds a secret: store it at /api/v1/provider-keys"


def _prices(model: ModelEntry) -> Iterator[tuple[str, float]]:
    for where, listed in (("price", model.price), ("price.long", model.price.long)):
        for name, price in listed or ():
            if isinstance(price, float):
                yield f"{where}.{name}", price


def _is_plain_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return False


def _unstorable(value: Any, where: str) -> Iterator[Problem]:
    match value:
        case str() if "\x00" in value:
            yield where, "must not contain a NUL character"
        case bool():
            pass
        case int() | float() if not math.isfinite(value) or abs(value) > _MAX_NUMBER:
            yield where, f"must be at most {_MAX_NUMBER}"
        case dict():
            for name, item in value.items():
                yield from _unstorable(name, f"{where}.{name}".strip("."))
                yield from _unstorable(item, f"{where}.{name}".strip("."))
        case list():
            for index, item in enumerate(value):
                yield from _unstorable(item, f"{where}.{index}")
