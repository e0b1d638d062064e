"""A language model behind an OpenAI-compatible endpoint (`endpoint`): whole replies, and a searcher's tokens.

Two ways to speak to it, ``spec.api``:

- ``tokens``, for vLLM: prompts are rendered and encoded here and sent to ``/completions`` as token ids, as the local
  engine reads them, and sampled ids come back. Greedy answers are then those of the local engine, up to rounding.
- ``chat``, for any other server: messages go to ``/chat/completions``, whose template the server applies. Nothing of
  the model is needed here, so a black box can be the generator or the judge; it cannot be the searcher.

A server fills in what a request leaves out, often from the model's own generation settings (a repetition
penalty, say): every sampling parameter that the endpoint takes is sent each time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...profile import ModelSpec
from ...protocols.wordings import Message
from ..base import chat_ids, check_fits, check_prompts
from .endpoint import Endpoint
from .stateless import Ask, StatelessSession, Written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = {"n": 1, "stream": False, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
"""Sampling from the model's own distribution, in the parameters of OpenAI's interface."""
PLAIN_VLLM = {**PLAIN, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""The same with those that vLLM adds."""


class ServedModel:
    """The model ``spec.path`` as ``spec.url`` serves it, under that name: ``ChatModel`` and, by token ids, ``Sampler``.

    ``tokenizer`` and the ids that end a turn may be handed in; with ``api: chat`` there are none.

    Raises:
        ModelError: with ``api: tokens``, no tokenizer loadable at ``spec.path``.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: PreTrainedTokenizerBase | None = None,
        ends: frozenset[int] | None = None,
    ) -> None:
        self.spec = spec
        self.endpoint = Endpoint(spec)
        self.positions = spec.max_length
        self.tokenizer = tokenizer
        if spec.api == "tokens":
            from ..stops import Stops
            from ..tokenizer import end_ids, generation_config, open_tokenizer, source_of

            self.tokenizer = tokenizer or open_tokenizer(source_of(spec))
            self.end_ids = ends or end_ids(self.tokenizer, generation_config(source_of(spec)))
            self.stops = Stops(self.tokenizer, self.end_ids)

    # -- ChatModel ----------------------------------------------------------------------------------

    def reply(
        self,
        conversations: Sequence[Sequence[Message]],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """One reply per conversation; see ``models.base.ChatModel``. Equal conversations are asked once when greedy.

        Raises:
            ModelError: the endpoint failed (see `endpoint.Endpoint.ask`), its answer is malformed or was cut off, or
                a conversation and its reply do not fit ``spec.max_length``.
        """
        budget = max_new_tokens or self.spec.max_new_tokens
        seeds = [0 if temperature == 0 else seed + i for i in range(len(conversations))]
        if self.spec.api == "chat":
            talks = [{"messages": list(map(dict, talk)), **PLAIN} for talk in conversations]
            return self._asked("/chat/completions", talks, seeds, budget, temperature, self._chat_text)
        prompts = chat_ids(self._known(), conversations)
        check_fits(self.spec.path, prompts, budget, self.positions)
        bodies = [{"prompt": ids, **self._token_settings()} for ids in prompts]
        return self._asked("/completions", bodies, seeds, budget, temperature, self._token_text)

    def _asked(
        self, path: str, bodies: Sequence[Mapping[str, Any]], seeds: Sequence[int], budget: int,
        temperature: float, read: Any,
    ) -> list[str]:  # fmt: skip
        whole = [
            {**body, "model": self.spec.path, "max_tokens": budget, "temperature": temperature, "seed": seed}
            for body, seed in zip(bodies, seeds, strict=True)
        ]
        keys = [json.dumps(body, sort_keys=True) for body in whole]
        distinct = dict(zip(keys, whole, strict=True))
        answers = self.endpoint.ask(path, list(distinct.values()))
        texts = {key: read(self._choice(path, answer)) for key, answer in zip(distinct, answers, strict=True)}
        return [texts[key] for key in keys]

    def _choice(self, path: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The one choice of an answer, ended as a reply may end."""
        choices = answer.get("choices")
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise self._malformed(path, "not one choice", answer)
        reason = choices[0].get("finish_reason")
        if reason not in ("stop", "length"):
            raise self._malformed(path, f"the reply ended by {reason!r}", answer)
        found: dict[str, Any] = choices[0]
        return found

    def _malformed(self, path: str, what: str, answer: Any) -> ModelError:
        return ModelError(
            f"{self.endpoint.url}{path}: {what} in the answer of {self.spec.path!r}: {json.dumps(answer)[:300]}"
        )

    def _chat_text(self, choice: Mapping[str, Any]) -> str:
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str) or not text.strip():
            hint = (
                "; it may have spent them on reasoning: raise max_new_tokens"
                if choice["finish_reason"] == "length"
                else ""
            )
            raise self._malformed("/chat/completions", f"no text{hint}", choice)
        return text.strip()

    def _token_text(self, choice: Mapping[str, Any]) -> str:
        return self.stops.decode(self._ids(choice), keep_special=False).strip()

    # -- Sampler ------------------------------------------------------------------------------------

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> StatelessSession:
        """Open one row per prompt; see ``models.base.Sampler``. The server's prefix cache reads equal ones once.

        Raises:
            ModelError: an empty prompt, or an endpoint that is only spoken to in messages.
        """
        self._known()
        check_prompts(prompts)
        own = range(len(prompts)) if seeds is None else seeds
        return StatelessSession(self._write, self.stops, self.positions, self.endpoint.url, prompts, own)

    def _write(self, asks: Sequence[Ask]) -> list[Written]:
        bodies = [
            {
                "model": self.spec.path,
                "prompt": list(ask.prompt),
                "max_tokens": ask.budget,
                "temperature": ask.temperature,
                "seed": ask.seed,
                "stop": list(ask.stop),
                "include_stop_str_in_output": True,
                "logprobs": 0,
                **self._token_settings(),
            }
            for ask in asks
        ]
        return [
            self._written(self._choice("/completions", a)) for a in self.endpoint.ask("/completions", bodies)
        ]

    def _written(self, choice: Mapping[str, Any]) -> Written:
        ids, logprobs = self._ids(choice), (choice.get("logprobs") or {}).get("token_logprobs")
        if not isinstance(logprobs, list) or len(logprobs) != len(ids) or None in logprobs:
            raise self._malformed("/completions", "not one log-probability per token", choice)
        return Written(ids, logprobs, choice["finish_reason"])

    def _token_settings(self) -> dict[str, Any]:
        """What a request in token ids adds: no sampling but the model's own, its ends, and ids in return."""
        return {
            **PLAIN_VLLM,
            "stop_token_ids": sorted(self.end_ids),
            "skip_special_tokens": False,
            "return_token_ids": True,
        }

    def _ids(self, choice: Mapping[str, Any]) -> list[int]:
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not ids:
            raise self._malformed(
                "/completions", "no token ids (vLLM gives them; for other servers: `api: chat`)", choice
            )
        return ids

    def _known(self) -> PreTrainedTokenizerBase:
        """The tokenizer, where there is one."""
        if self.tokenizer is None or self.spec.api != "tokens":
            raise ModelError(
                f"{self.spec.path}: `api: chat` gives no token ids, which a searcher needs: serve it with vLLM, "
                "`api: tokens`"
            )
        return self.tokenizer
