"""Sandboxes as the platform knows them: their state, who holds them, the snapshots of their workspaces."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from serve_app.core.domain.ids import KeyId, LeaseId, OrgId, SandboxId, SessionId, SnapshotId, UserId


class SandboxState(StrEnum):
    """`starting` → `running` ⇄ `frozen` → `stored` → `starting` …, and `ended` from each of them."""

    STARTING = "starting"
    RUNNING = "running"
    FROZEN = "frozen"
    """In memory, and none of its processes runs."""
    STORED = "stored"
    """Only its workspace is left, as a snapshot; the next use starts it again."""
    ENDED = "ended"


class EndReason(StrEnum):
    """Why a sandbox is no more."""

    DELETED = "deleted"
    WALL_LIMIT = "wall_limit"
    LOST = "lost"
    """Its node, its pool or its own supervisor died and no snapshot was there to go back to."""
    FAILED = "failed"
    """It could not be started."""


class Service(BaseModel):
    """A program that belongs to a sandbox: started again when the sandbox comes back."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    argv: tuple[str, ...] = Field(min_length=1, max_length=256)
    cwd: str = "."
    env: dict[str, str] = Field(default_factory=dict, max_length=256)
    port: int | None = Field(None, ge=1, le=65535)


@dataclass(frozen=True)
class Door:
    """How to reach a sandbox. `path` is a Unix socket on the node `node_id`; `relay` (`host:port`) leads there from
    other nodes. `token` proves the lease: 32 hexadecimal characters, void when the lease ends."""

    node_id: str
    path: str
    token: str
    relay: str | None = None


@dataclass(frozen=True)
class Lease:
    """A sandbox in somebody's hands. `fence` grows with each lease of one sandbox id."""

    id: LeaseId
    sandbox_id: SandboxId
    fence: int
    door: Door
    ttl_s: float
    """It ends when not renewed for so long."""


@dataclass(frozen=True)
class Sandbox:
    """A row. `lease` is there while it is running or frozen; `fence` is that of the newest start; `node_id` is where it
    was last."""

    id: SandboxId
    org_id: OrgId
    user_id: UserId
    session_id: SessionId | None
    profile: str
    state: SandboxState
    fence: int
    lease: Lease | None
    node_id: str | None
    snapshot_id: SnapshotId | None
    services: tuple[Service, ...]
    created_at: datetime
    active_at: datetime
    ended_at: datetime | None
    end_reason: EndReason | None
    key_id: KeyId | None = None
    """The API key it was made with: that key's budgets pay for it."""


@dataclass(frozen=True)
class Snapshot:
    """A workspace at one moment. `manifest` is the digest (SHA-256, hexadecimal) of its list of files."""

    id: SnapshotId
    org_id: OrgId
    sandbox_id: SandboxId
    parent_id: SnapshotId | None
    manifest: str
    files: int
    size_bytes: int
    stored_bytes: int
    """What this snapshot added to the store, and what it keeps there of those before it that are gone."""
    created_at: datetime
