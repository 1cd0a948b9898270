"""What a sandbox's refusals are to us: its codes looked up in a fixed table, its words cleaned and cut."""

from actors.sandbox.door.wire import decode
from serve_app.core.errors import (
    AetherError,
    ConflictError,
    EditConflictError,
    ForbiddenError,
    InvalidRequestError,
    NoSuchFileError,
    NotTextError,
    OverloadedError,
    SandboxFullError,
    SandboxLostError,
    SandboxPathError,
    SandboxProtocolError,
    TimedOutError,
)

MOST_WORDS = 500
_FAILED: type[AetherError] = ConflictError
_KINDS: dict[str, type[AetherError]] = {
    # Its lease has passed on: whoever asks anew for the sandbox gets one that holds.
    "bad_hello": SandboxLostError,
    "bad_frame": SandboxProtocolError,
    "bad_request": InvalidRequestError,
    "not_found": NoSuchFileError,
    "bad_path": SandboxPathError,
    "not_a_directory": SandboxPathError,
    "is_a_directory": SandboxPathError,
    "exists": ConflictError,
    "not_text": NotTextError,
    "edit_conflict": EditConflictError,
    "full": SandboxFullError,
    "too_many": OverloadedError,
    "timed_out": TimedOutError,
    "denied": ForbiddenError,
    "failed": _FAILED,
}
_LIMITS = frozenset({"disk", "inodes", "memory", "processes"})
ENDS_CONNECTION = frozenset({"bad_hello", "bad_frame"})


def refusal(payload: bytes, missing: type[AetherError]) -> tuple[str, AetherError]:
    """The code and the error to raise for an `ERROR` frame; `missing` is what `not_found` means for this operation."""
    fields = decode(payload)
    code, message = fields.get("code"), fields.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise SandboxProtocolError("The sandbox sent an error without a code and a message.")
    if code not in _KINDS:
        code = "failed"
    kind = missing if code == "not_found" else _KINDS[code]
    details: dict[str, str] = {"sandbox_code": code}
    said = fields.get("details")
    limit = said.get("limit") if code == "full" and isinstance(said, dict) else None
    if isinstance(limit, str) and limit in _LIMITS:
        details["limit"] = limit
    return code, kind(f"In the sandbox: {words(message)}", **details)


def words(text: str, most: int = MOST_WORDS) -> str:
    """Text from inside that may be shown: no control or unpaired characters, on one line, cut."""
    if len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)
