"""A language model run here, by transformers: whole replies and token-level sampling.

Weights are read from safetensors only (a pickle can run code) and no code that ships with a model is
executed. Works for decoder-only models whose layers all attend to the whole past; models with
sliding-window, linear-attention or recurrent layers are refused, since their caches are laid out otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ModelError
from ..profile import ROOT, ModelSpec
from ..protocols.wordings import Message
from .base import chat_ids
from .cache import ATTENTION, RowCache
from .session import LocalSession

StopFinder = Callable[[int, list[int]], "str | None"]


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
        ends = getattr(model.generation_config, "eos_token_id", None)
        self.end_ids = frozenset(
            i
            for i in (tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends]))
            if i is not None
        )
        # Without a list of layer kinds, a window (Mistral's) bounds every layer: within it, attention is full.
        window = None if kinds else getattr(model.config, "sliding_window", None)
        bounds = (spec.max_length, getattr(model.config, "max_position_embeddings", None), window)
        self.positions = min(bound for bound in bounds if bound)
        """The most tokens a row may have."""
        self._pieces: list[str] | None = None
        self._finders: dict[tuple[str, ...], StopFinder] = {}

    @property
    def device(self) -> torch.device:
        return self.model.device

    # -- Sampler ------------------------------------------------------------------------------------

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> LocalSession:
        """Open one row per prompt; see ``models.base.Sampler``.

        Raises:
            ModelError: an empty prompt.
        """
        if any(not len(p) for p in prompts):
            raise ModelError("a prompt has no tokens: the chat template rendered nothing")
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
        text = self.tokenizer.decode(list(ids), skip_special_tokens=not keep_special)
        return text if isinstance(text, str) else "".join(text)

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

    def stop_finder(self, stop: tuple[str, ...]) -> StopFinder:
        """A function of (last id, this turn's ids) naming the stop string or end token met, or None.

        Text is decoded only after a token that holds the last character of some stop string, and then
        only the tail that could hold it.
        """
        if stop not in self._finders:
            if self._pieces is None:
                everything = [[i] for i in range(len(self.tokenizer))]
                self._pieces = self.tokenizer.batch_decode(everything, skip_special_tokens=False)
            lasts = {s[-1] for s in stop}
            if any(not last.isascii() for last in lasts):
                lasts.add("\ufffd")  # a token may hold only part of the character's bytes
            triggers = {i for i, piece in enumerate(self._pieces) if lasts & set(piece)}
            reach = max((len(s.encode()) for s in stop), default=0) + 1

            def find(token: int, ids: list[int]) -> str | None:
                if token in self.end_ids:
                    return self.decode([token])
                if token in triggers:
                    tail = self.decode(ids[-reach:])
                    return next((s for s in stop if s in tail), None)
                return None

            self._finders[stop] = find
        return self._finders[stop]

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
        too_long = max(map(len, prompts), default=0) + budget
        if too_long > self.positions:
            raise ModelError(
                f"{self.spec.path}: a conversation needs {too_long} tokens with its reply, the limit is "
                f"{self.positions}: raise max_length, or give fewer or shorter documents"
            )
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


def load_model(spec: ModelSpec) -> LocalModel:
    """The model of a spec. Weights are loaded once per (path, device, dtype) and shared, read-only."""
    return LocalModel(spec)


def _load(spec: ModelSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = ROOT / spec.path  # an absolute path stays as it is
    source = str(folder) if folder.is_dir() else spec.path
    stamp = (
        max((f.stat().st_mtime_ns for f in folder.glob("*.safetensors")), default=0) if folder.is_dir() else 0
    )
    if folder.is_dir() and not stamp:
        raise ModelError(f"{folder}: no *.safetensors here; weights in other formats are not loaded")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if spec.device == "auto" else spec.device
    return _load_once(source, device, spec.dtype, stamp)


@lru_cache(maxsize=4)
def _load_once(
    source: str, device: str, dtype: str, stamp: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # ``stamp`` is part of the key so that a retrained checkpoint in the same folder is read again.
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        hint = "give a folder that holds a model, or a hub name this machine can reach"
        raise ModelError(
            f"cannot load the model {source!r} ({Path(source).name}): {hint}. Cause: {error}"
        ) from error
    if tokenizer.chat_template is None:
        raise ModelError(f"{source}: the tokenizer has no chat template; choose an instruct model")
    torch.nn.Module.to(model, device)
    return model.eval(), tokenizer
