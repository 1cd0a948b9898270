"""Which host names are previews, and what a preview ticket is good for."""

from serve_app.core.domain.creations import creation_of_label
from serve_app.core.domain.ids import CreationId, is_id


def preview_purpose(creation_id: CreationId) -> str:
    return f"preview:{creation_id}"


def is_preview_host(host: str | None, preview_domain: str) -> bool:
    """Whether a `Host` header names something below the preview domain.

    Untrusted creations have host names of their own there, and nothing else may answer at them: whether the creation
    exists or not, no way leads from such a page into the application.
    """
    return _name_below(host, preview_domain) is not None


def previewed_creation(host: str | None, preview_domain: str) -> CreationId | None:
    """The creation a `Host` header names, or None when it names none."""
    creation_id = creation_of_label(_name_below(host, preview_domain) or "")
    return creation_id if is_id(creation_id, "cre") else None


def _name_below(host: str | None, preview_domain: str) -> str | None:
    # A name may be written with the root's dot at its end, and a browser takes it for another origin then.
    name = (host or "").rsplit(":", 1)[0].rstrip(".").lower()
    return name.removesuffix("." + preview_domain) if name.endswith("." + preview_domain) else None
