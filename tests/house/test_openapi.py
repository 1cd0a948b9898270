"""The committed description of the API is the API's. To write it anew: python -m tests.house.test_openapi."""

import json
from pathlib import Path

from serve_app.api.app import build_routes

COMMITTED = Path(__file__).parents[2] / "serve_app" / "api" / "openapi.json"


def current() -> str:
    return json.dumps(build_routes().openapi(), indent=2, sort_keys=True) + "\n"


def test_the_committed_description_is_current() -> None:
    assert COMMITTED.read_text() == current(), "the API changed; run: .venv/bin/python -m tests.house.test_openapi"


if __name__ == "__main__":
    COMMITTED.write_text(current())
