"""Who may see what was used: owners all of the organisation's, members their own."""

from datetime import UTC, datetime, timedelta

from serve_app.api.deps import Services
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import UserId
from serve_app.core.errors import InvalidRequestError

_USUAL = timedelta(days=30)
_LONGEST = timedelta(days=366)
_YEARS = range(2000, 2200)


def visible_to(caller: Caller) -> UserId | None:
    """Whose usage the caller may see; None: everybody's."""
    return None if caller.role == "owner" else caller.user_id


def span(services: Services, since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """The time asked for, by default the last thirty days; one without an offset is in UTC."""
    end = _checked(until, "to") if until else services.clock.now()
    begin = _checked(since, "from") if since else end - _USUAL
    if not timedelta(0) < end - begin <= _LONGEST:
        raise InvalidRequestError(f"`from` must be before `to`, and at most {_LONGEST.days} days.")
    return begin, end


def _checked(at: datetime, name: str) -> datetime:
    # At either end of the calendar a time cannot be brought to UTC.
    if at.year not in _YEARS:
        raise InvalidRequestError(f"{name}: must be between the years {_YEARS.start} and {_YEARS.stop - 1}.")
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
