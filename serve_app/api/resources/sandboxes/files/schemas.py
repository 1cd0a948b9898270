"""Files, as the API takes and shows them. A name that is no UTF-8 is shown with replacements, beside its exact bytes."""

import os
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from actors.sandbox.door.entries import Entry, Match
from serve_app.api.deps import Text

Path = Annotated[Text, Field(min_length=1, max_length=4096)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_NS = 253_402_300_799 * 10**9


class EntryOut(BaseModel):
    """`mode` is octal. `raw_path` is the path as it goes into a query, where `path` cannot tell it. Links are not
    followed: `target` is where one leads."""

    path: str
    raw_path: str | None = None
    kind: Literal["file", "directory", "link", "other"]
    size: int
    mode: str
    modified_at: datetime
    target: str | None = None

    @classmethod
    def of(cls, entry: Entry) -> Self:
        return cls(
            path=shown(entry.path),
            raw_path=raw(entry.path),
            kind=entry.kind,
            size=entry.size,
            mode=f"{entry.mode:04o}",
            modified_at=time_of(entry.mtime_ns),
            target=None if entry.target is None else shown(entry.target),
        )


class EntriesOut(BaseModel):
    """`cut`: there were more."""

    items: list[EntryOut]
    cut: bool


class WrittenOut(BaseModel):
    size: int


class UnpackedOut(BaseModel):
    files: int


class EditIn(BaseModel):
    """`old` must be there exactly once, or with `all` at least once."""

    model_config = ConfigDict(extra="forbid")
    path: Path
    old: str = Field(min_length=1, max_length=100_000)
    new: str = Field(max_length=100_000)
    all: bool = False


class EditedOut(BaseModel):
    replaced: int


class MoveIn(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    source: Path = Field(alias="from")
    target: Path = Field(alias="to")
    replace: bool = False


class FolderIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: Path


class SearchIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pattern: Text = Field(min_length=1, max_length=1000, description="a regular expression")
    path: Path = "."
    glob: Text | None = Field(None, max_length=1000, description="only files whose names match")
    limit: int = Field(100, ge=1, le=1000)


class MatchOut(BaseModel):
    path: str
    raw_path: str | None = None
    line: int
    text: str

    @classmethod
    def of(cls, match: Match) -> Self:
        return cls(path=shown(match.path), raw_path=raw(match.path), line=match.line, text=match.text)


class MatchesOut(BaseModel):
    """`cut`: there were more."""

    items: list[MatchOut]
    cut: bool


def shown(path: str) -> str:
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def raw(path: str) -> str | None:
    return None if shown(path) == path else quote(os.fsencode(path))


def time_of(nanos: int) -> datetime:
    """What a sandbox tells may be any number."""
    return _EPOCH + timedelta(microseconds=max(0, min(nanos, _LATEST_NS)) // 1000)
