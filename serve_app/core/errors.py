"""The error tree, grouped by what the catcher does: the caller's fault, try again, our fault.

Callers see `code`, `message` and a request id, never a traceback. Subclasses set class attributes only: an
exception with its own `__init__` does not survive Ray's pickling.
"""

from typing import Any, ClassVar


class AetherError(Exception):
    """Base of every error a caller may see. `message` is for people, `details` for programs."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(kind: type[AetherError], message: str, details: dict[str, Any]) -> AetherError:
    return kind(message, **details)


# --- the caller's fault -------------------------------------------------------------------------------------


class InvalidRequestError(AetherError):
    code, status = "invalid_request", 422


class MalformedBodyError(InvalidRequestError):
    code, status = "malformed_body", 400


class BodyTooLargeError(AetherError):
    code, status = "body_too_large", 413


class SlowBodyError(AetherError):
    code, status = "body_timeout", 408


class UnauthenticatedError(AetherError):
    code, status = "unauthenticated", 401


class ForbiddenError(AetherError):
    code, status = "forbidden", 403


class NotFoundError(AetherError):
    code, status = "not_found", 404


class MethodNotAllowedError(AetherError):
    code, status = "method_not_allowed", 405


class ConflictError(AetherError):
    code, status = "conflict", 409


class UnknownModelError(NotFoundError):
    code = "model_not_found"


class ContextLengthError(InvalidRequestError):
    code, status = "context_length_exceeded", 400


class TooManyMessagesError(AetherError):
    code, status = "too_many_messages", 429


class RateLimitedError(AetherError):
    """A limit is reached; `retry_after_s` and `limit` in the details."""

    code, status, retryable = "rate_limit_exceeded", 429, True


class BudgetExceededError(AetherError):
    """What is left of a budget does not cover this."""

    code, status = "insufficient_quota", 429


class UnknownProfileError(NotFoundError):
    code = "profile_not_found"


class SandboxPathError(InvalidRequestError):
    """A path that is not inside the sandbox's own folders, or not of the kind that was asked for."""

    code = "bad_path"


class NoSuchFileError(NotFoundError):
    code = "file_not_found"


class NotTextError(InvalidRequestError):
    """Binary where text was asked for."""

    code = "not_text"


class EditConflictError(ConflictError):
    """The text to replace is not there, or is there more than once."""

    code = "edit_conflict"


class SandboxFullError(AetherError):
    """A limit of the sandbox is reached: disk, memory, processes, open files. `limit` in the details."""

    code, status = "sandbox_full", 507


class SandboxEndedError(AetherError):
    """The sandbox is no more; `reason` in the details."""

    code, status = "sandbox_ended", 410


class QuotaExceededError(AetherError):
    """The organisation has as many sandboxes as it may have."""

    code, status = "sandbox_quota", 429


class EgressDeniedError(ForbiddenError):
    code = "egress_denied"


# --- try again ----------------------------------------------------------------------------------------------


class UnavailableError(AetherError):
    code, status, retryable = "unavailable", 503, True


class OverloadedError(UnavailableError):
    code = "overloaded"


class TimedOutError(UnavailableError):
    code, status = "timed_out", 504


class AtCapacityError(UnavailableError):
    """No node has room for another sandbox right now."""

    code = "at_capacity"


class SandboxLostError(UnavailableError):
    """The sandbox died under the call. Its workspace is as its last snapshot has it."""

    code = "sandbox_lost"


class ProviderError(UnavailableError):
    """A model's provider failed: it is away, answered with a 5xx, or said what is not its dialect."""

    code, status = "provider_failed", 502


# --- a provider said no ---------------------------------------------------------------------------------------


class ProviderRefusedError(AetherError):
    """A provider understood and declined. Details: `provider_status`, and `provider_type` or `provider_code` if told."""

    code, status = "provider_refused", 400


class ContentFilteredError(ProviderRefusedError):
    """A provider's content policy stands against the request."""

    code = "content_filter"


# --- somebody else owns it now ------------------------------------------------------------------------------


class FencedError(AetherError):
    """The writer's lease on a session has passed to another host; it must stop, not retry."""

    code, status = "fenced", 409


# --- our fault ----------------------------------------------------------------------------------------------


class CorruptedError(AetherError):
    """Stored bytes do not match their digest, or a stored row cannot be read."""

    code = "corrupted"


class MisconfiguredError(AetherError):
    """A server refuses what an operator set: a wrong password, bucket or name. Trying again cannot help."""

    code = "misconfigured"


class EngineError(AetherError):
    """A model engine failed for a reason that is not the caller's."""

    code = "engine_failed"


class UnenforceableError(MisconfiguredError):
    """A limit that was asked for cannot be enforced on this machine; `limits` in the details."""

    code = "limit_unenforceable"


class SandboxProtocolError(AetherError):
    """What came out of a sandbox is not the protocol: it is cut off."""

    code, status = "sandbox_protocol", 502
