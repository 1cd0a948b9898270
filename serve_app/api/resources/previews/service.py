"""Rendering a document creation as a page that can do nothing but be read."""

import asyncio
import base64
import hashlib
from html import escape

import nh3
from markdown_it import MarkdownIt

from serve_app.api.deps import Services
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.creations import Creation, Version
from serve_app.core.domain.ids import CreationId

_MAX_RENDERED_BYTES = 2 * 1024 * 1024
_INLINE_BYTES = 32 * 1024
# Raw HTML in the Markdown stays text; what remains is cleaned once more, since an agent's words are hostile.
_MARKDOWN = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])

STYLE = """
:root{color-scheme:light dark;--ink:#1c1d22;--soft:#6b6f7b;--line:#e4e5ea;--page:#fff;--back:#f5f5f7;--link:#3457d5}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8ec;--soft:#9a9dab;--line:#33353f;--page:#1b1c21;--back:#121317;--link:#9db2ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:17px/1.65 ui-serif,Georgia,"Times New Roman",serif}
header,footer{max-width:46rem;margin:0 auto;padding:1.25rem 1.5rem;color:var(--soft);font:14px/1.5 ui-sans-serif,system-ui,sans-serif}
header{display:flex;gap:.75rem;justify-content:space-between;flex-wrap:wrap}
nav a{margin-left:.6rem}
main{max-width:46rem;margin:0 auto;padding:2.5rem 3rem 3rem;background:var(--page);border:1px solid var(--line);border-radius:12px;overflow-wrap:anywhere}
h1,h2,h3{line-height:1.25;font-family:ui-sans-serif,system-ui,sans-serif}h1{margin-top:0}
a{color:var(--link)}img{max-width:100%}
pre{overflow:auto;padding:1rem;background:var(--back);border-radius:8px}code{font:.88em ui-monospace,monospace}
table{border-collapse:collapse}td,th{border:1px solid var(--line);padding:.35rem .7rem}
blockquote{margin-left:0;padding-left:1rem;border-left:3px solid var(--line);color:var(--soft)}
@media(max-width:40rem){main{padding:1.5rem;border-radius:0;border-width:1px 0}}
""".strip()
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private, no-store",
}


async def page(services: Services, caller: Caller, creation_id: CreationId, number: int | None) -> str:
    """The page of one version, the newest when `number` is None.

    Raises:
        NotFoundError: no such creation or version for this caller.
    """
    creation = await services.creations.get(caller.org_id, creation_id)
    version = await services.creations.version(caller.org_id, creation_id, number)
    text = (await source(services, caller, version)).decode("utf-8", "replace")
    if len(text) > _INLINE_BYTES:
        body = await asyncio.to_thread(_render, text)
    else:
        body = _render(text)
    return _page(creation, version, body)


async def source(services: Services, caller: Caller, version: Version) -> bytes:
    return await services.blobs.get(caller.org_id, version.files[0])


def message_page(title: str, message: str) -> str:
    return _html(title, "", f"<h1>{escape(title)}</h1><p>{escape(message)}</p>", "")


def _render(text: str) -> str:
    if len(text) > _MAX_RENDERED_BYTES:
        return f"<pre>{escape(text)}</pre>"
    return nh3.clean(_MARKDOWN.render(text), link_rel="noopener noreferrer nofollow")


def _page(creation: Creation, version: Version, body: str) -> str:
    links = " ".join(
        f"<strong>v{number}</strong>" if number == version.number else f'<a href="/v/{number}">v{number}</a>'
        for number in range(creation.head, max(0, creation.head - 10), -1)
    )
    made = f"{version.created_at:%d %B %Y, %H:%M} UTC"
    model = escape(str(version.provenance.get("model", "unknown")))
    head = f'<span>{escape(creation.title)} · Version {version.number} of {creation.head}</span><nav aria-label="versions">{links}</nav>'
    foot = f'Made by {model} on {made} · <a href="/v/{version.number}/source">Markdown source</a>'
    return _html(creation.title, head, body, foot)


def _html(title: str, head: str, body: str, foot: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><header>{head}</header><main>{body}</main><footer>{foot}</footer>"
        "</body></html>"
    )
