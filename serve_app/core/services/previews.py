"""Which host names are previews, and what a preview ticket is good for."""

from serve_app.core.domain.creations import creation_of_label
from serve_app.core.domain.ids import CreationId, is_id


def preview_purpose(creation_id: CreationId) -> str:
    return f"preview:{creation_id}"


def previewed_creation(host: str | None, preview_domain: str) -> CreationId | None:
    """The creation a `Host` header names, or None when it is not a preview's host name."""
    name = (host or "").rsplit(":", 1)[0].lower()
    label, dot, domain = name.partition(".")
    if not dot or domain != preview_domain:
        return None
    creation_id = creation_of_label(label)
    return creation_id if is_id(creation_id, "cre") else None
