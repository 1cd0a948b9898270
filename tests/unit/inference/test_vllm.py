"""What vLLM is told, and how what it says becomes ours; the engine itself is met in the contract suite."""

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from configs.catalog import ModelEntry, Sampling
from configs.local_models import VllmOptions
from serve_app.core.errors import (
    AetherError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnknownModelError,
)
from serve_app.inference.vllm.answers import error, join, payload
from serve_app.inference.vllm.config import llm_config

MODEL = ModelEntry(
    id="llama",
    provider="local",
    engine="vllm",
    owner="meta",
    released=date(2024, 12, 6),
    context_tokens=8192,
    max_output_tokens=1024,
    sampling=Sampling(temperature=0.6),
    vllm=VllmOptions(source="meta-llama/Llama-3.3-70B-Instruct"),
)
SAID = 'data: {"id":"a","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


def options(**more: Any) -> VllmOptions:
    return VllmOptions.model_validate({"source": "meta-llama/Llama-3.3-70B-Instruct", **more})


def test_parallelism_and_scaling() -> None:
    config = llm_config(
        MODEL,
        options(accelerator="H100", tensor_parallel=4, parallel_slots=32, autoscaling={"min": 0, "max": 3}),
    )
    assert config["accelerator_type"] == "H100"
    assert config["placement_group_config"] == {"bundle_per_worker": {"GPU": 1, "CPU": 1.0}}
    assert config["engine_kwargs"]["tensor_parallel_size"] == 4
    assert config["engine_kwargs"]["max_model_len"] == 8192
    scaling = config["deployment_config"]["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["initial_replicas"]) == (0, 3, 1)
    assert config["deployment_config"]["max_ongoing_requests"] == 64
    assert "request_router_config" not in config["deployment_config"]


def test_adapters_tools_and_routing_by_prefix() -> None:
    config = llm_config(
        MODEL, options(lora={"path": "s3://bucket/adapters"}, prefix_aware=True, tool_parser="llama3_json")
    )
    assert config["lora_config"]["dynamic_lora_loading_path"] == "s3://bucket/adapters"
    assert config["engine_kwargs"]["enable_lora"] is True
    assert config["engine_kwargs"]["tool_call_parser"] == "llama3_json"
    router = config["deployment_config"]["request_router_config"]
    assert router["request_router_class"].endswith(".PrefixCacheAffinityRouter")


def test_without_an_accelerator() -> None:
    config = llm_config(MODEL, options(accelerator="cpu", cpus=2))
    assert config["accelerator_config"] == {"kind": "cpu"}
    assert config["placement_group_config"] == {"bundle_per_worker": {"CPU": 2.0}}


@pytest.mark.parametrize(
    "more",
    [
        {"engine_kwargs": {"tensor_parallel_size": 2}},
        {"engine_kwargs": {"enable_prefix_caching": False}, "prefix_aware": True},
        {"autoscaling": {"min": 3, "max": 2}},
        {"lora": {"path": "/local/folder"}},
        {"no_such_field": 1},
    ],
)
def test_options_that_contradict_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options(**more)


def test_a_request_brings_the_models_defaults_and_nothing_of_vllms_own() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    asked = {"messages": messages, "top_p": 0.5, "seed": None, "chat_template": "{{ 1 }}", "stream_options": {}}
    body = payload(MODEL, asked, stream=False)
    assert body == {"model": "llama", "messages": messages, "temperature": 0.6, "top_p": 0.5, "stream": False}


def test_events_before_an_error_are_kept() -> None:
    frames, failure = join(
        [SAID, 'data: {"error":{"message":"boom /a/path","code":500}}\n\n', "data: [DONE]\n\n"], MODEL
    )
    assert frames == SAID.encode()
    assert isinstance(failure, EngineError)
    assert "/" not in failure.message
    assert join([SAID, SAID], MODEL) == (SAID.encode() * 2, None)


@pytest.mark.parametrize(
    ("told", "kind", "details"),
    [
        (
            {"message": "This model's maximum context length is 9 tokens. … contains 12 input tokens, …", "code": 400},
            ContextLengthError,
            {"param": "messages", "context_tokens": 9, "prompt_tokens": 12},
        ),
        (
            {"message": "maximum context length is 9 tokens. … contains at least 10 input tokens", "code": 400},
            ContextLengthError,
            {"param": "messages", "context_tokens": 9},
        ),
        ({"message": "Grammar error: no", "code": 400}, InvalidRequestError, {"param": "response_format"}),
        ({"message": "bad", "code": 400, "param": "top_p"}, InvalidRequestError, {"param": "top_p"}),
        ({"message": "no such model", "code": 404}, UnknownModelError, {"param": "model"}),
        ({"message": "busy", "code": 503}, OverloadedError, {}),
        ({"message": "oh", "code": 500}, EngineError, {}),
    ],
)
def test_errors_become_ours(told: dict[str, Any], kind: type[AetherError], details: dict[str, Any]) -> None:
    ours = error({"error": told}, MODEL)
    assert type(ours) is kind
    assert ours.details == details
