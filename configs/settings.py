"""Typed settings from `AETHER_*`, and providers' keys: the only reader of the environment in AetherOS.

Every group is its own class with its own prefix, so `AETHER_DATABASE_URL` is `settings.database.url`. An
unknown `AETHER_*` name or a bad value raises `SettingsError`, which names the variable and never its value.
"""

import difflib
import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from configs.catalog import Catalog

PREFIX = "AETHER_"
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound


class SettingsError(Exception):
    """The environment holds an `AETHER_*` variable that is unknown or has a bad value."""


class _Group(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True)


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "aetheros"


class HttpSettings(_Group):
    """Where people reach the platform."""

    model_config = SettingsConfigDict(env_prefix="AETHER_HTTP_")
    host: str = Field("127.0.0.1", description="address the HTTP proxy binds; 0.0.0.0 opens it to the network")
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    preview_domain: str = Field("localhost", description="creations are served from <id>.<this domain>")
    public_url: str | None = Field(None, description="how clients reach the platform, when a proxy stands in front")
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    preview_link_ttl_s: Annotated[int, Field(ge=60)] = 24 * 3600


class DatabaseSettings(_Group):
    """PostgreSQL. Without a URL the embedded server is used."""

    model_config = SettingsConfigDict(env_prefix="AETHER_DATABASE_")
    url: SecretStr | None = Field(None, description="postgresql://user:password@host:5432/name")
    pool_size: Annotated[int, Field(ge=1, le=200)] = 8
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0

    @field_validator("url")
    @classmethod
    def _must_be_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not url.get_secret_value().startswith(("postgresql://", "postgres://", "postgresql+asyncpg://")):
            raise ValueError("must start with postgresql://")
        query = parse_qs(urlsplit(url.get_secret_value()).query) if url else {}
        if unknown := set(query) - {"host", "port", "sslmode", "ssl"}:
            raise ValueError(f"does not take {', '.join(sorted(unknown))}; after '?': host, port, sslmode")
        return url


class RedisSettings(_Group):
    """Redis or Valkey. Without a URL the embedded Valkey is used."""

    model_config = SettingsConfigDict(env_prefix="AETHER_REDIS_")
    url: SecretStr | None = Field(None, description="redis://, rediss:// or unix://")

    @field_validator("url")
    @classmethod
    def _must_be_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return url


class S3Settings(_Group):
    """S3-compatible object storage. Without a bucket the data folder is used."""

    model_config = SettingsConfigDict(env_prefix="AETHER_S3_")
    bucket: str | None = None
    endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    prefix: str = ""

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> Self:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ValueError("AETHER_S3_ACCESS_KEY_ID and AETHER_S3_SECRET_ACCESS_KEY go together")
        return self


class RaySettings(_Group):
    """The Ray cluster. Without an address a local one is started."""

    model_config = SettingsConfigDict(env_prefix="AETHER_RAY_")
    address: str | None = Field(None, description="host:port of a running cluster's GCS")
    num_cpus: Annotated[int, Field(ge=1)] | None = None
    object_store_bytes: Annotated[int, Field(ge=78_643_200)] = 200 * 1024 * 1024
    fast_serve: bool = Field(True, description="Serve behind HAProxy; false: Serve's own proxy, several times slower")


class InferenceSettings(_Group):
    """Models this platform runs itself."""

    model_config = SettingsConfigDict(env_prefix="AETHER_INFERENCE_")
    parallel_slots: Annotated[int, Field(ge=1, le=64)] = 4
    threads: Annotated[int, Field(ge=1)] | None = Field(
        None, description="default: one per physical core; one less is steadier where the machine has other work"
    )
    max_queued: Annotated[int, Field(ge=0)] = 64


class SessionSettings(_Group):
    """How agent sessions are owned."""

    model_config = SettingsConfigDict(env_prefix="AETHER_SESSION_")
    model: str = Field("smollm2-135m", description="model a session uses when its creator names none")
    lease_ttl_s: Annotated[float, Field(ge=1)] = 4.0
    max_answer_tokens: Annotated[int, Field(ge=1)] = 512
    hosts: Annotated[int, Field(ge=1, le=64)] = 1


class SandboxSettings(_Group):
    """Where untrusted code runs."""

    model_config = SettingsConfigDict(env_prefix="AETHER_SANDBOX_")
    profiles: Path | None = Field(None, description="a file of profiles instead of configs/sandboxes.yaml")
    per_organisation: Annotated[int, Field(ge=1)] = Field(
        32, description="how many one organisation may have at one time; ten times as many may be stored"
    )
    stored_bytes_per_organisation: Annotated[int, Field(ge=1)] = Field(
        100 * 1024**3,
        description="how much of snapshots one organisation may have stored; beyond it makes no new ones",
    )
    docker_host: str = Field(
        "unix:///run/docker.sock", description="the Docker engine, for profiles that want one; on the same machine"
    )
    refused_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description='networks no sandbox may reach though their addresses are public: ["198.51.100.0/24"]'
    )
    run_dir: Path | None = Field(
        None, description="where sockets and files of sandboxes lie, with a short name; default: in /tmp"
    )


class SecuritySettings(_Group):
    """What the platform signs with."""

    model_config = SettingsConfigDict(env_prefix="AETHER_SECURITY_")
    secret_key: SecretStr | None = Field(
        None, description="at least 32 characters, the same on every node; one machine makes its own", min_length=32
    )
    previous_secret_key: SecretStr | None = Field(
        None, description="the one before: still opens what it has sealed, signs nothing", min_length=32
    )


class VaultSettings(_Group):
    """HashiCorp Vault or OpenBao, for provider keys the catalogue keeps there."""

    model_config = SettingsConfigDict(env_prefix="AETHER_VAULT_")
    address: str | None = Field(None, description="https://host:8200; without it no vault is asked")
    token: SecretStr | None = Field(None, description="renewed by us; not needed where an agent adds it")
    namespace: str | None = None
    ca_file: Path | None = Field(None, description="certificates to trust beside the system's")

    @field_validator("address")
    @classmethod
    def _must_be_an_address(cls, address: str | None) -> str | None:
        if address and not address.startswith(("http://", "https://")):
            raise ValueError("must start with https:// or http://")
        return address


class GatewaySettings(_Group):
    """The model router. The limits are what an organisation gets that has none of its own; unset does not bind."""

    model_config = SettingsConfigDict(env_prefix="AETHER_GATEWAY_")
    catalog: Path | None = Field(None, description="a catalogue file instead of configs/models.yaml")
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    allow_private_providers: bool = Field(
        False, description="organisations may bring providers whose addresses are not public"
    )
    max_answer_bytes: Annotated[int, Field(ge=1024)] = Field(64 * 1024 * 1024, description="of a provider, at most")
    max_line_bytes: Annotated[int, Field(ge=1024)] = Field(8 * 1024 * 1024, description="of a provider's stream")
    send_stall_s: Annotated[float, Field(gt=0, le=600)] = Field(
        30.0, description="how long a client may take nothing of a stream before its call is ended"
    )


class TelemetrySettings(_Group):
    """Logs and traces."""

    model_config = SettingsConfigDict(env_prefix="AETHER_TELEMETRY_")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = Field(None, description="OTLP/HTTP base address; traces go to <this>/v1/traces")


class ClientSettings(_Group):
    """How the command line reaches a platform."""

    model_config = SettingsConfigDict(env_prefix="AETHER_CLIENT_")
    url: str | None = Field(None, description="a platform somewhere else; default: the one on this machine")
    api_key: SecretStr | None = None


class Settings(BaseModel):
    """Everything an operator may change, read once at the composition root and handed down."""

    model_config = ConfigDict(frozen=True)
    groups: ClassVar[dict[str, type[_Group]]] = {
        "http": HttpSettings,
        "database": DatabaseSettings,
        "redis": RedisSettings,
        "s3": S3Settings,
        "ray": RaySettings,
        "inference": InferenceSettings,
        "session": SessionSettings,
        "sandbox": SandboxSettings,
        "security": SecuritySettings,
        "vault": VaultSettings,
        "gateway": GatewaySettings,
        "telemetry": TelemetrySettings,
        "client": ClientSettings,
    }

    data_dir: Path = Field(default_factory=_default_data_dir)
    http: HttpSettings
    database: DatabaseSettings
    redis: RedisSettings
    s3: S3Settings
    ray: RaySettings
    inference: InferenceSettings
    session: SessionSettings
    sandbox: SandboxSettings
    security: SecuritySettings
    vault: VaultSettings
    gateway: GatewaySettings
    telemetry: TelemetrySettings
    client: ClientSettings

    @property
    def database_url(self) -> str:
        """Raises `SettingsError` when none is set; on one machine the supervisor sets it."""
        return _required(self.database.url, "AETHER_DATABASE_URL")

    @property
    def redis_url(self) -> str:
        """Raises `SettingsError` when none is set; on one machine the supervisor sets it."""
        return _required(self.redis.url, "AETHER_REDIS_URL")

    @property
    def secret_key(self) -> bytes:
        """Raises `SettingsError` when none is set; on one machine the supervisor makes one."""
        return _required(self.security.secret_key, "AETHER_SECURITY_SECRET_KEY").encode()

    @property
    def sealing_keys(self) -> list[bytes]:
        """What secrets are sealed with: the first seals, all open. Raises `SettingsError` as `secret_key` does."""
        previous = self.security.previous_secret_key
        return [self.secret_key, *([previous.get_secret_value().encode()] if previous else [])]

    @property
    def local_url(self) -> str:
        """The address of this node's own proxy, for the platform's calls to itself."""
        host = "127.0.0.1" if self.http.host in _EVERYWHERE or self.http.host == "localhost" else self.http.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http.port}"

    @property
    def base_url(self) -> str:
        """The address clients use, without a trailing slash."""
        if self.http.public_url:
            return self.http.public_url.rstrip("/")
        host = "localhost" if self.http.host in _EVERYWHERE | {"127.0.0.1", "::1"} else self.http.host
        return f"http://{host}:{self.http.port}"


def _required(value: SecretStr | None, name: str) -> str:
    if value is None:
        raise SettingsError(f"{name} is not set; `aether up` sets it for the embedded servers")
    return value.get_secret_value()


def provider_keys(catalog: Catalog) -> dict[str, SecretStr]:
    """The variables the catalogue names for its providers' keys, as far as they are set."""
    names = {source.env for provider in catalog.providers for source in provider.credentials if source.env}
    values = {name: os.environ.get(name, "").strip() for name in names}
    return {name: SecretStr(value) for name, value in values.items() if value}


def known_variables() -> dict[str, str]:
    """Every `AETHER_*` name and what it is for."""
    names = {f"{PREFIX}DATA_DIR": "where the embedded servers keep their data"}
    for group in Settings.groups.values():
        prefix = str(group.model_config.get("env_prefix", ""))
        for name, field in group.model_fields.items():
            names[f"{prefix}{name}".upper()] = field.description or ""
    return names


def load_settings() -> Settings:
    """Read `AETHER_*` from the process's environment.

    Raises:
        SettingsError: naming each variable that is unknown or bad, and what to write instead.
    """
    known = known_variables()
    problems = []
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else "unset it"
            problems.append(f"{name}: no such setting; {hint}")
    values: dict[str, Any] = {}
    for group_name, group in Settings.groups.items():
        prefix = str(group.model_config.get("env_prefix", ""))
        try:
            values[group_name] = group()
        except ValidationError as exc:
            for error in exc.errors(include_input=False, include_url=False):
                where = "".join(f"{prefix}{part}".upper() for part in error["loc"][:1]) or prefix + "*"
                problems.append(f"{where}: {error['msg'].removeprefix('Value error, ')}")
    if data_dir := os.environ.get(f"{PREFIX}DATA_DIR"):
        values["data_dir"] = Path(data_dir).expanduser().absolute()
    if problems:
        raise SettingsError("bad settings in the environment:\n  " + "\n  ".join(problems))
    return Settings(**values)
