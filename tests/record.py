"""`make record`: real streams of every vendor whose key is in the environment, kept as fixtures beside the composed ones.

Run as `python -m tests.record`. Each request is small and costs a fraction of a cent.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from configs.catalog import load_catalog
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.wire import ANTHROPIC_VERSION, path, sign

STREAMS = Path(__file__).parent / "fixtures" / "streams"
_ASK = "What is 17 times 23, and what is the weather in Paris? Use the tool for the weather."
_CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_ABOUT = "The weather in a city"


@dataclass(frozen=True)
class Vendor:
    """Where a dialect is recorded, and how it is asked. The model is the first the catalogue has of that provider."""

    dialect: Dialect
    provider: str
    key: str
    body: Callable[[str], dict[str, Any]]


def _chat(model: str) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "weather", "description": _ABOUT, "parameters": _CITY}}
    return {
        "model": model, "messages": [{"role": "user", "content": _ASK}], "tools": [tool],
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def _responses(model: str) -> dict[str, Any]:
    tool = {"type": "function", "name": "weather", "description": _ABOUT, "parameters": _CITY, "strict": False}
    return {"model": model, "input": _ASK, "tools": [tool], "stream": True, "store": False}


def _messages(model: str) -> dict[str, Any]:
    tool = {"name": "weather", "description": _ABOUT, "input_schema": _CITY}
    return {
        "model": model, "messages": [{"role": "user", "content": _ASK}], "tools": [tool],
        "max_tokens": 1024, "stream": True,
    }  # fmt: skip


def _gemini(_: str) -> dict[str, Any]:
    tool = {"functionDeclarations": [{"name": "weather", "description": _ABOUT, "parameters": _CITY}]}
    return {"contents": [{"role": "user", "parts": [{"text": _ASK}]}], "tools": [tool]}


VENDORS = (
    Vendor(Dialect.OPENAI_CHAT, "openai", "OPENAI_API_KEY", _chat),
    Vendor(Dialect.OPENAI_RESPONSES, "openai", "OPENAI_API_KEY", _responses),
    Vendor(Dialect.ANTHROPIC, "anthropic", "ANTHROPIC_API_KEY", _messages),
    Vendor(Dialect.GEMINI, "gemini", "GEMINI_API_KEY", _gemini),
    Vendor(Dialect.OPENAI_CHAT, "groq", "GROQ_API_KEY", _chat),
)


def record(vendor: Vendor, secret: str) -> Path:
    """Raises `httpx.HTTPError`, or `SystemExit` with what the vendor said."""
    catalog = load_catalog()
    model = next(model for model in catalog.models if model.provider == vendor.provider and model.kind == "chat")
    url = f"{catalog.provider(vendor.provider).base_url}{path(vendor.dialect, model.upstream_name, is_stream=True)}"
    headers = dict(sign(vendor.dialect, secret))
    if vendor.dialect is Dialect.ANTHROPIC:
        headers["anthropic-version"] = ANTHROPIC_VERSION
    answer = httpx.post(url, json=vendor.body(model.upstream_name), headers=headers, timeout=120)
    if answer.status_code != 200:
        sys.exit(f"{vendor.provider} answered {answer.status_code}: {answer.text[:500]}")
    # What names an account is nobody's business, and a recording must not change with it.
    stream = re.sub(rb"org-[A-Za-z0-9]+", b"org-recorded", answer.content)
    file = STREAMS / vendor.dialect.value / f"recorded_{vendor.provider}.sse"
    at = datetime.now(UTC).date().isoformat()
    file.write_bytes(f": source: recorded from {url.partition('?')[0]} on {at}\n\n".encode() + stream)
    return file


def main() -> None:
    for vendor in VENDORS:
        secret = os.environ.get(vendor.key, "").strip()
        if not secret:
            print(f"{vendor.provider} ({vendor.dialect.value}): not recorded, {vendor.key} is not set")
            continue
        print(f"{vendor.provider} ({vendor.dialect.value}): {record(vendor, secret).relative_to(STREAMS.parent)}")


if __name__ == "__main__":
    main()
