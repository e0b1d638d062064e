"""How many bytes language models and vector indexes take: pure arithmetic, before they are there and without a GPU.

The shapes of the models that the profiles name are known here; any other is read from its ``config.json``, in a folder or
in the hub client's cache.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..profile import ROOT

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
    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a layer's matrices: query, key, value, output; gate, up, down."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(self.hidden, query), (self.hidden, key), (self.hidden, key), (query, self.hidden)]
        return [*attention, *[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden)]

    @property
    def linear(self) -> int:
        """Weights of all layers' matrices."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.matrices)

    @property
    def parameters(self) -> int:
        """All weights (norms and biases, below 0.1 %, left out)."""
        return self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def lora_parameters(self, rank: int) -> int:
        """Weights of LoRA adapters on every matrix of the layers."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.matrices)

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


QWEN25: Mapping[str, Shape] = {
    "0.5": Shape(24, 896, 4864, 14, 2, 64, 151_936, True),
    "1.5": Shape(28, 1536, 8960, 12, 2, 128, 151_936, True),
    "3": Shape(36, 2048, 11_008, 16, 2, 128, 151_936, True),
    "7": Shape(28, 3584, 18_944, 28, 4, 128, 152_064, False),
    "14": Shape(48, 5120, 13_824, 40, 8, 128, 152_064, False),
}
"""Qwen2.5 by billions of parameters, from the models' configurations."""
_TRAINED_FROM = {"pat-jj/s3-8-3-3-20steps": "7", "DeepRetrieval/DeepRetrieval-NQ-BM25-3B": "3"}
ENCODERS = {"intfloat/e5-base-v2": (0.44e9, 768), "minilm": (0.09e9, 384)}
"""Bytes in float32, and numbers per vector."""


def shape_of(path: str) -> Shape | None:
    """The shape of a model by folder or name on the hub; None where nothing is known of it."""
    folder = ROOT / path
    config = folder / "config.json" if folder.is_dir() else cached(path, "config.json")
    if config is not None and config.is_file():
        return _from_config(json.loads(config.read_text(encoding="utf-8")))
    named = re.search(r"qwen2\.5-([\d.]+)b", path.lower())
    shape = QWEN25.get(_TRAINED_FROM.get(path) or (named[1] if named else ""))
    return replace(shape, bits=4) if shape is not None and "int4" in path.lower() else shape


def cached(repo: str, path: str) -> Path | None:
    """A model's file in the hub client's cache; None where it is not there."""
    try:
        from huggingface_hub import try_to_load_from_cache

        copy = try_to_load_from_cache(repo, path)
    except (ImportError, ValueError):  # the hub's client is missing, or it is no name on the hub
        return None
    return Path(copy) if isinstance(copy, str) else None


def _from_config(config: Mapping[str, Any]) -> Shape | None:
    try:
        if config.get("architectures", [""])[0] in _BERT:
            return None
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        return Shape(
            layers=config["num_hidden_layers"], hidden=hidden, intermediate=config["intermediate_size"], heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads, head_dim=config.get("head_dim") or hidden // heads,
            vocabulary=config["vocab_size"], tied=bool(config.get("tie_word_embeddings")),
            bits=int(config.get("quantization_config", {}).get("bits", 0)),
            stored=4.0 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2.0,
        )  # fmt: skip
    except (KeyError, TypeError, IndexError, ValueError):
        return None


_INDEX_KINDS = {  # bits a number and further bytes a vector
    "float32": (32, 0),
    "float16": (16, 0),
    "sq8": (8, 0),
    "ivf-sq8": (8, 8),  # its id in a cell
    "pq": (1, 0),  # 4 bits for 4 numbers
    "ivf-pq": (1, 8),
    "binary": (1, 0),
    "hnsw": (32, 2 * 32 * 4),  # over float32: 2 × 32 links of 4 bytes at the graph's lowest level
}


def index_bytes(kind: str, dimension: int, vectors: int = 1) -> float:
    """Bytes of an index over vectors of ``dimension`` numbers; ``kind``: that of an exact one is its number format."""
    bits, more = _INDEX_KINDS[kind]
    return vectors * (dimension * bits / 8 + more)
