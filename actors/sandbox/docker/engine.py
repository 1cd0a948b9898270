"""Docker's engine, through its own Python package: the calls a backend needs, off the event loop, their errors ours."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import docker
import docker.errors
import docker.utils
import requests.exceptions

from actors.sandbox.containers.processes import end_shim
from actors.sandbox.containers.threads import to_its_end
from serve_app.core.errors import NotFoundError, UnavailableError
from serve_app.core.telemetry import get_logger

T = TypeVar("T")
_UNIX = "unix://"
_WORKERS = 8
_PULL_TIMEOUT_S = 600
_CONFLICT = 409


@dataclass(frozen=True)
class EngineFacts:
    """What the engine says of itself and of the machine it runs on."""

    runtimes: frozenset[str]
    has_memory_limit: bool
    has_swap_limit: bool
    has_cpu_limit: bool
    counts_sockets: bool
    """What sockets hold counts as their owner's memory. That is so in version 2 of control groups only."""
    is_rootless: bool
    has_own_users: bool
    """A user id inside is another one outside."""


@dataclass(frozen=True)
class Image:
    id: str
    volumes: tuple[str, ...]
    """Folders it wants kept outside its own layers."""


@dataclass(frozen=True)
class ContainerState:
    is_running: bool
    pid: int
    """On the engine's machine; 0 when it does not run."""
    exit_code: int
    was_out_of_memory: bool


class Engine:
    """`address` is a Unix socket (`unix:///run/docker.sock`). Closed by whoever made it."""

    def __init__(self, address: str, *, timeout_s: int = 60) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="docker")
        self._lock = threading.Lock()
        self._client: Any = None

    async def facts(self) -> EngineFacts:
        found = await self._call(lambda api: api.info())
        security = found.get("SecurityOptions") or ()
        is_rootless = any("rootless" in each for each in security)
        return EngineFacts(
            runtimes=frozenset(found.get("Runtimes") or ()),
            has_memory_limit=bool(found.get("MemoryLimit")),
            has_swap_limit=bool(found.get("SwapLimit")),
            has_cpu_limit=bool(found.get("CpuCfsQuota")),
            counts_sockets=found.get("CgroupVersion") == "2",
            is_rootless=is_rootless,
            has_own_users=is_rootless or any("name=userns" in each for each in security),
        )

    async def image(self, name: str) -> Image:
        """Raises `NotFoundError` when it is not on this machine."""
        found = await self._call(lambda api: api.inspect_image(name))
        config = found.get("Config") or {}
        return Image(str(found["Id"]), tuple(config.get("Volumes") or ()))

    async def pull(self, name: str) -> None:
        def pull(_: Any) -> None:
            # A client of its own: a pull may take longer than any other call should.
            with _translated():
                puller = docker.APIClient(self.address, version="auto", timeout=_PULL_TIMEOUT_S)
                try:
                    repository, tag = docker.utils.parse_repository_tag(name)
                    puller.pull(repository, tag or "latest")
                finally:
                    puller.close()

        await self._call(pull)

    async def create(self, name: str, config: Mapping[str, object]) -> str:
        """Create a container as the engine's own API describes one, and return its id."""
        found = await self._call(lambda api: api.create_container_from_config(config, name))
        return str(found["Id"])

    async def start(self, container: str) -> None:
        """`container` is an id."""

        def start(api: Any) -> None:
            try:
                api.start(container)
            except docker.errors.APIError:
                # Docker asks gVisor to clear away before that has come to its end, and never again.
                end_shim(container)
                raise

        await self._call(start)

    async def state(self, container: str) -> ContainerState:
        """Raises `NotFoundError` when there is no such container."""
        found = (await self._call(lambda api: api.inspect_container(container)))["State"]
        return ContainerState(
            is_running=bool(found.get("Running")),
            pid=int(found.get("Pid") or 0),
            exit_code=int(found.get("ExitCode") or 0),
            was_out_of_memory=bool(found.get("OOMKilled")),
        )

    async def pause(self, container: str) -> None:
        await self._call(lambda api: api.pause(container))

    async def unpause(self, container: str) -> None:
        await self._call(lambda api: api.unpause(container))

    async def remove(self, container: str) -> None:
        """With all it runs and had. Raises `NotFoundError` when there is no such container."""
        await self._call(lambda api: api.remove_container(container, v=True, force=True))

    async def labelled(self, name: str, value: str) -> dict[str, Mapping[str, str]]:
        """The labels of all containers, running or not, that carry this one; by container id."""
        found = await self._call(lambda api: api.containers(all=True, filters={"label": f"{name}={value}"}))
        return {str(each["Id"]): dict(each.get("Labels") or {}) for each in found}

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, client.close)
        self._threads.shutdown(wait=False)

    async def _call(self, work: Callable[[Any], T]) -> T:
        return await to_its_end(lambda: self._translate(work), self._threads)

    def _translate(self, work: Callable[[Any], T]) -> T:
        with _translated():
            with self._lock:
                if self._client is None:
                    _knock(self.address)
                    self._client = docker.APIClient(
                        self.address, version="auto", timeout=self._timeout_s, max_pool_size=_WORKERS
                    )
            return work(self._client)


def _knock(address: str) -> None:
    """The package leaves a socket open when there is nobody at its other end."""
    if address.startswith(_UNIX):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.connect(address.removeprefix(_UNIX))


@contextmanager
def _translated() -> Iterator[None]:
    """Its own words name the host's folders and ids: they go into the log, and no further."""
    try:
        yield
    except docker.errors.NotFound as exc:
        raise NotFoundError("Docker has nothing of this name.") from exc
    except docker.errors.APIError as exc:
        if exc.status_code != _CONFLICT:  # It is at something else with the same container, and is asked again.
            get_logger().warning("docker refused", reason=str(exc.explanation or exc))
        raise UnavailableError("Docker refused; this node's log says why. Try again.") from exc
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as exc:
        get_logger().warning("docker does not answer", reason=str(exc))
        raise UnavailableError(
            "Docker's engine does not answer. Is it running, and may this user open its socket?"
        ) from exc
