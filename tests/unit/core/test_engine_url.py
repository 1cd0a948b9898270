"""Database addresses as operators are given them."""

import pytest

from serve_app.core.db.engine import async_url


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p%40ss@db:5432/n", "postgresql+asyncpg://u:p%40ss@db:5432/n"),
        ("postgres://u@db/n?sslmode=require", "postgresql+asyncpg://u@db/n?ssl=require"),
        ("postgresql://aether@/aether?host=/run/pg", "postgresql+asyncpg://aether@/aether?host=%2Frun%2Fpg"),
    ],
)
def test_addresses_are_turned_into_the_drivers_own(given: str, used: str) -> None:
    assert async_url(given) == used
