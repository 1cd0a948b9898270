"""What models we run ourselves cannot do, refused so that nothing asked for is dropped in silence."""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from configs.catalog import ModelEntry
from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.openai_wording import missing, unknown, unsupported

_KNOWN = frozenset(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "n",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "modalities",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "metadata",
        "service_tier",
        "store",
        "reasoning_effort",
    ]
)
_NOT_OFFERED = frozenset(
    [
        "audio",
        "prediction",
        "web_search_options",
        "verbosity",
        "functions",
        "function_call",
        "moderation",
        "prompt_cache_options",
    ]
)
_OF_ENGINE: Mapping[str | None, frozenset[str]] = {
    "vllm": frozenset(
        ["top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "chat_template_kwargs", "priority"]
    ),
}
"""Parameters outside OpenAI's reference that an engine of ours understands."""
_KNOWN_IN_MESSAGE = frozenset(
    [
        "role",
        "content",
        "name",
        "tool_call_id",
        "tool_calls",
        "refusal",
        "annotations",
        "audio",
        "reasoning_content",
        "reasoning_details",
    ]
)
_KNOWN_IN_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})
_MODALITY_OF_PART = {"image_url": "image", "input_audio": "audio", "file": "document"}


def check_local(raw: Mapping[str, Any], model: ModelEntry) -> None:
    """Refuse what `model` cannot do. `raw` has passed `openai_chat_schema.validate`.

    Raises:
        InvalidRequestError: naming what cannot be done and where it was asked.
    """
    known_here = _OF_ENGINE.get(model.engine, frozenset())
    for name, value in raw.items():
        if name in _KNOWN or name in known_here:
            continue
        if name not in _NOT_OFFERED:
            raise unknown(name)
        if value is not None:
            raise unsupported(f"'{name}' is not supported with the model '{model.id}'.", name)
    for name in raw.get("stream_options") or ():
        if name not in _KNOWN_IN_STREAM_OPTIONS:
            raise unknown("stream_options", name)
    _check_offers(raw, model)
    _check_response_format(raw.get("response_format"), model)
    for index, message in enumerate(raw["messages"]):
        _check_message(message, index, model)


def _check_offers(raw: Mapping[str, Any], model: ModelEntry) -> None:
    if raw.get("n") not in {None, 1}:
        raise unsupported("Only one choice is written per request: 'n' must be 1.", "n")
    if raw.get("store"):
        raise unsupported("Completions are not stored here: leave 'store' out or set it to false.", "store")
    if any(kind != "text" for kind in raw.get("modalities") or ()):
        raise unsupported(f"The model '{model.id}' writes text only.", "modalities")
    if raw.get("tools") and not model.tools:
        raise unsupported(f"The model '{model.id}' cannot use tools.", "tools")
    for index, tool in enumerate(raw.get("tools") or ()):
        if tool["type"] != "function":
            raise unsupported(f"The model '{model.id}' uses functions only.", f"tools.{index}.type")
    if raw.get("reasoning_effort") is not None and not model.reasoning:
        raise unsupported(f"'reasoning_effort' is not supported with the model '{model.id}'.", "reasoning_effort")
    for name in ("max_tokens", "max_completion_tokens"):
        if (raw.get(name) or 0) > model.max_output_tokens:
            raise InvalidRequestError(
                f"{name} is too large: {raw[name]}. The model '{model.id}' writes at most {model.max_output_tokens} tokens.",
                param=name,
                code="invalid_value",
            )


def _check_response_format(wanted: Mapping[str, Any] | None, model: ModelEntry) -> None:
    if wanted is None or wanted["type"] == "text":
        return
    if not model.json_schema:
        raise unsupported(f"The model '{model.id}' cannot keep to a response format.", "response_format")
    if wanted["type"] == "json_object":
        return
    spec = wanted["json_schema"]
    if spec.get("schema") is None:
        raise missing("response_format", "json_schema", "schema", param="response_format")
    try:
        Draft202012Validator.check_schema(spec["schema"])
    except (SchemaError, RecursionError) as exc:
        reason = exc.message[:200] if isinstance(exc, SchemaError) else "it is nested too deeply"
        raise InvalidRequestError(
            f"Invalid schema for response_format '{spec['name']}': {reason}",
            param="response_format",
            code="invalid_json_schema",
        ) from exc


def _check_message(message: Mapping[str, Any], index: int, model: ModelEntry) -> None:
    where = f"messages.{index}"
    for name in message:
        if name not in _KNOWN_IN_MESSAGE:
            raise unknown("messages", index, name)
    if message["role"] == "function":
        raise unsupported("Messages of the role 'function' are not supported: use 'tool'.", f"{where}.role")
    uses_tools = message["role"] == "tool" or message.get("tool_calls") or message.get("tool_call_id")
    if uses_tools and not model.tools:
        raise unsupported(f"The model '{model.id}' cannot use tools; this message belongs to a tool call.", where)
    if message.get("audio") is not None:
        raise unsupported(f"The model '{model.id}' writes text only.", f"{where}.audio")
    content = message.get("content")
    if not isinstance(content, list):
        return
    for at, part in enumerate(content):
        kind = part["type"]
        if kind != "text" and _MODALITY_OF_PART.get(kind) not in model.modalities:
            accepted = " and ".join(model.modalities)
            raise unsupported(
                f"The model '{model.id}' takes {accepted} only; this part is '{kind}'.", f"{where}.content.{at}"
            )
