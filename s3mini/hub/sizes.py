"""How many bytes a language model takes: on the disk, served, and while it is trained.

Pure arithmetic on a model's shape, so that it works before the model is there and on a machine without a GPU. The shapes of
the models that the profiles name are known here; any other is read from its ``config.json``, in a folder or the hub's cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..profile import ROOT, GrpoSpec, ModelSpec

BYTES = {"float32": 4.0, "bfloat16": 2.0}
_GPTQ_GROUP = 128  # weights that share a scale (float16) and a zero point (4 bits)
_BERT = ("BertModel", "XLMRobertaModel")


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's shape (Qwen2, Qwen3, Llama); ``bits`` per weight of its linear layers, 0 where not quantised."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    bits: int = 0
    stored: float = 2.0  # bytes a number in its files

    @property
    def linear(self) -> int:
        """Weights of the layers' matrices: attention and the gated feed-forward network."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """All weights (norms and biases, below 0.1 %, left out)."""
        return self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def file_bytes(self) -> float:
        """Size of its safetensors."""
        return self.weight_bytes(self.stored)

    def weight_bytes(self, each: float) -> float:
        """Its weights at ``each`` bytes a number; quantised layers keep their own size."""
        if not self.bits:
            return self.parameters * each
        packed = self.bits / 8 + (2 + self.bits / 8) / _GPTQ_GROUP
        return self.linear * packed + (self.parameters - self.linear) * each

    @property
    def kv_bytes(self) -> float:
        """Key-value cache of one token, at 2 bytes a number."""
        return 2.0 * 2 * self.layers * self.kv_heads * self.head_dim


def _qwen(
    layers: int, hidden: int, intermediate: int, heads: int, kv: int, vocabulary: int, tied: bool
) -> Shape:
    return Shape(layers, hidden, intermediate, heads, kv, hidden // heads, vocabulary, tied)


QWEN25: Mapping[str, Shape] = {
    "0.5": _qwen(24, 896, 4864, 14, 2, 151_936, True),
    "1.5": _qwen(28, 1536, 8960, 12, 2, 151_936, True),
    "3": _qwen(36, 2048, 11_008, 16, 2, 151_936, True),
    "7": _qwen(28, 3584, 18_944, 28, 4, 152_064, False),
    "14": _qwen(48, 5120, 13_824, 40, 8, 152_064, False),
}
"""Qwen2.5 by billions of parameters, from the models' configurations."""
DERIVED = {  # published checkpoints, by the model they were trained from
    "pat-jj/s3-8-3-3-20steps": "7",
    "DeepRetrieval/DeepRetrieval-NQ-BM25-3B": "3",
}
ENCODERS = {"intfloat/e5-base-v2": (0.44e9, 768), "minilm": (0.09e9, 384)}
"""Bytes in float32, and numbers per vector."""


def shape_of(path: str) -> Shape | None:
    """The shape of a model by folder or name on the hub; None where nothing is known of it."""
    folder = ROOT / path
    config = folder / "config.json" if folder.is_dir() else _cached_config(path)
    if config is not None and config.is_file():
        return _from_config(json.loads(config.read_text(encoding="utf-8")))
    found = re.search(r"qwen2\.5-([\d.]+)b", path.lower())
    size = DERIVED.get(path) or (found[1] if found else "")
    shape = QWEN25.get(size)
    return replace(shape, bits=4) if shape is not None and "int4" in path.lower() else shape


def _cached_config(path: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _from_config(config: Mapping[str, Any]) -> Shape | None:
    try:
        if config.get("architectures", [""])[0] in _BERT:
            return None
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        return Shape(
            config["num_hidden_layers"],
            hidden,
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
            config["vocab_size"],
            bool(config.get("tie_word_embeddings")),
            int(config.get("quantization_config", {}).get("bits", 0)),
            4.0 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2.0,
        )
    except (KeyError, TypeError, IndexError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that takes memory, and how the bytes come about."""

    what: str
    size: float
    why: str


def served(shape: Shape, spec: ModelSpec, tokens: int, rows: int) -> list[Part]:
    """A model answering ``rows`` conversations of ``tokens`` tokens at a time."""
    each = BYTES.get(spec.dtype, shape.stored)
    weights, kv = shape.weight_bytes(each), shape.kv_bytes * each / 2
    kind = f"{shape.bits}-bit layers, the rest" if shape.bits else f"{shape.parameters / 1e9:.2f} B weights"
    return [
        Part("weights", weights, f"{kind} × {each:g} bytes"),
        Part("key-value cache", kv * tokens * rows, f"{rows} rows × {tokens} tokens × {kv / 1024:g} KiB"),
    ]  # fmt: skip


def trained(shape: Shape, spec: ModelSpec, grpo: GrpoSpec, tokens: int) -> list[Part]:
    """A searcher in training by GRPO, episodes of ``tokens`` tokens, gradient checkpointing on.

    Full fine-tuning keeps weights, gradients and both moments of AdamW in float32: at a learning rate of 1e-6 an
    update is a hundredth of the last bit of a bfloat16 weight and would be rounded away. With LoRA only the adapters are kept so;
    the weights below them stay as they are loaded.
    """
    each = BYTES.get(spec.dtype, shape.stored)
    parts = []
    if grpo.lora_rank:
        adapter = lora_parameters(shape, grpo.lora_rank)
        parts += [
            Part("weights, frozen", shape.weight_bytes(each), f"{shape.parameters / 1e9:.2f} B × {each:g} bytes"),
            Part("adapters", adapter * 16.0, f"{adapter / 1e6:.0f} M × (4 weight + 4 gradient + 8 AdamW) bytes"),
        ]  # fmt: skip
    else:
        parts.append(
            Part("weights, gradients, AdamW", shape.parameters * 16.0, f"{shape.parameters / 1e9:.2f} B × (4 + 4 + 8) bytes")
        )  # fmt: skip
    if grpo.beta > 0 and not grpo.lora_rank:
        reference = shape.parameters * 4.0
        parts.append(Part("reference of the KL term", reference, f"{shape.parameters / 1e9:.2f} B × 4 bytes"))
    if not grpo.beta:
        why = f"{shape.parameters / 1e9:.2f} B × {each:g} bytes, kept to measure the KL"
        parts.append(Part("model it began as", shape.weight_bytes(each), why))
    rows = grpo.micro_batch
    kept = rows * tokens * shape.layers * shape.hidden * 2.0
    layer = rows * tokens * (shape.hidden * 8 + shape.intermediate * 4) * 2.0
    parts.append(
        Part("activations", kept + layer, f"{rows} × {tokens} tokens: each layer's input, one layer whole")
    )
    logits = rows * min(tokens, grpo.max_completion_length) * shape.vocabulary * 4.0 / 8
    parts.append(Part("logits", logits, f"{rows} × {tokens} × {shape.vocabulary} × 4 bytes, in 8 pieces"))
    return parts


def lora_parameters(shape: Shape, rank: int) -> int:
    """Weights of LoRA adapters on every matrix of the layers."""
    out_in = [
        (shape.heads * shape.head_dim, shape.hidden),
        (shape.kv_heads * shape.head_dim, shape.hidden),
        (shape.kv_heads * shape.head_dim, shape.hidden),
        (shape.hidden, shape.heads * shape.head_dim),
        *[(shape.intermediate, shape.hidden)] * 2,
        (shape.hidden, shape.intermediate),
    ]
    return shape.layers * rank * sum(a + b for a, b in out_in)
