"""The tables, one file a noun. `METADATA` is what Alembic compares the database with."""

from serve_app.core.db.tables import callers, creations, gateway, outbox, sandboxes, sessions
from serve_app.core.db.tables.metadata import METADATA

__all__ = ["METADATA", "callers", "creations", "gateway", "outbox", "sandboxes", "sessions"]
