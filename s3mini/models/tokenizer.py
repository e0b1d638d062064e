"""A model's tokenizer and the tokens that end its turn, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ..errors import ModelError
from ..profile import ROOT, ModelSpec


def source_of(spec: ModelSpec) -> str:
    """The folder of a model (absolute, or below the project's root) if there is one, else its name on the hub."""
    folder = ROOT / spec.path  # an absolute path stays as it is
    return str(folder) if folder.is_dir() else spec.path


def open_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer at ``source``.

    Raises:
        ModelError: none loadable there, or one without a chat template.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise cannot_load(source, error) from error
    if tokenizer.chat_template is None:
        raise ModelError(f"{source}: the tokenizer has no chat template; choose an instruct model")
    return tokenizer


def cannot_load(source: str, error: Exception) -> ModelError:
    """What to tell when nothing can be loaded from ``source``."""
    hint = "give a folder that holds a model, or a hub name this machine can reach"
    return ModelError(f"cannot load the model {source!r} ({Path(source).name}): {hint}. Cause: {error}")


def end_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> frozenset[int]:
    """The tokens that end a turn: the tokenizer's end token and those of the generation settings."""
    ends: Any = getattr(generation, "eos_token_id", None)
    return frozenset({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})


def generation_config(source: str) -> GenerationConfig | None:
    """The generation settings at ``source``; None where the model comes without."""
    try:
        return GenerationConfig.from_pretrained(source)
    except (OSError, ValueError):
        return None
