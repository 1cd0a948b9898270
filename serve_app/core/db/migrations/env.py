"""Alembic's entry: runs on the connection it is handed, so a migration is one transaction."""

from alembic import context

from serve_app.core.db.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
