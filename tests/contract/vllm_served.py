"""vLLM behind Ray Serve LLM in a private Ray, on the CPU, with the weights that ship."""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from configs.catalog import ModelEntry
from configs.local_models import VllmOptions
from configs.settings import TelemetrySettings
from serve_app.inference.weights import locate

# vLLM reads no GGUF; transformers unpacks it into what vLLM does read.
_UNPACK = """
import sys, torch, transformers
folder, file, target = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).to(torch.bfloat16)
model.config.__dict__.pop("quantization_config", None)
model.is_quantized, model.hf_quantizer = False, None
model.save_pretrained(target)
transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)
"""
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
}
_CPUS = 2


class Way(Protocol):
    """The handle the router uses."""

    def stream(self, model_id: str, request: dict[str, Any], trace: dict[str, str]) -> AsyncGenerator[bytes, None]: ...

    async def complete(self, model_id: str, request: dict[str, Any], trace: dict[str, str]) -> bytes: ...


class Served:
    """One model through it."""

    def __init__(self, way: Way, model_id: str) -> None:
        self._way = way
        self._model_id = model_id

    def stream(self, request: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        return self._way.stream(self._model_id, request, {})

    async def complete(self, request: dict[str, Any]) -> bytes:
        return await self._way.complete(self._model_id, request, {})


@asynccontextmanager
async def served_by_vllm(model: ModelEntry, slots: int, folder: Path) -> AsyncIterator[Served]:
    """Takes a minute or three. Routing is prefix-aware, so that its way is gone too."""
    os.environ.update(_ENVIRONMENT)
    # Here and not above: without the extra there is no vLLM to import, and no other test needs Ray in this process.
    import ray
    from ray import serve

    from serve_app.inference.vllm.deployment import build
    from serve_app.router.handles import InferenceHandle, ModelRoute

    weights = locate(model.source)
    target = folder / "weights"
    subprocess.run([sys.executable, "-c", _UNPACK, weights.parent, weights.name, target], check=True, timeout=300)
    options = VllmOptions(
        source=str(target),
        accelerator="cpu",
        parallel_slots=slots,
        prefix_aware=True,
        env=_ENVIRONMENT,
        engine_kwargs={"dtype": "bfloat16", "enforce_eager": True},
    )
    ray.init(
        address="local",
        num_cpus=_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 1024 * 1024,
        configure_logging=False,
    )
    try:
        serve.start(proxy_location="Disabled")
        handle = serve.run(build(model, options, TelemetrySettings()), name="vllm", route_prefix=None)
        yield Served(InferenceHandle(handle, {model.id: ModelRoute(handle, is_prefix_aware=True)}), model.id)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        ray.shutdown()
