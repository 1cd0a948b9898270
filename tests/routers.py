"""The models application in the test's own process: real HTTP, real PostgreSQL and Valkey, providers that are doubles."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn
from pydantic import SecretStr

from configs.catalog import Alias, Catalog, ModelEntry, ProviderEntry
from configs.settings import GatewaySettings, Settings
from serve_app.core.domain.ids import new_request_id
from serve_app.core.telemetry.asgi import AsgiApp, TelemetryMiddleware
from serve_app.core.telemetry.metrics import CATALOGUE
from serve_app.router.front import FrontProtocol, Open
from serve_app.router.providers.local import Inference
from serve_app.router.replica import RouterReplica

SECRET = "a secret key for tests, of no use to anybody"


class NoInference:
    """For routers that have no model of their own."""

    async def stream(
        self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]:
        raise AssertionError("no local model is served here")
        yield b""

    async def complete(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes:
        raise AssertionError("no local model is served here")

    async def embed(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes:
        raise AssertionError("no local model is served here")


class CheckedMetrics:
    """Drops values, and takes only what is published."""

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        assert CATALOGUE[name].kind == "counter"
        assert set(CATALOGUE[name].tags) == set(tags), name

    def observe(self, name: str, value: float, **tags: str) -> None:
        assert CATALOGUE[name].kind == "histogram"
        assert set(CATALOGUE[name].tags) == set(tags), name


@dataclass(frozen=True)
class RunningRouter:
    url: str
    replica: RouterReplica


def settings(postgres_url: str, redis_url: str, **gateway: Any) -> Settings:
    """Settings of a platform whose servers these are, with nothing read from the environment."""
    defaults = {name: group() for name, group in Settings.groups.items()}
    groups: dict[str, Any] = dict(defaults)
    groups["database"] = defaults["database"].model_copy(update={"url": SecretStr(postgres_url)})
    groups["redis"] = defaults["redis"].model_copy(update={"url": SecretStr(redis_url)})
    groups["security"] = defaults["security"].model_copy(update={"secret_key": SecretStr(SECRET)})
    groups["gateway"] = GatewaySettings(**gateway)
    return Settings(**groups)


@asynccontextmanager
async def running_router(
    made_of: Settings,
    catalog: Catalog,
    provider_keys: Mapping[str, str] | None = None,
    inference: Inference | None = None,
) -> AsyncIterator[RunningRouter]:
    keys = {name: SecretStr(value) for name, value in (provider_keys or {}).items()}
    replica = RouterReplica(made_of, catalog, keys, inference or NoInference(), CheckedMetrics())
    app: AsgiApp = TelemetryMiddleware(replica.app, "models", CheckedMetrics(), new_request_id)
    # As in a replica: the short way of the hot paths is what every test of the router goes.
    front = cast(type[asyncio.Protocol], partial(FrontProtocol, admission=Open(app)))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", http=front))
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        if serving.done():
            await serving
        await asyncio.sleep(0.01)
    try:
        yield RunningRouter(f"http://127.0.0.1:{listener.getsockname()[1]}", replica)
    finally:
        server.should_exit = True
        await serving
        listener.close()


def catalog_of(
    providers: Sequence[ProviderEntry], models: Sequence[ModelEntry], aliases: Sequence[Alias] = ()
) -> Catalog:
    return Catalog(default=models[0].id, providers=tuple(providers), models=tuple(models), aliases=tuple(aliases))


def provider(name: str, url: str, *dialects: str, keys: Sequence[str] = (), **more: Any) -> ProviderEntry:
    sources = [{"env": key} for key in keys]
    return ProviderEntry.model_validate(
        {"id": name, "base_url": url, "dialects": dialects, "credentials": sources, "needs_key": bool(keys), **more}
    )


def model(model_id: str, of: str, **more: Any) -> ModelEntry:
    entry = {
        "id": model_id, "provider": of, "owner": of, "released": "2026-01-01", "context_tokens": 100_000,
        "max_output_tokens": 8_000, "modalities": ["text", "image", "document"], "tools": True, "json_schema": True,
        "reasoning": True, "price": {"input": 1.0, "output": 2.0},
    }  # fmt: skip
    return ModelEntry.model_validate(entry | more)
