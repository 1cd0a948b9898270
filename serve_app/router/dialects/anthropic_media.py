"""Images and documents as Anthropic takes them.

https://platform.claude.com/docs/en/build-with-claude/vision
https://platform.claude.com/docs/en/build-with-claude/pdf-support
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any

from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.canonical import Media

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def encode_media(media: Media, where: str, is_own: bool, note: Callable[[str], None]) -> dict[str, Any]:
    """`is_own`: the request came in this dialect, so a file's id is one of Anthropic's.

    Raises:
        InvalidRequestError: a sound, a file by another vendor's id, or of a type Anthropic does not read.
    """
    if media.kind == "audio":
        raise InvalidRequestError(f"{where}: Anthropic takes no audio.", param=where)
    if media.file_id and not is_own:
        raise InvalidRequestError(
            f"{where}: the file {media.file_id!r} is another vendor's; send what is in it instead.", param=where
        )
    if media.detail not in {None, "auto"}:
        note(f"{where}: the detail of an image")
    extra = dict(media.extra)
    source = extra.pop("source", None) or _source(media, where)
    wire: dict[str, Any] = {"type": media.kind, "source": source}
    if media.name and media.kind == "document":
        wire["title"] = media.name
    elif media.name:
        note(f"{where}: the name of an image")
    if extra and not is_own:
        for name in extra:
            note(f"{where}: {name}")
        extra = {}
    return wire | extra


def _source(media: Media, where: str) -> dict[str, Any]:
    if media.file_id:
        return {"type": "file", "file_id": media.file_id}
    if media.url:
        return {"type": "url", "url": media.url}
    if media.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": media.text}
    taken = _IMAGES if media.kind == "image" else {"application/pdf"}
    if media.media_type in taken:
        return {"type": "base64", "media_type": media.media_type, "data": media.data or ""}
    if media.kind == "document" and (media.media_type or "").startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _words(media, where)}
    raise InvalidRequestError(
        f"{where}: Anthropic does not take {media.kind}s of type {media.media_type!r}.", param=where
    )


def _words(media: Media, where: str) -> str:
    try:
        return base64.b64decode(media.data or "", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"{where}: the file's data is not text in base64.", param=where) from exc
