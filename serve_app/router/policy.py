"""Which model answers: the one that was named, or the catalogue's default for "auto"."""

from configs.catalog import Catalog, ModelEntry
from serve_app.core.errors import UnknownModelError

AUTO = "auto"


def choose(catalog: Catalog, requested: str) -> ModelEntry:
    """The model for a request.

    Raises:
        UnknownModelError: no model has this id.
    """
    model = catalog.find(catalog.default if requested == AUTO else requested)
    if model is None:
        known = ", ".join(entry.id for entry in catalog.models)
        raise UnknownModelError(f"The model '{requested[:100]}' does not exist. There is: {known}.", param="model")
    return model
