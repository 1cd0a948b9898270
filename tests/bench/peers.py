"""The gateways that are measured: nothing in between, ours, and what people run today."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.bench.__main__ import start
from tests.doubles.node import CACHE, installed
from tests.doubles.servers import free_port, running
from tests.e2e.conftest import Platform

ROOT = Path(__file__).parents[2]
LITELLM = "1.74.9"
# What its release could be installed with; packages newer than it may not fit, and none is from 2026.
LITELLM_DEPENDENCIES_UNTIL = "2025-08-31"
PORTKEY = "1.15.2"
# So high that no request of a measurement meets them; checked and counted all the same.
LIMITS = {
    "AETHER_GATEWAY_REQUESTS_PER_MINUTE": "1000000000",
    "AETHER_GATEWAY_TOKENS_PER_MINUTE": "1000000000000",
    "AETHER_GATEWAY_CONCURRENCY": "100000",
}
PROVIDER_KEY = "sk-mock"


class AbsentError(Exception):
    """A gateway cannot be had on this machine; says why."""


@dataclass(frozen=True)
class Target:
    """Something that answers Chat Completions."""

    name: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    platform: Platform | None = None


@contextmanager
def direct(mock: str, folder: Path) -> Iterator[Target]:
    yield Target("direct", f"{mock}/v1/chat/completions", bearer(PROVIDER_KEY))


@contextmanager
def ours(mock: str, folder: Path) -> Iterator[Target]:
    """The platform as `aether up` starts it: authentication, limits, ledger, metrics; one replica of the models app."""
    catalog = folder / "catalog.yaml"
    catalog.write_text(yaml.safe_dump(our_catalog(mock)))
    # The key is in the platform's environment, where a catalogue entry finds it.
    platform = start(folder, AETHER_GATEWAY_CATALOG=str(catalog), MOCK_API_KEY=PROVIDER_KEY, **LIMITS)
    try:
        yield Target("AetherOS", f"{platform.url}/v1/chat/completions", bearer(platform.owner_key), platform)
    finally:
        platform.aether("down", check=False)


def our_catalog(mock: str) -> dict[str, object]:
    return {
        "default": "mock",
        "providers": [
            {
                "id": "mock",
                "dialects": ["openai-chat"],
                "base_url": f"{mock}/v1",
                "credentials": [{"env": "MOCK_API_KEY"}],
            }
        ],
        "models": [
            {
                "id": "mock",
                "provider": "mock",
                "owner": "bench",
                "released": "2026-01-01",
                "context_tokens": 128_000,
                "max_output_tokens": 16_384,
                "tools": True,
                "json_schema": True,
                "price": {"input": 2.5, "output": 10.0, "cached_input": 1.25},
            }
        ],
        "aliases": [{"id": "auto"}],
    }


@contextmanager
def litellm(mock: str, folder: Path) -> Iterator[Target]:
    """One worker, its master key checked, no database: it keeps no ledger here, which ours does."""
    port, key = free_port(), "sk-bench-master"
    config = folder / "litellm.yaml"
    at_mock = {"model": "openai/mock", "api_base": f"{mock}/v1", "api_key": PROVIDER_KEY}
    config.write_text(
        yaml.safe_dump(
            {
                "model_list": [{"model_name": "mock", "litellm_params": at_mock}],
                "general_settings": {"master_key": key},
            }
        )
    )
    command: list[str | Path] = [
        installed_litellm() / "bin" / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port),
        "--num_workers", "1", "--telemetry", "False",
    ]  # fmt: skip
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    with running(command, port=port, log=folder / "litellm.log", env=environ, ready_s=120):
        yield Target(f"LiteLLM {LITELLM}", f"http://127.0.0.1:{port}/v1/chat/completions", bearer(key))


def installed_litellm() -> Path:
    target = CACHE / "bench" / f"litellm-{LITELLM}-{LITELLM_DEPENDENCIES_UNTIL}"
    if target.is_dir():
        return target
    own = ROOT / ".uv" / "bin" / "uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None:
        raise AbsentError("no uv to install it with")
    # Named at the end: an interrupted installation is not taken for a whole one.
    fresh = target.with_suffix(".new")
    environ = {"UV_SYSTEM_CERTS": "1", **os.environ}
    limits = ["--exclude-newer", LITELLM_DEPENDENCIES_UNTIL]
    for command in (
        [uv, "venv", "--clear", "--relocatable", "--python", sys.executable, str(fresh)],
        [uv, "pip", "install", "--python", str(fresh / "bin" / "python"), *limits, f"litellm[proxy]=={LITELLM}"],
    ):
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            raise AbsentError(f"uv: {done.stderr.strip()[-300:]}")
    return fresh.rename(target)


@contextmanager
def portkey(mock: str, folder: Path) -> Iterator[Target]:
    """One process. It has no keys of its own to check: who reaches it may use it.

    `portkey/package.json` holds its web server at the newest version with which its streams do not fail.
    """
    if shutil.which("npm") is None:
        raise AbsentError("no npm to install it with")
    try:
        modules = installed(Path(__file__).parent / "portkey")
    except AssertionError as exc:
        raise AbsentError(str(exc)[-300:]) from exc
    port = free_port()
    program = modules / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    headers = {**bearer(PROVIDER_KEY), "x-portkey-provider": "openai", "x-portkey-custom-host": f"{mock}/v1"}
    command: list[str | Path] = ["node", program, "--headless", f"--port={port}"]
    with running(command, port=port, log=folder / "portkey.log", env={"NODE_ENV": "production"}):
        yield Target(f"Portkey {PORTKEY}", f"http://127.0.0.1:{port}/v1/chat/completions", headers)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


TARGETS: dict[str, Callable[[str, Path], AbstractContextManager[Target]]] = {
    "direct": direct,
    "ours": ours,
    "litellm": litellm,
    "portkey": portkey,
}
