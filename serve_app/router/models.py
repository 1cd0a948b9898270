"""`GET /v1/models`: the catalogue in OpenAI's shape."""

from datetime import UTC, datetime
from typing import Any

import orjson

from configs.catalog import Catalog, ModelEntry
from serve_app.router.policy import choose


class ModelList:
    """The models a caller may name."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def all(self) -> bytes:
        return orjson.dumps({"object": "list", "data": [_describe(model) for model in self._catalog.models]})

    def one(self, model_id: str) -> bytes:
        """Raises `UnknownModelError`."""
        return orjson.dumps(_describe(choose(self._catalog, model_id)))


def _describe(model: ModelEntry) -> dict[str, Any]:
    released = datetime.combine(model.released, datetime.min.time(), UTC)
    return {"id": model.id, "object": "model", "created": int(released.timestamp()), "owned_by": model.owner}
