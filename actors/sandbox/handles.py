"""How the API and agents reach the pools of all nodes, and how a node that joins gets its pool."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import ray

from actors.sandbox.actor import RESOURCE, find_pool, marked_nodes, start_pool
from actors.sandbox.placement import less_one, ranked
from actors.sandbox.ports import Capacity, Held, Order
from configs.sandboxes import Profiles
from configs.settings import Settings
from serve_app.core.domain.ids import LeaseId, SandboxId
from serve_app.core.domain.sandboxes import Lease, Snapshot
from serve_app.core.errors import (
    AetherError,
    AtCapacityError,
    SandboxLostError,
    TimedOutError,
    UnavailableError,
    UnenforceableError,
)
from serve_app.core.telemetry import get_logger

_LOOK_S = 2.0
_ANSWER_S = 10.0
_WAKE_S = 60.0
_STORE_S = 600.0
_JOIN_S = 15.0
_POLL_S = 0.1


class RayPools:
    """`start` it before use: it learns the nodes, gives those that join their pools, and knows what each has free.

    Whoever deploys starts the pools of the nodes there are, last of all; so for `join_s` none is started here.
    """

    def __init__(
        self,
        settings: Settings,
        profiles: Profiles,
        on_start: tuple[Callable[[], None], ...] = (),
        *,
        join_s: float = _JOIN_S,
    ) -> None:
        self.node_id: str = ray.get_runtime_context().get_node_id()
        self._settings = settings
        self._profiles = profiles
        self._on_start = on_start
        self._handles: dict[str, Any] = {}
        self._capacities: dict[str, Capacity] = {}
        self._looking: asyncio.Task[None] | None = None
        self._nodes: set[str] = set()
        self._ended: set[str] = set()
        """Nodes whose pool somebody has put an end to."""
        self._has_looked = asyncio.Event()
        self._join_s = join_s
        self._joins_at = 0.0

    async def start(self) -> None:
        self._joins_at = asyncio.get_running_loop().time() + self._join_s
        self._looking = asyncio.create_task(self._look_forever(), name="sandbox pools")

    async def close(self) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def lease(self, order: Order, prefer: str | None) -> Lease:
        profile = order.sandbox.profile
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._has_looked.wait()
                while self._nodes and not self._capacities:  # noqa: ASYNC110 - what changes them polls as well
                    # The platform has just come up, and its pools are about to.
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            if not self._handles:
                raise TimedOutError("The cluster's sandbox pools are not up yet. Try again.") from None
        problem: AetherError | None = None
        for node_id in ranked(self._capacities.values(), profile, near=self.node_id, prefer=prefer):
            try:
                lease: Lease = await self._ask(node_id, "lease", order, timeout_s=order.allowed_s)
            except TimedOutError:
                raise
            except (UnavailableError, UnenforceableError) as exc:
                # What we know of a node is up to two seconds old: one that turns out to be full is passed over.
                get_logger().info("node did not lease a sandbox", node=node_id, code=exc.code, reason=exc.message)
                if not isinstance(exc, AtCapacityError):
                    problem = exc
            else:
                if node_id in self._capacities:
                    self._capacities[node_id] = less_one(self._capacities[node_id], profile)
                return lease
        raise problem or self._why_not(profile)

    def _why_not(self, profile: str) -> AtCapacityError:
        if not self._nodes:
            return AtCapacityError(
                f"No node of this cluster runs sandboxes. Start one with --resources='{{\"{RESOURCE}\": 1}}'."
            )
        if self._capacities and not any(profile in capacity.rooms for capacity in self._capacities.values()):
            return AtCapacityError(f"No node can run sandboxes of the profile {profile}: `aether doctor` says why.")
        return AtCapacityError(
            "No node has room for another sandbox right now. Try again in a moment.", retry_after_s=_LOOK_S
        )

    async def renew(self, node_id: str, held: Sequence[Held]) -> list[LeaseId]:
        try:
            return cast("list[LeaseId]", await self._ask(node_id, "renew", list(held), timeout_s=_ANSWER_S))
        except SandboxLostError:
            return [one.lease_id for one in held]

    async def wake(self, node_id: str, held: Held) -> bool:
        return cast("bool", await self._ask(node_id, "wake", held, timeout_s=_WAKE_S))

    async def snapshot(self, node_id: str, held: Held) -> Snapshot:
        return cast("Snapshot", await self._ask(node_id, "snapshot", held, timeout_s=_STORE_S))

    async def store(self, node_id: str, held: Held) -> Snapshot:
        return cast("Snapshot", await self._ask(node_id, "store", held, timeout_s=_STORE_S))

    async def release(self, node_id: str, sandbox_id: SandboxId, fence: int) -> None:
        with suppress(SandboxLostError):
            await self._ask(node_id, "release", sandbox_id, fence, timeout_s=_ANSWER_S)

    async def _ask(self, node_id: str, method: str, *arguments: Any, timeout_s: float) -> Any:
        """Raises `SandboxLostError` when the node or its pool is gone for good, with all it held, and
        `UnavailableError` while that is not known: Ray starts a pool anew that has died, which then knows no lease."""
        handle = self._handles.get(node_id)
        if handle is None:
            if node_id in self._nodes:
                raise UnavailableError("The node's sandbox pool starts. Try again.")
            raise SandboxLostError("The sandbox's node has left the cluster.")
        call = getattr(handle, method).remote(*arguments)
        try:
            async with asyncio.timeout(timeout_s):
                return await call
        except ray.exceptions.RayTaskError as exc:
            raise _own(exc) from None
        except ray.exceptions.ActorDiedError as exc:
            self._capacities.pop(node_id, None)
            if self._handles.get(node_id) is handle:
                # Never by Ray, which would start it anew: somebody has put an end to it, or the node is gone.
                del self._handles[node_id]
                self._ended.add(node_id)
            raise SandboxLostError("The sandbox's pool is gone. Try again.") from exc
        except ray.exceptions.RayError as exc:
            self._capacities.pop(node_id, None)
            raise UnavailableError("The sandbox's pool does not answer. Try again.") from exc
        except TimeoutError:
            _cancel(call)
            raise TimedOutError("The sandbox's pool does not answer. Try again.") from None
        except asyncio.CancelledError:
            _cancel(call)
            raise

    async def _look_forever(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as exc:  # noqa: BLE001 - a cluster that cannot be looked at now can be the next time
                get_logger().warning("sandbox pools not looked at", reason=f"{type(exc).__name__}: {exc}")
            self._has_looked.set()
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        self._nodes = alive = await asyncio.to_thread(marked_nodes)
        for node_id in self._handles.keys() - alive:
            del self._handles[node_id]
            self._capacities.pop(node_id, None)
        self._ended &= alive
        may_start = asyncio.get_running_loop().time() >= self._joins_at
        for node_id in alive - self._handles.keys():
            if handle := await asyncio.to_thread(self._find, node_id, may_start=may_start):
                self._handles[node_id] = handle
        await asyncio.gather(*(self._learn(node_id) for node_id in self._handles.keys() & alive))

    def _find(self, node_id: str, *, may_start: bool) -> Any | None:
        if node_id in self._ended or not may_start:
            # Whoever put an end to it starts the next one, with settings that may be others than ours, or none.
            return find_pool(node_id)
        return start_pool(node_id, self._settings, self._profiles, self._on_start)

    async def _learn(self, node_id: str) -> None:
        try:
            self._capacities[node_id] = await self._ask(node_id, "capacity", timeout_s=_ANSWER_S)
        except UnavailableError as exc:
            self._capacities.pop(node_id, None)
            get_logger().info("sandbox pool does not answer", node=node_id, reason=exc.message)


def _own(exc: ray.exceptions.RayTaskError) -> Exception:
    """What the pool raised, where it is ours; Ray wraps it with a trace that callers must not see."""
    cause = exc.cause
    if isinstance(cause, AetherError):
        return cause
    get_logger().error("sandbox pool failed", reason=str(exc))
    return UnavailableError("The sandbox's pool failed. Try again.")


def _cancel(call: Any) -> None:
    """Nobody waits for it any more. One whose actor is gone cannot be cancelled, and need not be."""
    with suppress(ray.exceptions.RayError, ValueError):
        ray.cancel(call)
