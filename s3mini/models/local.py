"""A language model run here, by transformers: whole replies and token-level sampling.

Weights are read from safetensors only (a pickle can run code) and no code that ships with a model is
executed. Works for decoder-only models whose layers all attend to the whole past; models with
sliding-window, linear-attention or recurrent layers are refused, since their caches are laid out otherwise.
"""

from __future__ import annotations

import gc
import timeit
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ModelError
from ..profile import ModelSpec
from ..runs.machine import faster_type
from ..runs.progress import without_bars
from .base import Conversation, Reply, check_fits
from .chat import chat_ids, opening
from .session import LocalSession
from .spellings import spellings
from .stops import Stops
from .tokenizer import cannot_load, end_ids, open_tokenizer, settle_end, source_of

Job = tuple[tuple[int, ...], int]
"""A prompt's ids, and the seed of what is sampled after it."""


class LocalModel:
    """A causal language model and its tokenizer, as ``ChatModel`` and ``Sampler``.

    They are a spec's, as `load_model` reads them, or others in its place (a model in training, a toy in a test).
    ``positions`` is the most tokens a row may have. The tokenizer's end token is set right, see `tokenizer.settle_end`.

    Raises:
        ModelError: an unsupported architecture.
    """

    def __init__(self, spec: ModelSpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.spec, self.model, self.tokenizer = spec, model, tokenizer
        kinds = set(getattr(model.config, "layer_types", None) or ())
        if others := sorted(kinds - {"full_attention"}):
            raise ModelError(
                f"{spec.path}: layers of kind {others} are not supported by the local engine; choose a model with "
                "full attention"
            )
        # Without a list of layer kinds, a window (Mistral's) bounds every layer: within it, attention is full.
        window = None if kinds else getattr(model.config, "sliding_window", None)
        bounds = (spec.max_length, getattr(model.config, "max_position_embeddings", None), window)
        self.positions = min(bound for bound in bounds if bound)
        self.end_ids = end_ids(tokenizer, model.generation_config)
        settle_end(tokenizer, self.end_ids)
        self.stops = Stops(tokenizer, self.end_ids)

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> LocalSession:
        """Open one row per prompt; see ``models.base.Sampler``."""
        return LocalSession(self.model, prompts, seeds, self.stops, self.positions)

    def reply(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Reply]:
        """One reply per conversation; see ``models.base.ChatModel``. ``spec.batch_size`` rows run at a time."""
        budget = max_new_tokens or self.spec.max_new_tokens
        prompts = chat_ids(self.tokenizer, conversations)
        check_fits(self.spec.path, prompts, budget, self.positions)
        jobs = [(tuple(ids), seed + i if temperature else 0) for i, ids in enumerate(prompts)]
        lead = opening(self.tokenizer)
        replies: dict[Job, Reply] = {}
        for chunk, session in self._batches(jobs):
            samples = session.sample(range(len(chunk)), budget, temperature)
            for job, sample in zip(chunk, samples, strict=True):
                replies[job] = Reply(self.stops.reply(sample.ids, lead), cut=sample.stopped is None)
        return [replies[job] for job in jobs]

    def preference(self, conversations: Sequence[Conversation], options: Sequence[str]) -> list[list[float]]:
        """See ``models.base.ChatModel``; a batch is read in one go, and nothing is decoded."""
        prompts = chat_ids(self.tokenizer, conversations, thinking=False)
        check_fits(self.spec.path, prompts, 1, self.positions)
        ids = spellings(self.tokenizer, options)
        jobs = [(tuple(prompt), 0) for prompt in prompts]
        masses: dict[Job, list[float]] = {}
        for chunk, session in self._batches(jobs):
            logprobs = session.next_logprobs()
            mass = torch.stack([logprobs[:, own].logsumexp(-1) for own in ids], -1)
            masses.update(zip(chunk, mass.tolist(), strict=True))
        return [masses[job] for job in jobs]

    def _batches(self, jobs: Sequence[Job]) -> Iterator[tuple[list[Job], LocalSession]]:
        """Distinct jobs, those of like length together, and a session for each batch of them."""
        order = sorted(dict.fromkeys(jobs), key=lambda job: len(job[0]))
        for begin in range(0, len(order), self.spec.batch_size):
            chunk = order[begin : begin + self.spec.batch_size]
            yield chunk, self.start([ids for ids, _ in chunk], [stream for _, stream in chunk])


_in_use: WeakValueDictionary[tuple[str, str, str, int], PreTrainedModel] = WeakValueDictionary()
"""Every shared model that somebody holds."""
_recent: deque[PreTrainedModel] = deque(maxlen=4)
"""Held here for whoever asks next."""


def load_model(spec: ModelSpec, shared: bool = True) -> LocalModel:
    """The model at ``spec.path``: a folder (absolute, or below the project's root) or a hub name.

    Weights are loaded once per (path, device, dtype) and shared, read-only; or, to be trained, anew.

    Raises:
        ModelError: nothing loadable there, no safetensors, or an unsupported architecture.
    """
    source = source_of(spec)
    folder = Path(source)
    stamp = max((f.stat().st_mtime_ns for f in folder.glob("*.safetensors")), default=0)
    if folder.is_dir() and not stamp:
        raise ModelError(f"{folder}: no *.safetensors here; weights in other formats are not loaded")
    device, dtype = device_of(spec), dtype_of(spec)
    # ``stamp`` is part of the key so that a retrained checkpoint in the same folder is read again.
    key = (source, device, dtype, stamp)
    model = _in_use.get(key) if shared else _read(source, device, dtype)
    if model is None:
        if not device.startswith("cpu"):  # a GPU has no room for what nobody uses any more
            _recent.clear()
            gc.collect()
            torch.cuda.empty_cache()
        model = _in_use[key] = _read(source, device, dtype)
        _recent.append(model)
    return LocalModel(spec, model, _tokenizer(source, stamp))


def device_of(spec: ModelSpec) -> str:
    """Where the model runs: the spec's device, or what this machine has."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if spec.device == "auto" else spec.device


def dtype_of(spec: ModelSpec) -> str:
    """The type of its weights in this process: the spec's, or the fastest here."""
    return fastest_dtype(device_of(spec)) if spec.dtype == "fastest" else spec.dtype


@lru_cache(maxsize=4)
def fastest_dtype(device: str) -> Literal["float32", "bfloat16"]:
    """ "bfloat16" on GPUs, and on a processor that multiplies that much faster in it (`faster_type`; AVX-512 BF16, AMX)."""
    return faster_type(multiplied()) if device.startswith("cpu") else "bfloat16"


def multiplied() -> dict[str, float]:
    """Seconds of a product as a layer reads 256 tokens, by precision; the best of five.

    Processors without bfloat16 instructions emulate it: with AVX2 alone fifteen times as slow.
    """
    seconds = {}
    for dtype in ("float32", "bfloat16"):
        rows, weights = (torch.ones(count, 1024, dtype=getattr(torch, dtype)) for count in (256, 1024))
        seconds[dtype] = min(timeit.repeat(partial(torch.mm, rows, weights), number=1, repeat=5))
    return seconds


@lru_cache(maxsize=8)
def _tokenizer(source: str, stamp: int) -> PreTrainedTokenizerBase:
    return open_tokenizer(source)


def _read(source: str, device: str, dtype: str) -> PreTrainedModel:
    try:
        with without_bars():
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise cannot_load(source, error) from error
    torch.nn.Module.to(model, device)
    return model.eval()
