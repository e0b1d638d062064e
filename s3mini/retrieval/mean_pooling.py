"""BERT encoders with mean pooling and unit length, by transformers alone: those of the shipped profiles.

Vectors are those of sentence-transformers to the last bit (a test holds them together). That library is left to all other
encoders: with what it imports (scikit-learn, datasets, PEFT) it takes longer than to answer a question.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MODULES = ("Transformer", "Pooling", "Normalize")  # in this order; the last may be missing
MEAN = {"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True}  # as newer and older versions write it


def is_mean_pooled(path: str) -> bool:
    """Whether ``path`` is a folder with an encoder of this kind, and nothing to it that is not done here."""
    folder = Path(path)
    try:
        modules = [(m["type"].rpartition(".")[2], m["path"]) for m in _json(folder / "modules.json")]
        if tuple(kind for kind, _ in modules) not in (MODULES, MODULES[:2]) or modules[0][1]:
            return False
        pooling = _json(folder / modules[1][1] / "config.json")
        used = {key: value for key, value in pooling.items() if key.startswith("pooling_mode") and value}
        whole = pooling.get("include_prompt", True)
        settings = _json(folder / "sentence_bert_config.json")
        plain = not {key for key, value in settings.items() if value} - {"max_seq_length"}
        return used in MEAN and whole and plain and _json(folder / "config.json")["model_type"] == "bert"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


class MeanPooledEncoder:
    """What `Encoder` asks of a sentence-transformers model; ``max_seq_length`` is the most tokens that are read.

    Raises:
        OSError, ValueError: it cannot be loaded.
    """

    def __init__(self, path: str, device: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModel.from_pretrained(path)
        torch.nn.Module.to(self.model, device)
        self.model.eval()
        self.max_seq_length = int(self.model.config.max_position_embeddings)
        named = [m["type"] for m in _json(Path(path) / "modules.json")]
        self._times = len(named) - 1  # encode() normalises once more than the modules do

    @property
    def device(self) -> Any:
        """Where it computes: a torch device."""
        return self.model.device

    def get_embedding_dimension(self) -> int:
        """Numbers per vector."""
        return int(self.model.config.hidden_size)

    def encode(self, texts: Sequence[str], batch_size: int, **_: bool) -> npt.NDArray[np.float32]:
        """Vectors of the texts, each of length 1, float32, shape (len(texts), dimension)."""
        import torch

        # long ones together, so that batches hold little padding
        order = np.argsort([-len(text) for text in texts])
        vectors = np.empty((len(texts), self.get_embedding_dimension()), np.float32)
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            with torch.inference_mode():
                read = self.tokenizer(
                    [texts[row] for row in rows],
                    padding=True,
                    truncation=True,
                    max_length=self.max_seq_length,
                    return_tensors="pt",
                ).to(self.model.device)
                states = self.model(**read).last_hidden_state
                mask = read["attention_mask"][..., None].to(states.dtype)
                mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
                for _time in range(self._times):
                    mean = torch.nn.functional.normalize(mean, dim=-1)
                vectors[rows] = mean.float().cpu().numpy()
        return vectors
