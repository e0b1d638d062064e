"""A language model run here, by transformers: whole replies and token-level sampling.

Weights are read from safetensors only (a pickle can run code) and no code that ships with a model is
executed. Works for decoder-only models whose layers all attend to the whole past; models with
sliding-window, linear-attention or recurrent layers are refused, since their caches are laid out otherwise.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ModelError
from ..profile import ModelSpec
from ..protocols.wordings import Message
from .base import chat_ids, check_fits, check_prompts
from .cache import ATTENTION, RowCache
from .session import LocalSession
from .stops import Stops
from .tokenizer import cannot_load, end_ids, open_tokenizer, source_of


class LocalModel:
    """A causal language model and its tokenizer, as ``ChatModel`` and ``Sampler``.

    ``model`` and ``tokenizer`` may be handed in (a model in training, a toy in a test); otherwise they
    are loaded from ``spec.path``: a folder (absolute, or below the project's root) or a hub name.

    Raises:
        ModelError: nothing loadable there, no safetensors, or an unsupported architecture.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.spec = spec
        if model is None or tokenizer is None:
            loaded_model, loaded_tokenizer = _load(spec)
            model, tokenizer = model or loaded_model, tokenizer or loaded_tokenizer
        self.model, self.tokenizer = model, tokenizer
        kinds = set(getattr(model.config, "layer_types", None) or ())
        if kinds - {"full_attention"}:
            raise ModelError(
                f"{spec.path}: layers of kind {sorted(kinds - {'full_attention'})} are not supported by the local "
                "engine; choose a model with full attention"
            )
        self.end_ids = end_ids(tokenizer, model.generation_config)
        # Without a list of layer kinds, a window (Mistral's) bounds every layer: within it, attention is full.
        window = None if kinds else getattr(model.config, "sliding_window", None)
        bounds = (spec.max_length, getattr(model.config, "max_position_embeddings", None), window)
        self.positions = min(bound for bound in bounds if bound)
        """The most tokens a row may have."""
        self.stops = Stops(tokenizer, self.end_ids)

    @property
    def device(self) -> torch.device:
        return self.model.device

    # -- Sampler ------------------------------------------------------------------------------------

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> LocalSession:
        """Open one row per prompt; see ``models.base.Sampler``.

        Raises:
            ModelError: an empty prompt.
        """
        check_prompts(prompts)
        return LocalSession(self, prompts, range(len(prompts)) if seeds is None else seeds)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, cache: RowCache, span: int, logits: bool
    ) -> torch.Tensor:
        """One pass over ``tokens`` ``[n, t]`` at ``positions`` ``[n, t]``, seeing ``span`` cached columns.

        Returns ``[n, vocabulary]`` logits of the last column, or an empty tensor when not asked for.
        """
        columns = torch.arange(span, device=tokens.device)
        hidden = columns > positions[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=tokens.device)
        mask.masked_fill_(hidden, torch.finfo(self.model.dtype).min)
        arguments: dict[str, Any] = {
            "input_ids": tokens,
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
        }
        if logits:
            out: torch.Tensor = self.model(**arguments).logits
            return out[:, -1]
        self.model.base_model(**arguments)
        return torch.empty(0)

    def decode(self, ids: Sequence[int], keep_special: bool = True) -> str:
        """Text of ids; control tokens are shown or dropped."""
        return self.stops.decode(ids, keep_special)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode (no dropout) with the session's attention; restored afterwards."""
        training, config = self.model.training, self.model.config
        attention = config._attn_implementation
        self.model.eval()
        config._attn_implementation = ATTENTION
        try:
            yield
        finally:
            config._attn_implementation = attention
            self.model.train(training)

    # -- ChatModel ----------------------------------------------------------------------------------

    def reply(
        self,
        conversations: Sequence[Sequence[Message]],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """One reply per conversation; see ``models.base.ChatModel``.

        Equal conversations are answered once when greedy. ``spec.batch_size`` rows run at a time.

        Raises:
            ModelError: a conversation and its reply do not fit ``spec.max_length``.
        """
        budget = max_new_tokens or self.spec.max_new_tokens
        prompts = [tuple(ids) for ids in chat_ids(self.tokenizer, conversations)]
        check_fits(self.spec.path, prompts, budget, self.positions)
        jobs = {(p, 0 if temperature == 0 else seed + i): "" for i, p in enumerate(prompts)}
        order = sorted(jobs, key=lambda job: len(job[0]))  # rows of like length share a batch
        for begin in range(0, len(order), self.spec.batch_size):
            chunk = order[begin : begin + self.spec.batch_size]
            session = self.start([p for p, _ in chunk], [s for _, s in chunk])
            for job, sample in zip(
                chunk, session.sample(range(len(chunk)), budget, temperature), strict=True
            ):
                jobs[job] = self.decode(sample.ids, keep_special=False).strip()
        return [jobs[p, 0 if temperature == 0 else seed + i] for i, p in enumerate(prompts)]


def load_model(spec: ModelSpec, shared: bool = True) -> LocalModel:
    """The model of a spec. Weights are loaded once per (path, device, dtype) and shared, read-only; or, to be trained, anew."""
    return LocalModel(spec, *_load(spec, shared))


def _load(spec: ModelSpec, shared: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    source = source_of(spec)
    folder = Path(source)
    stamp = (
        max((f.stat().st_mtime_ns for f in folder.glob("*.safetensors")), default=0) if folder.is_dir() else 0
    )
    if folder.is_dir() and not stamp:
        raise ModelError(f"{folder}: no *.safetensors here; weights in other formats are not loaded")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if spec.device == "auto" else spec.device
    if not shared:
        return _read(source, device, spec.dtype), _tokenizer(source, stamp)
    # ``stamp`` is part of the key so that a retrained checkpoint in the same folder is read again.
    key = (source, device, spec.dtype, stamp)
    model = _in_use.get(key)
    if model is None:
        if not device.startswith("cpu"):  # a GPU has no room for what nobody uses any more
            _recent.clear()
            gc.collect()
            torch.cuda.empty_cache()
        model = _in_use[key] = _read(source, device, spec.dtype)
        _recent.append(model)
    return model, _tokenizer(source, stamp)


_in_use: WeakValueDictionary[tuple[str, str, str, int], PreTrainedModel] = WeakValueDictionary()
"""Every shared model that somebody holds."""
_recent: deque[PreTrainedModel] = deque(maxlen=4)
"""Held here for whoever asks next."""


@lru_cache(maxsize=8)
def _tokenizer(source: str, stamp: int) -> PreTrainedTokenizerBase:
    return open_tokenizer(source)


def _read(source: str, device: str, dtype: str) -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise cannot_load(source, error) from error
    torch.nn.Module.to(model, device)
    return model.eval()
