"""A replica with nothing but a meter, in a process of its own, so that it can race others and be killed.

Its one argument is JSON: `redis`, `database`, `namespace`, `org_id`, `requests`, `cost`, `hold_s`, `says_granted`,
and perhaps `limit`, or `budget` and `amount`. It says `ready`, waits for a line, makes all its calls at once, says how
many were granted and refused, and ends.
"""

import asyncio
import json
import sys
from typing import Any

from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.domain.spending import Budget, Demand, Limit, Scope
from serve_app.core.errors import BudgetExceededError, RateLimitedError
from serve_app.core.services.metering import Meter
from serve_app.core.stores.limits.redis import RedisLimitStore
from serve_app.core.telemetry.metrics import NullMetrics
from tests.spending import entry, unique


async def call(meter: Meter, task: dict[str, Any]) -> bool:
    name = unique("led")
    made = entry(name, org_id=task["org_id"], reserved=task["cost"], cost=task["cost"])
    scope = Scope("organisation", task["org_id"])
    budgets = (Budget(task["budget"], scope, task["amount"], "month"),) if task.get("budget") else ()
    limits = (Limit(scope, **task["limit"]),) if task.get("limit") else ()
    try:
        reservation = await meter.admit(Demand(name, limits, budgets, tokens=1, entry=made))
    except (BudgetExceededError, RateLimitedError):
        return False
    if task["says_granted"]:
        print("granted", flush=True)
    await asyncio.sleep(task["hold_s"])
    meter.finish(reservation, made)
    return True


async def main(task: dict[str, Any]) -> None:
    database = Database(task["database"], pool_size=2)
    store = RedisLimitStore(task["redis"], unique("replica"), namespace=task["namespace"], grace_s=0.2)
    meter = Meter(store, SqlLedgerRepository(database), NullMetrics())
    await meter.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    granted = await asyncio.gather(*(call(meter, task) for _ in range(task["requests"])))
    await meter.close()
    await store.close()
    await database.close()
    print(json.dumps({"granted": sum(granted), "refused": len(granted) - sum(granted)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
