"""What the rows of the fidelity table are made of: features, and bodies in each dialect.

A feature is a whole body that says one thing beyond the least there is. `marks` must be in the provider's body for it to be
carried; where no literal mark can tell, there is a test per target.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.router.dialects.canonical import Dialect

Body = dict[str, Any]
CHAT, RESPONSES, ANTHROPIC, GEMINI = (
    Dialect.OPENAI_CHAT,
    Dialect.OPENAI_RESPONSES,
    Dialect.ANTHROPIC,
    Dialect.GEMINI,
)

PNG, PDF, WAV = "aVBOmark", "JVBEmark", "UklGmark"
HI = {"role": "user", "content": "Hi"}


@dataclass(frozen=True)
class Feature:
    """A row. A dialect missing in `bodies` has no way to say it."""

    name: str
    bodies: Mapping[Dialect, Body]
    marks: tuple[str, ...] = ()
    tests: Mapping[Dialect, Callable[[Body], bool]] = field(default_factory=dict)


def chat(*messages: Body, **fields: Any) -> Body:
    return {"model": "m", "messages": list(messages) or [{"role": "user", "content": "Hi"}], **fields}


def responses(*items: Body, **fields: Any) -> Body:
    return {"model": "m", "input": list(items) or "Hi", **fields}


def anthropic(*messages: Body, **fields: Any) -> Body:
    whole = list(messages) or [{"role": "user", "content": "Hi"}]
    return {"model": "m", "max_tokens": 9000, "messages": whole, **fields}


def user(*content: Body) -> Body:
    return {"role": "user", "content": list(content)}


def model(*content: Body) -> Body:
    return {"role": "assistant", "content": list(content)}


def same(**fields: Any) -> Mapping[Dialect, Body]:
    """A parameter all three dialects call by one name."""
    return {CHAT: chat(**fields), RESPONSES: responses(**fields), ANTHROPIC: anthropic(**fields)}
