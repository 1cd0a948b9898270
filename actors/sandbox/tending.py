"""What is due of a leased sandbox in the course of time: that it pays, sleeps, is stored, and ends."""

from actors.sandbox.chores import Chores
from actors.sandbox.ports import allowed_s
from actors.sandbox.tenancies import Tenancies
from actors.sandbox.tenancy import Tenancy
from serve_app.core.clock import Clock
from serve_app.core.domain.sandboxes import EndReason
from serve_app.core.errors import BudgetExceededError
from serve_app.core.telemetry import get_logger

_CHECK_S = 60.0


class Tending:
    """Begins what is due; it ends by itself, as one of the `chores`."""

    def __init__(self, tenancies: Tenancies, chores: Chores, clock: Clock) -> None:
        self._tenancies = tenancies
        self._chores = chores
        self._clock = clock

    def look(self, tenancy: Tenancy) -> None:
        """At one, every second or so."""
        if tenancy.is_over:
            return
        now, profile, tenancies, do = self._clock.monotonic(), tenancy.profile, self._tenancies, self._chores.do
        is_overdue = now - tenancy.leased_at > profile.wall_s
        if tenancy.lock.locked():
            do(self._press(tenancy, is_overdue=is_overdue))
        elif is_overdue:
            do(tenancies.end_because(tenancy, EndReason.WALL_LIMIT))
        elif tenancy.frozen_at is not None:
            if now >= tenancy.store_at:
                do(tenancies.tend(tenancy, tenancies.store_idle))
            else:
                do(self._go_on_charging(tenancy))
        elif now - tenancy.renewed_at > profile.idle_s:
            do(tenancies.tend(tenancy, tenancies.freeze_idle))
        else:
            do(tenancies.tend(tenancy, self._charge))
            if now - tenancy.checked_at > _CHECK_S:
                tenancy.checked_at = now
                do(tenancies.tend(tenancy, tenancies.check_row))

    async def _charge(self, tenancy: Tenancy) -> None:
        tenancy.unpaid_at = None
        if not await self._is_paid(tenancy):
            await self._tenancies.freeze_unpaid(tenancy)

    async def _go_on_charging(self, tenancy: Tenancy) -> None:
        """Where only its supervisor could freeze it; what nothing is left to pay with is about to be stored."""
        await self._is_paid(tenancy)

    async def _press(self, tenancy: Tenancy, *, is_overdue: bool) -> None:
        """Whoever holds its lock may wait for a supervisor that takes its time on purpose. It is not waited for beyond
        the limit of time, nor, when nothing is left to pay it with, for longer than a full workspace takes."""
        if is_overdue or (not await self._is_paid(tenancy) and self._is_owing(tenancy)):
            get_logger().warning("sandbox cut off", sandbox_id=tenancy.row.id, is_overdue=is_overdue)
            await tenancy.client.close()

    async def _is_paid(self, tenancy: Tenancy) -> bool:
        try:
            await tenancy.meterage.tick()
        except BudgetExceededError:
            tenancy.unpaid_at = tenancy.unpaid_at or self._clock.monotonic()
        return tenancy.unpaid_at is None

    def _is_owing(self, tenancy: Tenancy) -> bool:
        limits, since = tenancy.profile.limits, tenancy.unpaid_at
        return since is not None and self._clock.monotonic() - since > allowed_s(limits.inodes, limits.disk)
