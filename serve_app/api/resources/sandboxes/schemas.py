"""Sandboxes, their profiles and their snapshots, as the API takes and shows them."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from configs.sandboxes import BackendName, Profile
from serve_app.api.deps import Text
from serve_app.core.domain.ids import SandboxId, SessionId, SnapshotId, UserId
from serve_app.core.domain.sandboxes import EndReason, SandboxState, Service

_MOST_SERVICES = 16
Argument = Annotated[Text, Field(max_length=32_768)]


class ServiceIn(BaseModel):
    """A program that is started with the sandbox, and again whenever it comes back."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    argv: list[Argument] = Field(min_length=1, max_length=256)
    cwd: Text = Field(".", max_length=4096)
    env: dict[Text, Argument] = Field(default_factory=dict, max_length=256)
    port: int | None = Field(None, ge=1, le=65535, description="what it listens on, for those who look for it")

    def as_service(self) -> Service:
        return Service(name=self.name, argv=tuple(self.argv), cwd=self.cwd, env=dict(self.env), port=self.port)


class SandboxIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    profile: str | None = Field(None, max_length=40, description="default: the platform's own; see /sandbox-profiles")
    session_id: str | None = Field(None, max_length=40, description="the session it works for")
    services: list[ServiceIn] = Field(default_factory=list, max_length=_MOST_SERVICES)


class SandboxOut(BaseModel):
    """`stored`: only its workspace is left, and the next use brings it back. `ended`: it is no more."""

    model_config = ConfigDict(from_attributes=True)
    id: SandboxId
    profile: str
    state: SandboxState
    user_id: UserId
    session_id: SessionId | None
    snapshot_id: SnapshotId | None
    services: list[Service]
    created_at: datetime
    active_at: datetime
    ended_at: datetime | None
    end_reason: EndReason | None


class SandboxesOut(BaseModel):
    items: list[SandboxOut]
    next_cursor: str | None


class SnapshotOut(BaseModel):
    """`size_bytes` is the workspace's, `stored_bytes` what this snapshot added to what was stored before,
    and what it keeps of those before it that were deleted."""

    model_config = ConfigDict(from_attributes=True)
    id: SnapshotId
    sandbox_id: SandboxId
    parent_id: SnapshotId | None
    files: int
    size_bytes: int
    stored_bytes: int
    created_at: datetime


class SnapshotsOut(BaseModel):
    items: list[SnapshotOut]
    next_cursor: str | None


class ForkIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    snapshot_id: str | None = Field(
        None, max_length=40, description="one of this sandbox's; default: its workspace now"
    )


class LimitsOut(BaseModel):
    """Cores, bytes and counts; each is enforced."""

    model_config = ConfigDict(from_attributes=True)
    cpu: float
    memory: int
    disk: int
    inodes: int
    processes: int
    open_files: int


class EgressOut(BaseModel):
    """The hosts and ports a sandbox may reach, through its proxy; none where `allow` is empty."""

    model_config = ConfigDict(from_attributes=True)
    allow: list[str]
    ports: list[int]
    bytes: int
    connections: int


class ProfileOut(BaseModel):
    """Times in seconds; the price in US dollars as a decimal string, charged while its processes may run.

    `packages`: Python packages that are there; with another backend than bubblewrap they are its image's matter.
    """

    id: str
    description: str
    is_default: bool
    backend: BackendName
    packages: list[str]
    limits: LimitsOut
    egress: EgressOut
    may_use_connectors: bool
    wall_s: int
    idle_s: int
    keep_s: int
    price_per_hour: str

    @classmethod
    def of(cls, profile: Profile, default: str) -> "ProfileOut":
        return cls(
            id=profile.id,
            description=profile.description,
            is_default=profile.id == default,
            backend=profile.backend,
            packages=list(profile.packages),
            limits=LimitsOut.model_validate(profile.limits),
            egress=EgressOut.model_validate(profile.egress),
            may_use_connectors=profile.may_use_connectors,
            wall_s=profile.wall_s,
            idle_s=profile.idle_s,
            keep_s=profile.keep_s,
            price_per_hour=f"{profile.price_per_hour:f}",
        )


class ProfilesOut(BaseModel):
    items: list[ProfileOut]
