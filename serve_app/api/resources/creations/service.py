"""What callers may do to creations."""

from datetime import datetime, timedelta
from urllib.parse import urlsplit

from serve_app.api.deps import Services
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.creations import FileEntry, preview_label
from serve_app.core.domain.ids import CreationId, is_id
from serve_app.core.errors import NotFoundError
from serve_app.core.services.previews import preview_purpose


def creation_id_of(text: str) -> CreationId:
    if not is_id(text, "cre"):
        raise NotFoundError("There is no such creation.")
    return CreationId(text)


async def file_of(services: Services, caller: Caller, creation_id: str, number: int, path: str) -> FileEntry:
    version = await services.creations.version(caller.org_id, creation_id_of(creation_id), number)
    return version.file(path)


async def preview_link(services: Services, caller: Caller, creation_id: str) -> tuple[str, datetime]:
    """A link to the creation's own host name, signed for this creation and good until it expires."""
    creation = await services.creations.get(caller.org_id, creation_id_of(creation_id))
    ttl_s = services.preview_link_ttl_s
    ticket = services.tickets.issue(caller, preview_purpose(creation.id), ttl_s)
    base = urlsplit(services.base_url)
    port = f":{base.port}" if base.port else ""
    url = f"{base.scheme}://{preview_label(creation.id)}.{services.preview_domain}{port}/?access={ticket}"
    return url, services.clock.now() + timedelta(seconds=ttl_s)
