"""Bring a database to the newest schema, and refuse to run against one that is newer."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from serve_app.core.db.engine import owner_engine, translate

_LOCK = 7_236_941  # any constant: two deployers must not migrate at once


def alembic_config(url: str | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    return config


def newest_revision() -> str:
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise RuntimeError("no migrations are packaged")
    return head


async def migrate(url: str) -> str:
    """Apply what is missing; returns the revision the database then has.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    engine = owner_engine(url)
    try:
        with translate():
            async with engine.begin() as connection:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()
    return newest_revision()


def _upgrade(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
