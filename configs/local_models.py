"""How vLLM serves a model of the catalogue: the part of its entry that only this engine reads."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

_SAID_ELSEWHERE = {
    "model": "source",
    "served_model_name": "the model's id",
    "tokenizer": "tokenizer",
    "max_model_len": "context_tokens",
    "tensor_parallel_size": "tensor_parallel",
    "pipeline_parallel_size": "pipeline_parallel",
    "max_num_seqs": "parallel_slots",
    "enable_lora": "lora",
    "max_loras": "lora.max_adapters",
    "max_lora_rank": "lora.max_rank",
    "enable_auto_tool_choice": "tool_parser",
    "tool_call_parser": "tool_parser",
    "reasoning_parser": "reasoning_parser",
    "generation_config": "sampling",
    "override_generation_config": "sampling",
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Autoscaling(_Frozen):
    """Replicas, each with all its accelerators. Serve adds one when replicas hold more than `target_ongoing` answers."""

    min: Annotated[int, Field(ge=0)] = 1
    max: Annotated[int, Field(ge=1)] = 1
    target_ongoing: Annotated[float, Field(gt=0)] = 32.0
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 600.0

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.max < self.min:
            raise ValueError("autoscaling.max is less than autoscaling.min")
        return self


class Lora(_Frozen):
    """Adapters of a model, loaded when first asked for. Each is an entry of its own, with `adapter_of`."""

    path: Annotated[str, Field(pattern=r"^(s3|gs|abfss|azure)://\S+$")]
    """The folder in which every adapter has its folder, named as its entry's id after the colon."""
    max_adapters: Annotated[int, Field(ge=1)] = 4
    """At once in one replica; another one takes the place of the one used longest ago."""
    max_rank: Annotated[int, Field(ge=1)] = 16


class VllmOptions(_Frozen):
    """What `engine: vllm` needs. `engine_kwargs` are vLLM's own `AsyncEngineArgs`, for all that has no name here."""

    source: Annotated[str, Field(min_length=1)]
    """Weights: a Hugging Face id, a folder every node has, or s3:// and the like."""
    tokenizer: str | None = None
    accelerator: str | None = None
    """As Ray names it (`A100`, `H100`, `L4`, `TPU-V6E`); none: any GPU; `cpu`: none."""
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    pipeline_parallel: Annotated[int, Field(ge=1)] = 1
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Reserved for each worker, of which there are `tensor_parallel` times `pipeline_parallel`."""
    parallel_slots: Annotated[int, Field(ge=1)] = 64
    """Answers one replica writes at once; it holds as many again waiting before Serve sends them elsewhere."""
    max_queued: Annotated[int, Field(ge=-1)] = 256
    """Waiting in a router's replica for a place; more are refused. -1: without bound."""
    autoscaling: Autoscaling = Autoscaling()
    prefix_aware: bool = False
    """Send what begins alike to the same replica, whose cache has it already. Costs a call per request."""
    lora: Lora | None = None
    tool_parser: str | None = None
    """vLLM's name for how this model writes tool calls (`hermes`, `llama3_json`, `mistral`, …)."""
    reasoning_parser: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    """For the replica's and its workers' environment. No secrets: it can be read in Ray's dashboard."""
    engine_kwargs: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> Self:
        for name in self.engine_kwargs:
            if name in _SAID_ELSEWHERE:
                raise ValueError(f"vllm.engine_kwargs.{name} is said by {_SAID_ELSEWHERE[name]}")
        if self.prefix_aware and self.engine_kwargs.get("enable_prefix_caching") is False:
            raise ValueError("vllm.prefix_aware needs enable_prefix_caching")
        return self
