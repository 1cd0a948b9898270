"""From a model's catalogue entry to what `ray.serve.llm.LLMConfig` takes; plain data, so that nobody needs vLLM to read it."""

from typing import Any

from configs.catalog import ModelEntry
from configs.local_models import VllmOptions

# Chunks are gathered for so long before they cross to the router.
_GATHER_MS = 30
_PREFIX_ROUTER = "ray.serve.llm.request_router.PrefixCacheAffinityRouter"
_PREFIX_ROUTER_ARGUMENTS = {"imbalanced_threshold": 8, "match_rate_threshold": 0.15, "do_eviction": True}
_HEALTH_CHECK_PERIOD_S = 10
_HEALTH_CHECK_TIMEOUT_S = 30
_SHUTDOWN_TIMEOUT_S = 30


def llm_config(model: ModelEntry, options: VllmOptions) -> dict[str, Any]:
    """The arguments of `LLMConfig` for one model."""
    loading: dict[str, Any] = {"model_id": model.id, "model_source": options.source}
    if options.tokenizer:
        loading["tokenizer_source"] = options.tokenizer
    config: dict[str, Any] = {
        "model_loading_config": loading,
        "engine_kwargs": _engine(model, options),
        "deployment_config": _deployment(options),
        "experimental_configs": {"stream_batching_interval_ms": _GATHER_MS},
        "runtime_env": {"env_vars": {"VLLM_NO_USAGE_STATS": "1", **options.env}},
        **_hardware(options),
    }
    if options.lora:
        config["lora_config"] = {
            "dynamic_lora_loading_path": options.lora.path,
            "max_num_adapters_per_replica": options.lora.max_adapters,
        }
    return config


def _engine(model: ModelEntry, options: VllmOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        **options.engine_kwargs,
        "max_model_len": model.context_tokens,
        "max_num_seqs": options.parallel_slots,
        "tensor_parallel_size": options.tensor_parallel,
        "pipeline_parallel_size": options.pipeline_parallel,
        # The catalogue decides how a model samples, not a file beside its weights. An answer whose length nobody
        # named may fill what the prompt leaves of the context, up to this.
        "generation_config": "vllm",
        "override_generation_config": {"max_new_tokens": model.max_output_tokens},
    }
    if options.lora:
        arguments |= {
            "enable_lora": True,
            "max_loras": options.lora.max_adapters,
            "max_lora_rank": options.lora.max_rank,
        }
    if options.tool_parser:
        arguments |= {"enable_auto_tool_choice": True, "tool_call_parser": options.tool_parser}
    if options.reasoning_parser:
        arguments["reasoning_parser"] = options.reasoning_parser
    return arguments


def _hardware(options: VllmOptions) -> dict[str, Any]:
    kind: dict[str, Any] = {}
    device = "GPU"
    if options.accelerator == "cpu":
        kind, device = {"accelerator_config": {"kind": "cpu"}}, "CPU"
    elif options.accelerator:
        kind = {"accelerator_type": options.accelerator}
        device = "TPU" if options.accelerator.startswith("TPU") else "GPU"
    bundle = {device: 1, "CPU": options.cpus}
    return {**kind, "placement_group_config": {"bundle_per_worker": bundle}}


def _deployment(options: VllmOptions) -> dict[str, Any]:
    scaling = options.autoscaling
    deployment: dict[str, Any] = {
        "autoscaling_config": {
            "min_replicas": scaling.min,
            "max_replicas": scaling.max,
            "initial_replicas": max(scaling.min, 1),
            "target_ongoing_requests": scaling.target_ongoing,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
        },
        "max_ongoing_requests": options.parallel_slots * 2,
        "max_queued_requests": options.max_queued,
        "health_check_period_s": _HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": _HEALTH_CHECK_TIMEOUT_S,
        "graceful_shutdown_timeout_s": _SHUTDOWN_TIMEOUT_S,
        # The workers reserve the CPUs; the replica itself only waits for them.
        "ray_actor_options": {"num_cpus": 0},
    }
    if options.prefix_aware:
        deployment["request_router_config"] = {
            "request_router_class": _PREFIX_ROUTER,
            "request_router_kwargs": dict(_PREFIX_ROUTER_ARGUMENTS),
        }
    return deployment
