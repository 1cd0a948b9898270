"""Sentence embeddings in this process: models of the BERT family, run by llama.cpp on the CPU."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from serve_app.core.errors import ContextLengthError, EngineError
from serve_app.core.telemetry import get_logger
from serve_app.inference.engines import gguf
from serve_app.inference.engines.llamacpp import check_loop, parameters, start
from serve_app.inference.engines.wordpiece import WordPiece


class SentenceEngine:
    """Implements `Embedder`. Construction blocks until the model can answer; `weights` is its `model.safetensors`."""

    def __init__(self, weights: Path, context_tokens: int, threads: int) -> None:
        self._context_tokens = context_tokens
        try:
            self._words = WordPiece(weights.with_name("vocab.txt").read_text(encoding="utf-8").split("\n"))
            with tempfile.TemporaryDirectory(prefix="aether-engine-") as folder:
                # Written anew at each start (a third of a second), so it is never stale. llama.cpp maps the file,
                # which stays for it when its name is gone.
                converted = Path(folder) / "model.gguf"
                with converted.open("wb") as target:
                    gguf.convert(weights, target)
                params = parameters(converted, threads)
                params.embedding = True
                # One text at a time: no slower on a CPU, and a text's vector never depends on what stands beside it.
                params.n_parallel = 1
                params.n_ctx = params.n_batch = params.n_ubatch = context_tokens
                self._server = start(params)
        except (OSError, ValueError, KeyError) as exc:
            get_logger().error("model not loaded", exc_info=exc)
            raise EngineError("The model could not be loaded.", weights=weights.name) from exc

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Embedder.tokenize`."""
        prompts = []
        for index, text in enumerate(texts):
            prompt = self._words.encode(text, self._context_tokens)
            if prompt is None:
                raise ContextLengthError(
                    f"This model reads at most {self._context_tokens} tokens of one input, and input {index} has more. "
                    "Split it: nothing is cut off in silence.",
                    param="input",
                    input_index=index,
                    context_tokens=self._context_tokens,
                )
            prompts.append(prompt)
        return prompts

    def embed(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        """See `Embedder.embed`."""
        try:
            answer = self._server.handle_embeddings({"input": prompts})
            rows = answer["data"]
        except (ValueError, TypeError, RuntimeError, KeyError) as exc:
            get_logger().error("engine failed", exc_info=exc)
            raise EngineError("The model engine could not embed these inputs.") from exc
        return [row["embedding"] for row in sorted(rows, key=lambda row: row["index"])]

    def check(self) -> None:
        """See `Embedder.check`."""
        check_loop(self._server)

    def close(self) -> None:
        """See `Embedder.close`."""
        del self._server
