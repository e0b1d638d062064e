"""A model's tokenizer and the tokens that end its turn, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ..errors import ModelError
from ..profile import ROOT, ModelSpec
from .chat import turn_end


def source_of(spec: ModelSpec) -> str:
    """The folder of a model (absolute, or below the project's root) if there is one, else its name on the hub."""
    folder = ROOT / spec.path  # an absolute path stays as it is
    return str(folder) if folder.is_dir() else spec.path


def open_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer at ``source``.

    Raises:
        ModelError: none loadable there, or one without a chat template or a fast form.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise cannot_load(source, error) from error
    if tokenizer.chat_template is None:
        raise ModelError(f"{source}: the tokenizer has no chat template; choose an instruct model")
    if not tokenizer.is_fast:  # which alone says what text a token came of
        raise ModelError(f"{source}: the tokenizer has no fast form (tokenizer.json); convert it to one")
    return tokenizer


def cannot_load(source: str, error: Exception) -> ModelError:
    """What to tell when nothing can be loaded from ``source``."""
    hint = "give a folder that holds a model, or a hub name this machine can reach"
    return ModelError(f"cannot load the model {source!r} ({Path(source).name}): {hint}. Cause: {error}")


def end_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> frozenset[int]:
    """The tokens that end a turn: those of the generation settings, and what the chat template ends a turn with.

    The tokenizer's own end token counts where the generation settings name none, or where the template writes it behind a
    turn and before none: a converted model may declare the token that *starts* a turn (SmolLM2's GGUF), and a model's
    many ends (Llama 3's) find no place there.
    """
    named: Any = getattr(generation, "eos_token_id", None)
    ends: Any = set(named if isinstance(named, list) else [named]) - {None} or {tokenizer.eos_token_id}
    return frozenset((ends | {turn_end(tokenizer)}) - {None})


def settle_end(tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> None:
    """Make the tokenizer's end token the one that ends a turn: episodes are closed by it, and saved models declare it."""
    end = turn_end(tokenizer)
    if end is None and ends and tokenizer.eos_token_id not in ends:
        end = min(ends)
    if end is not None and end != tokenizer.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)


def generation_config(source: str) -> GenerationConfig | None:
    """The generation settings at ``source``, or as its configuration implies them; None where it comes without both."""
    try:
        return GenerationConfig.from_pretrained(source)
    except (OSError, ValueError):
        pass
    try:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(source, trust_remote_code=False))
    except (OSError, ValueError):
        return None
