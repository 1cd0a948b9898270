"""One leased sandbox in its pool: its client, its way out, its meter, and what it is in the middle of."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.ports import Held, Meterage, Outlet
from actors.sandbox.stock import Ready
from configs.sandboxes import Profile
from serve_app.core.domain.sandboxes import Lease, Sandbox, Service, Snapshot
from serve_app.core.errors import AetherError, BudgetExceededError, FencedError, UnavailableError
from serve_app.core.telemetry import get_logger

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0


class Tenancy:
    """Owns what it was made with, and closes it. `lock` is held while its state changes."""

    def __init__(
        self,
        row: Sandbox,
        lease: Lease,
        profile: Profile,
        ready: Ready,
        client: SandboxClient,
        way_out: SandboxClient,
        meterage: Meterage,
        now: float,
    ) -> None:
        self.row = row
        self.lease = lease
        self.profile = profile
        self.started = ready.started
        self.client = client
        self.way_out = way_out
        self.outlet: Outlet | None = None
        self.meterage = meterage
        self.snapshot: Snapshot | None = None
        self.lock = asyncio.Lock()
        self.leased_at = now
        self.renewed_at = now
        self.checked_at = now
        """When its row was last known to be this lease's."""
        self.unpaid_at: float | None = None
        """Since when nothing is left to pay it with."""
        self.frozen_at: float | None = None
        self.store_at = 0.0
        """When a frozen one's workspace is to be stored."""
        self.is_over = False
        self.watch: asyncio.Task[None] | None = None
        self.on_closed: Callable[[], None] = lambda: None
        self._is_frozen_from_within = False
        self._pause_s = 0.0
        self._closing: asyncio.Task[None] | None = None

    def check(self, held: Held) -> None:
        """Raises `FencedError` when `held` is not this lease, or an older holding of it."""
        if held.lease_id != self.lease.id or held.fence != self.lease.fence or self.is_over:
            raise FencedError("This sandbox has passed to another holder.")

    async def start_services(self, services: tuple[Service, ...]) -> None:
        """Those that do not start are told in the log: a sandbox without one of them is better than none."""
        for service in services:
            try:
                await self.client.start(service.argv, cwd=service.cwd, env=service.env)
            except AetherError as exc:
                get_logger().warning(
                    "service did not start", sandbox_id=self.row.id, service=service.name, code=exc.code
                )

    async def freeze(self, now: float, keep_s: float) -> None:
        """Nothing inside runs, or is charged, until `thaw`. Its workspace is to be stored in `keep_s`.

        Where only its supervisor could be asked, which need not do it: it is charged, and to be stored at once.
        """
        if self.frozen_at is None:
            await self._stop_processes()
            self.frozen_at = now
            if not self._is_frozen_from_within:
                await self.meterage.end()
        self.store_at = now if self._is_frozen_from_within else now + keep_s

    async def thaw(self, now: float) -> None:
        """Raises `BudgetExceededError` and stays frozen when nothing is left to pay with."""
        self.renewed_at = now
        if self.frozen_at is None:
            return
        is_charged = self._is_frozen_from_within
        await self.meterage.begin()
        try:
            if is_charged:
                await self.meterage.tick()
            await self._let_processes_go_on()
        except BaseException:
            if not is_charged:
                await self.meterage.end()
            raise
        self.frozen_at = self.unpaid_at = None
        self._pause_s = 0.0

    def put_off(self, now: float) -> None:
        """Its workspace could not be stored: try again later, and less and less often."""
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self.store_at = now + self._pause_s

    @asynccontextmanager
    async def still(self, now: float) -> AsyncIterator[None]:
        """Nothing but the supervisor runs meanwhile, so that the workspace does not change while it is read.

        That is charged too, where it can be: only the supervisor says what runs. Afterwards it goes on as before, unless
        it is over.
        """
        is_frozen_from_outside = self.frozen_at is not None and not self._is_frozen_from_within
        try:
            if is_frozen_from_outside:
                await self._pay(now)
                await self.started.thaw()
            await self.client.freeze()
            yield
        finally:
            if not self.is_over and not self._is_frozen_from_within:
                await self._go_on(is_frozen_from_outside)

    async def _go_on(self, is_frozen: bool) -> None:
        try:
            await self.client.thaw()
        except AetherError as exc:
            # What went wrong before matters more. A sandbox that does not answer is found out by its next use.
            get_logger().warning("sandbox stands still", sandbox_id=self.row.id, code=exc.code, reason=exc.message)
        finally:
            if is_frozen:
                await self._stop_processes()
                if not self._is_frozen_from_within:
                    await self.meterage.end()

    async def _pay(self, now: float) -> None:
        try:
            await self.meterage.begin()
        except BudgetExceededError:
            self.unpaid_at = self.unpaid_at or now
        except UnavailableError as exc:
            get_logger().warning("sandbox not charged", sandbox_id=self.row.id, code=exc.code, reason=exc.message)

    async def _stop_processes(self) -> None:
        if not await self.started.freeze():
            await self.client.freeze()
            self._is_frozen_from_within = True

    async def _let_processes_go_on(self) -> None:
        if self._is_frozen_from_within:
            await self.client.thaw()
        else:
            await self.started.thaw()
        self._is_frozen_from_within = False

    async def close(self) -> None:
        """Destroy the sandbox and all that belongs to it. Whoever asks a second time waits for the same end."""
        if self._closing is None:
            self.is_over = True
            if self.watch and self.watch is not asyncio.current_task():
                self.watch.cancel()
            self._closing = asyncio.create_task(self._close(), name=f"end {self.row.id}")
            self._closing.add_done_callback(lambda _: self.on_closed())
        # To its end even when the caller is cancelled: half of it would stay behind.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.started.destroy)
            stack.push_async_callback(self.client.close)
            stack.push_async_callback(self.way_out.close)
            if self.outlet:
                stack.push_async_callback(self.outlet.close)
            try:
                await self.meterage.end()
            except AetherError as exc:
                get_logger().warning("sandbox not settled", sandbox_id=self.row.id, code=exc.code)
