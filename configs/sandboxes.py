"""Sandbox profiles: what a sandbox may use, reach and cost, read from YAML."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

DEFAULT_PATH = Path(__file__).with_name("sandboxes.yaml")
_HOST = r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NANOS_PER_DOLLAR = 1_000_000_000
_SECONDS_PER_HOUR = 3600

BackendName = Literal["bubblewrap", "docker", "gvisor", "ray"]
"""`docker` is Docker with runc, `gvisor` Docker with runsc, `ray` Ray's own sandboxes."""


class ProfileError(Exception):
    """The profiles cannot be used; the message names the place and what is wrong there."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Entry):
    """What one sandbox may use. Every one of them is enforced, or the sandbox does not start."""

    cpu: Annotated[float, Field(ge=0.05, le=64)] = 1.0
    """Cores."""
    memory: Annotated[ByteSize, Field(ge=32 * 1024**2, le=1024 * 1024**3)] = ByteSize(1024**3)
    disk: Annotated[ByteSize, Field(ge=1024**2, le=1024 * 1024**3)] = ByteSize(1024**3)
    """Bytes of the workspace, `/tmp` and home together."""
    inodes: Annotated[int, Field(ge=1000, le=10_000_000)] = 200_000
    processes: Annotated[int, Field(ge=8, le=10_000)] = 256
    """Processes and threads."""
    open_files: Annotated[int, Field(ge=32, le=65_536)] = 1024
    """Descriptors of one process."""


class Egress(_Entry):
    """Which hosts a sandbox may reach, through the proxy and in no other way. None by default."""

    allow: tuple[Annotated[str, Field(pattern=f"^{_HOST}$", max_length=253)], ...] = ()
    """Names; `*.example.org` is every name below it, not itself."""
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = (443, 80)
    bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(1024**3)
    """Both ways together, as long as a sandbox lives on one node and its pool does."""
    connections: Annotated[int, Field(ge=1, le=96)] = 32
    """At one time. The supervisor has 128 for everything."""


class Profile(_Entry):
    """One kind of sandbox."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    description: str = ""
    backend: BackendName = "bubblewrap"
    image: str | None = None
    """For Docker and Ray. bubblewrap shows the host's own system, read only."""
    packages: tuple[str, ...] = ()
    """Python packages of the platform's own environment that a bubblewrap sandbox sees, with what they need."""
    limits: Limits = Limits()
    egress: Egress = Egress()
    may_use_connectors: bool = False
    wall_s: Annotated[int, Field(ge=1, le=30 * 86_400)] = 86_400
    """From lease to end, frozen time included."""
    idle_s: Annotated[int, Field(ge=1)] = 300
    """Without use until its processes are frozen."""
    keep_s: Annotated[int, Field(ge=1)] = 600
    """Frozen until the workspace is stored and the sandbox given up; the next use brings it back."""
    warm: Annotated[int, Field(ge=0, le=256)] = 0
    """How many wait on each node for somebody to need them."""
    most: Annotated[int, Field(ge=1, le=4096)] = 64
    """At one time on one node."""
    price_per_hour: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    """US dollars, charged by the second while its processes may run."""

    @field_validator("packages")
    @classmethod
    def _packages_are_names(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [name for name in packages if not name.replace("-", "").replace("_", "").replace(".", "").isalnum()]:
            raise ValueError(f"not names of packages: {', '.join(bad)}")
        return packages

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.backend in {"docker", "gvisor", "ray"} and not self.image:
            raise ValueError(f"backend {self.backend} needs an image")
        if self.backend == "bubblewrap" and self.image:
            raise ValueError("bubblewrap shows the host's system and takes no image")
        if self.packages and self.backend != "bubblewrap":
            raise ValueError("packages go into the image for this backend")
        if self.warm > self.most:
            raise ValueError("warm is more than most")
        return self

    @property
    def has_way_out(self) -> bool:
        """There is a proxy on 127.0.0.1 inside, and somebody who answers there."""
        return bool(self.egress.allow) or self.may_use_connectors

    @property
    def nanos_per_second(self) -> int:
        """Nano-dollars, rounded up."""
        return -int(-self.price_per_hour * _NANOS_PER_DOLLAR // _SECONDS_PER_HOUR)


class Profiles(_Entry):
    """All profiles. `default` is what is used where nobody names one."""

    default: str
    profiles: tuple[Profile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        ids = [profile.id for profile in self.profiles]
        if len(set(ids)) < len(ids):
            raise ValueError("two profiles have the same id")
        if self.default not in ids:
            raise ValueError(f"default: there is no profile {self.default}")
        return self

    def find(self, profile_id: str | None) -> Profile | None:
        """None: there is no such profile."""
        wanted = profile_id or self.default
        return next((profile for profile in self.profiles if profile.id == wanted), None)


def load_profiles(path: Path = DEFAULT_PATH) -> Profiles:
    """Raises `ProfileError`, naming the file, the place in it and what is wrong."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ProfileError(f"{path}: {exc}") from exc
    try:
        return Profiles.model_validate(found)
    except ValidationError as exc:
        lines = [
            f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}"
            for error in exc.errors(include_input=False, include_url=False)
        ]
        raise ProfileError(f"{path}:\n  " + "\n  ".join(lines)) from exc
