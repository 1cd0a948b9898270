"""The composition root: brings a database up to date and puts actors and applications on a Ray cluster.

Run as `python -m serve_app.main deploy`. It loads everything at once, waits for a line on stdin (the servers are
there), and prints one JSON object a line: `{"stage", "state": "started" | "done" | "failed", "seconds"?, "message"?}`.
"""

import argparse
import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, LoggingConfig

from actors.handles import NAMESPACE
from actors.sandbox.actor import remove_pools, start_pools
from actors.session.actor import remove_host, start_hosts
from configs.catalog import DEFAULT_PATH, LOCAL, CatalogError, ModelEntry, load_catalog
from configs.sandboxes import DEFAULT_PATH as DEFAULT_PROFILES
from configs.sandboxes import ProfileError, load_profiles
from configs.settings import Settings, SettingsError, load_settings, provider_keys
from serve_app.api.deployment import ApiDeployment
from serve_app.core.db.migrate import migrate
from serve_app.core.db.repositories.owners import OwnerRepository
from serve_app.core.errors import AetherError
from serve_app.core.services.callers import make_key
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.core.stores.objects.choose import choose_object_store
from serve_app.embedded.loopback import keep_to_loopback
from serve_app.inference.deployment import InferenceDeployment
from serve_app.router.deployment import ModelsDeployment
from serve_app.router.handles import InferenceHandle, ModelRoute

_OWNER_KEY = "owner"
APPLICATIONS = ("inference", "models", "api")
_CONNECT_TIMEOUT_S = 60
_DEPLOY_TIMEOUT_S = 180.0
_VLLM_TIMEOUT_S = 1800.0
_VLLM_PREFIX = "vllm-"


class DeployError(Exception):
    """The deployment cannot go on; the message is for the operator."""


def say(stage: str, state: str, **more: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps({"stage": stage, "state": state, **more}) + b"\n")
    sys.stdout.buffer.flush()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Report a step of the deployment; a failure is told once and ends it."""
    say(name, "started")
    started = time.monotonic()
    try:
        yield
    except (AetherError, DeployError, SettingsError, CatalogError, ProfileError) as exc:
        say(name, "failed", message=str(exc))
        raise DeployError(str(exc)) from exc
    say(name, "done", seconds=round(time.monotonic() - started, 2))


async def prepare_database(settings: Settings, machine_key: str | None) -> None:
    """Newest schema, an organisation with its owner, and a key for this machine's command line.

    `machine_key` is the prefix of the key it has; one that this database does not know is replaced.
    """
    url = settings.database_url
    with stage("migrations"):
        await migrate(url)
    owners = OwnerRepository(url)
    owner = await owners.first_owner()
    if owner is None:
        owner = await owners.add_organisation("My organisation", "owner@localhost")
    if machine_key is None or not await owners.has_key(owner, prefix=machine_key):
        key = make_key()
        await owners.add_key(owner, "command line of this machine", key)
        say("cli-key", "done", api_key=key.text)


async def show_owner_key(settings: Settings) -> None:
    """Last of all, so that a start that fails on the way does not swallow the only sight of it."""
    owners = OwnerRepository(settings.database_url)
    owner = await owners.first_owner()
    if owner is not None and not await owners.has_key(owner, name=_OWNER_KEY):
        key = make_key()
        await owners.add_key(owner, _OWNER_KEY, key)
        say("owner", "done", api_key=key.text)


async def check_stores(settings: Settings) -> None:
    """What cannot be used is told now, by name, and not by the first turn that fails."""
    live = RedisLiveEvents(settings.redis_url)
    objects = choose_object_store(settings.s3, settings.data_dir)
    try:
        with stage("stores"):
            await live.ping()
            await objects.check()
    finally:
        await live.close()
        await objects.close()


def connect(settings: Settings) -> None:
    """Raises `DeployError` when the cluster refuses; ends the process when it does not answer."""
    address = settings.ray.address

    def give_up() -> None:
        # From another thread, and for good: Ray waits in native code that no signal and no exception ends.
        say("ray", "failed", message=f"The Ray cluster at {address} did not answer within {_CONNECT_TIMEOUT_S} s.")
        os._exit(1)

    watchdog = threading.Timer(_CONNECT_TIMEOUT_S, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError) as exc:
        raise DeployError(f"The Ray cluster at {address} cannot be reached: {type(exc).__name__}") from exc
    finally:
        watchdog.cancel()


def deploy(settings: Settings) -> None:
    """Put the actors and the three applications on the cluster and wait until each answers."""
    catalog = load_catalog(settings.gateway.catalog or DEFAULT_PATH)
    profiles = load_profiles(settings.sandbox.profiles or DEFAULT_PROFILES)
    local = tuple(model for model in catalog.models if model.provider == LOCAL)
    # Each model that vLLM serves is an application of its own, with replicas and accelerators of its own.
    served = {f"{_VLLM_PREFIX}{model.id}": model for model in local if model.vllm}
    with stage("ray"):
        connect(settings)
    # A node that calls itself 127.0.0.1 is a cluster of its own: nothing in it is to be heard from elsewhere.
    is_alone = ray.util.get_node_ip_address() == "127.0.0.1"
    on_start: tuple[Callable[[], None], ...] = (keep_to_loopback,) if is_alone else ()
    with stage("actors"):
        # The platform calls its own models where everybody does: the proxy of the node the host is on.
        hosts = start_hosts(settings, f"{settings.local_url}/v1")
        remove_pools()
    with stage("serve"):
        serve.start(
            http_options={"host": settings.http.host, "port": settings.http.port},
            logging_config=LoggingConfig(enable_access_log=False),
        )
    targets = {
        "inference": (
            InferenceDeployment.bind(
                settings.inference,
                tuple(model for model in local if model.engine != "vllm"),
                settings.telemetry,
                on_start,
            ),
            None,
        ),
        "models": (
            ModelsDeployment.bind(
                settings, catalog, provider_keys(catalog), _inference_handle(), _vllm_routes(local), on_start
            ),
            "/v1",
        ),
        "api": (ApiDeployment.bind(settings, catalog, profiles, on_start), "/"),
    }
    targets |= {name: (_vllm_application(model, settings, on_start), None) for name, model in served.items()}
    for name in targets:
        say(f"app:{name}", "started")
    started = time.monotonic()
    serve.run_many(
        [serve.RunTarget(app, name=name, route_prefix=prefix) for name, (app, prefix) in targets.items()],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    _wait_for_applications(started, set(targets), _VLLM_TIMEOUT_S if served else _DEPLOY_TIMEOUT_S)
    with stage("model"):
        asyncio.run(_ask_each(local))
    with stage("http"):
        _wait_for_proxy(settings.local_url)
        try:
            ray.get([host.health.remote() for host in hosts], timeout=60)
        except ray.exceptions.RayError as exc:
            raise DeployError(f"The agent hosts did not start: {type(exc).__name__}") from exc
    with stage("sandboxes"):
        # Last, and not waited for: until they are up a few seconds later, leases wait for them.
        start_pools(settings, profiles, on_start)


def _vllm_application(model: ModelEntry, settings: Settings, on_start: tuple[Callable[[], None], ...]) -> Any:
    try:
        # Needs the extra `vllm`, which is gigabytes: only where a catalogue asks for it.
        from serve_app.inference.vllm.deployment import build
    except ImportError as exc:
        raise DeployError(f"The model {model.id} needs vLLM: install the extra `vllm`.") from exc
    assert model.vllm is not None  # noqa: S101 - the caller chose those that have it
    return build(model, model.vllm, settings.telemetry, on_start)


def _vllm_routes(local: Iterable[ModelEntry]) -> dict[str, ModelRoute]:
    """The way to each model that vLLM serves, and to its adapters."""
    found = {model.id: model for model in local if model.vllm}
    routes = {}
    for model in local:
        base = found.get(model.adapter_of or model.id)
        if base is not None and base.vllm is not None:
            routes[model.id] = ModelRoute(
                serve.get_deployment_handle("vllm", f"{_VLLM_PREFIX}{base.id}", _check_exists=False),
                is_adapter=model.adapter_of is not None,
                is_prefix_aware=base.vllm.prefix_aware,
            )
    return routes


def _wait_for_applications(started: float, waiting: set[str], patience_s: float) -> None:
    while waiting:
        applications = serve.status().applications
        for name in sorted(waiting):
            found = applications.get(name)
            if found is None:
                continue
            if found.status == ApplicationStatus.RUNNING:
                waiting.discard(name)
                say(f"app:{name}", "done", seconds=round(time.monotonic() - started, 2))
            elif found.status in {ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY}:
                say(f"app:{name}", "failed", message=found.message[-2000:])
                raise DeployError(f"The application {name} did not start.")
        if time.monotonic() - started > patience_s:
            raise DeployError(f"These applications did not start in time: {', '.join(sorted(waiting))}")
        time.sleep(0.1)


async def _ask_each(models: Iterable[ModelEntry]) -> None:
    """One token from each model, or one vector: that it is loaded is not yet that it answers."""
    # Handles of its own: in Serve's fast mode a handle belongs to the event loop it is first used in.
    models = tuple(models)
    inference = InferenceHandle(_inference_handle(), _vllm_routes(models))
    for model in models:
        try:
            async with asyncio.timeout(60):
                if model.kind == "embeddings":
                    await inference.embed(model.id, {"model": model.id, "input": "Hi"}, {})
                else:
                    request = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
                    await inference.complete(model.id, {"model": model.id, **request}, {})
        except (AetherError, TimeoutError, ray.exceptions.RayError) as exc:
            raise DeployError(f"The model {model.id} does not answer: {type(exc).__name__}") from exc


def _inference_handle() -> "DeploymentHandle[Any]":
    return serve.get_deployment_handle(InferenceDeployment.name, "inference", _check_exists=False)


def _wait_for_proxy(url: str) -> None:
    """Serve calls an application running before every proxy knows its route."""
    deadline = time.monotonic() + 30
    with httpx.Client(trust_env=False, timeout=2) as client:
        while True:
            try:
                # Without a key, /v1 refuses: the router is there.
                found = client.get(f"{url}/readyz").status_code, client.get(f"{url}/v1/models").status_code
            except httpx.TransportError:
                found = (0, 0)
            if found == (200, 401):
                return
            if time.monotonic() > deadline:
                raise DeployError(f"The HTTP proxy at {url} does not reach the applications (answers: {found}).")
            time.sleep(0.05)


def undeploy(settings: Settings) -> None:
    """Take the applications and the agent hosts off the cluster; sessions stay in the database,
    workspaces in the object store."""
    connect(settings)
    for index in range(settings.session.hosts):
        remove_host(index)
    remove_pools()
    for name in serve.status().applications:
        if name in APPLICATIONS or name.startswith(_VLLM_PREFIX):
            serve.delete(name)


def drain(settings: Settings) -> None:
    """Store the workspaces of all sandboxes in use, for a platform that is about to stop."""
    connect(settings)
    remove_pools()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m serve_app.main")
    parser.add_argument("action", choices=["deploy", "undeploy", "drain"])
    parser.add_argument("--cli-key-prefix", help="the prefix of the key this machine's command line has")
    parser.add_argument("--now", action="store_true", help="do not wait for a line on stdin")
    arguments = parser.parse_args()
    if arguments.action == "deploy" and not arguments.now and not sys.stdin.readline():
        return 1  # whoever started us is gone
    try:
        settings = load_settings()
        if arguments.action == "undeploy":
            undeploy(settings)
            return 0
        if arguments.action == "drain":
            drain(settings)
            return 0
        asyncio.run(prepare_database(settings, arguments.cli_key_prefix))
        asyncio.run(check_stores(settings))
        deploy(settings)
        asyncio.run(show_owner_key(settings))
    except (DeployError, SettingsError, AetherError) as exc:
        say("deploy", "failed", message=str(exc))
        return 1
    say("ready", "done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
