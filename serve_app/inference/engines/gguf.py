"""Sentence models of the BERT family, from the safetensors a package carries to the GGUF that llama.cpp loads.

The numbers stay as they are: only the header is another, and each tensor has another name.

Sources: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (the file, version 3), the tensor names of llama.cpp's
`LLM_ARCH_BERT`, and https://huggingface.co/docs/safetensors (a length, a JSON header, the data).
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

_VERSION = 3
_ALIGNMENT = 32
_F32 = 0
_POOLINGS = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2}
_TENSORS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_NAME = re.compile(r"(?:encoder\.layer\.(?P<block>\d+)\.)?(?P<part>.+)\.(?P<kind>weight|bias)")

Value = str | int | float | bool


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: Sequence[int]
    start: int
    """Where its numbers begin in the safetensors file."""
    size: int


def convert(weights: Path, target: BinaryIO) -> None:
    """Write the model of the folder that `weights` (its `model.safetensors`) is in.

    Tokens are left out: the model is to be asked with token ids.

    Raises:
        OSError: a file of the model is missing.
        ValueError: it is no BERT in 32-bit floats, or pools its tokens in a way llama.cpp does not.
        KeyError: its configuration lacks what every BERT's says.
    """
    values = _values(
        orjson.loads(weights.with_name("config.json").read_bytes()),
        orjson.loads(weights.with_name("1_Pooling").joinpath("config.json").read_bytes()),
    )
    with weights.open("rb") as source:
        tensors = _tensors(source)
        target.write(_header(values, tensors))
        for tensor in tensors:
            source.seek(tensor.start)
            target.write(source.read(tensor.size))
            target.write(bytes(-tensor.size % _ALIGNMENT))


def _values(config: Mapping[str, Value], pooling: Mapping[str, Value]) -> dict[str, Value]:
    if config["model_type"] != "bert" or config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError("not a BERT with absolute positions")
    poolings = [number for name, number in _POOLINGS.items() if pooling.get(name)]
    if len(poolings) != 1:
        raise ValueError("neither the mean of the tokens nor the first one is its sentence's vector")
    return {
        "general.architecture": "bert",
        "bert.vocab_size": config["vocab_size"],
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": config["layer_norm_eps"],
        "bert.attention.causal": False,
        "bert.pooling_type": poolings[0],
        "tokenizer.ggml.model": "no_vocab",
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
    }


def _tensors(source: BinaryIO) -> list[_Tensor]:
    (header_size,) = struct.unpack("<Q", source.read(8))
    header = orjson.loads(source.read(header_size))
    tensors = []
    for name, described in header.items():
        match = _NAME.fullmatch(name)
        # What has no name there is not needed for a sentence's vector: the pooler's head, the list of positions.
        if match is None or match["part"] not in _TENSORS:
            continue
        if described["dtype"] != "F32":
            raise ValueError(f"{name} is not of 32-bit floats")
        block = f"blk.{match['block']}." if match["block"] else ""
        start, end = described["data_offsets"]
        new_name = f"{block}{_TENSORS[match['part']]}.{match['kind']}"
        tensors.append(_Tensor(new_name, described["shape"], 8 + header_size + start, end - start))
    return tensors


def _header(values: Mapping[str, Value], tensors: Sequence[_Tensor]) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(values))
    header += b"".join(_string(name) + _value(value) for name, value in values.items())
    offset = 0
    for tensor in tensors:
        dimensions = len(tensor.shape)
        header += _string(tensor.name)
        # GGUF names the dimension whose numbers lie side by side first, safetensors last.
        header += struct.pack(f"<I{dimensions}QIQ", dimensions, *reversed(tensor.shape), _F32, offset)
        offset += tensor.size + -tensor.size % _ALIGNMENT
    return header + bytes(-len(header) % _ALIGNMENT)


def _value(value: Value) -> bytes:
    """Each kind has its number before it."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
