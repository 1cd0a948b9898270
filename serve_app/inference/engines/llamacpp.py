"""llama.cpp in this process: GGUF models on the CPU, several answers at once from one set of weights."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xllamacpp

from serve_app.core.errors import (
    AetherError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)
from serve_app.core.telemetry import get_logger
from serve_app.inference.engines.base import PARAMETERS, Chunk, Sink
from serve_app.inference.grammars import refuse_broken_promises

# Between two batches of a prompt other answers get their turn and a cancelled request ends, so a batch is short
# (about a second of work for a small CPU); a longer one reads prompts no faster.
_BATCH_TOKENS = 256
# llama.cpp keeps the state of past prompts in host memory, 8 GiB of it by default.
_PROMPT_CACHE_MIB = 64


class LlamaCppEngine:
    """A loaded GGUF model. Construction blocks until it can answer.

    All slots share one pool of `context_tokens`, so a single request may use the whole context; callers keep the
    sum of what runs at once within it.
    """

    def __init__(self, weights: Path, context_tokens: int, slots: int, threads: int) -> None:
        params = parameters(weights, threads)
        params.n_ctx = context_tokens
        params.n_parallel = slots
        params.kv_unified = True
        params.n_batch = params.n_ubatch = _BATCH_TOKENS
        params.cache_ram_mib = _PROMPT_CACHE_MIB
        self._server = start(params)

    def generate(self, request: Mapping[str, Any], sink: Sink) -> None:
        """See `Engine.generate`."""
        refuse_broken_promises(request.get("response_format"), _is_anchored, "anchor it as '^…$'.")
        payload = {name: request[name] for name in PARAMETERS if request.get(name) is not None}
        payload |= {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
        failure: Exception | None = None

        def receive(chunk: Chunk) -> bool:
            """True makes llama.cpp drop the request and free its slot."""
            nonlocal failure
            if sink.is_cancelled:
                return True
            try:
                if error := chunk.get("error"):
                    failure = _error(error)
                elif progress := chunk.get("prompt_progress"):
                    sink.prompt(progress["total"])
                else:
                    chunk.pop("timings", None)
                    sink.chunk(chunk)
            except Exception as exc:  # noqa: BLE001 - the library would swallow it; it is raised below
                failure = exc
            return failure is not None

        with _translate():
            self._server.handle_chat_completions(payload, receive)
        if failure is not None:
            raise failure

    def check(self) -> None:
        """See `Engine.check`."""
        check_loop(self._server)

    def close(self) -> None:
        """See `Engine.close`. The destructor stops the loop and frees the weights."""
        del self._server


def parameters(weights: Path, threads: int) -> xllamacpp.CommonParams:
    """What is the same for every model: on the CPU, quiet, and counting."""
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    params.verbosity = -1
    params.endpoint_metrics = True  # `check_loop` asks for them; they are read in this process only
    params.endpoint_slots = False
    params.ui = False
    params.n_threads_http = 1
    return params


def start(params: xllamacpp.CommonParams) -> xllamacpp.Server:
    """Load the model, with a listener nobody can reach. Raises `EngineError`."""
    # The library insists on an HTTP listener. It gets a Unix socket in a private folder that is removed as soon
    # as it listens, so that no path leads to it, and a key nobody knows.
    hidden = tempfile.mkdtemp(prefix="aether-engine-")
    params.hostnames = [f"{hidden}/s.sock"]
    params.api_keys = [secrets.token_urlsafe(32)]
    try:
        return xllamacpp.Server(params)
    except Exception as exc:
        raise EngineError("The model could not be loaded.", weights=Path(params.model.path).name) from exc
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def check_loop(server: xllamacpp.Server) -> None:
    """Metrics are collected by the loop that decodes, so an answer means it turns. Raises `EngineError`."""
    if "llamacpp:" not in str(server.handle_metrics()):
        raise EngineError("The model engine did not answer.")


@contextmanager
def _translate() -> Iterator[None]:
    """The library raises ValueError for a request it cannot read and RuntimeError for one it cannot do."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as exc:
        reason = str(exc)
        get_logger().warning("engine refused", reason=reason[:500])
        _, found, detail = reason.partition("JSON schema error at ")
        if found:
            raise InvalidRequestError(f"This JSON schema cannot be used, at {detail}", param="response_format") from exc
        if isinstance(exc, RuntimeError):
            raise EngineError("The model engine could not answer this request.") from exc
        raise InvalidRequestError("The model engine does not understand this request.") from exc


def _error(error: Mapping[str, Any]) -> AetherError:
    message = str(error.get("message"))
    if error.get("type") == "exceed_context_size_error":
        context, prompt = error.get("n_ctx"), error.get("n_prompt_tokens")
        return ContextLengthError(
            f"This model's context is {context} tokens. Your messages take {prompt} tokens. Shorten them.",
            param="messages",
            context_tokens=context,
            prompt_tokens=prompt,
        )
    get_logger().warning("engine failed", reason=message[:500], code=error.get("code"))
    match error.get("code"):
        case 400:
            return InvalidRequestError("The model engine does not understand this request.")
        case 503:
            return UnavailableError("The model is still loading.")
        case _ if "Context size" in message:
            return OverloadedError("The answers running at once filled the model's memory. Try again.")
        case _:
            return EngineError("The model engine could not answer this request.")


def _is_anchored(pattern: str) -> bool:
    """llama.cpp's grammar takes a pattern it cannot express for "any string"."""
    return pattern.startswith("^") and pattern.endswith("$")
