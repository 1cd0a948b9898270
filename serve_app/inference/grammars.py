"""What a response format may promise: a schema an engine would quietly keep only in part is refused."""

from collections.abc import Callable
from typing import Any

from serve_app.core.errors import InvalidRequestError


def refuse_broken_promises(response_format: Any, is_kept: Callable[[str], bool], advice: str) -> None:
    """Look at every pattern and reference of a schema; `is_kept` tells whether the engine keeps to a pattern.

    Raises:
        InvalidRequestError: a pattern the engine would not enforce, with `advice`, or a reference to elsewhere.
    """
    waiting: list[Any] = [response_format]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            pattern, reference = node.get("pattern"), node.get("$ref")
            if isinstance(pattern, str) and not is_kept(pattern):
                raise _refusal(f"The pattern {pattern[:80]!r} cannot be enforced: {advice}")
            if isinstance(reference, str) and not reference.startswith("#"):
                raise _refusal(f"The reference {reference[:80]!r} leads out of the schema, and is not followed.")
            waiting.extend(node.values())


def _refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="response_format")
