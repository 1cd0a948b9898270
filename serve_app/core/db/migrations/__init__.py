"""Alembic migrations, run by the deployer before anything else starts."""
