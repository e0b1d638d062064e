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
from ..base import Conversation, chat_ids, check_fits
from .endpoint import Endpoint
from .stateless import PLAIN, PLAIN_VLLM, Ask, StatelessSampler, StatelessSession, Written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ServedModel(StatelessSampler):
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
        self.spec, self.tokenizer, self.positions = spec, tokenizer, spec.max_length
        self.endpoint = Endpoint(spec)
        self.name = self.endpoint.url
        self.path = "/chat/completions" if spec.api == "chat" else "/completions"
        if spec.api == "tokens":
            from ..stops import Stops
            from ..tokenizer import end_ids, generation_config, open_tokenizer, source_of

            self.tokenizer = tokenizer or open_tokenizer(source_of(spec))
            self.end_ids = ends or end_ids(self.tokenizer, generation_config(source_of(spec)))
            self.stops = Stops(self.tokenizer, self.end_ids)

    def reply(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """One reply per conversation; see ``models.base.ChatModel`` and, for failures, `endpoint.Endpoint.ask`."""
        budget = max_new_tokens or self.spec.max_new_tokens
        bodies: list[dict[str, Any]]
        if self.spec.api == "chat":
            bodies = [{"messages": list(map(dict, talk)), **PLAIN} for talk in conversations]
        else:
            assert self.tokenizer is not None
            prompts = chat_ids(self.tokenizer, conversations)
            check_fits(self.spec.path, prompts, budget, self.positions)
            ends = {"stop_token_ids": sorted(self.end_ids), "return_token_ids": True}
            bodies = [{"prompt": ids, **PLAIN_VLLM, **ends} for ids in prompts]
        for i, body in enumerate(bodies):
            own = seed + i if temperature else 0
            body |= {"max_tokens": budget, "temperature": temperature, "seed": own, "stream": False}
        keys = [json.dumps(body, sort_keys=True) for body in bodies]
        distinct = dict(zip(keys, bodies, strict=True))
        choices = dict(zip(distinct, self._ask(list(distinct.values())), strict=True))
        return [self._text(choices[key]) for key in keys]

    def _ask(self, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The one choice of each answer, ended as a reply may end."""
        choices = []
        for answer in self.endpoint.ask(self.path, [{"model": self.spec.path, **body} for body in bodies]):
            match answer.get("choices"):
                case [{"finish_reason": "stop" | "length"} as choice]:
                    choices.append(choice)
                case [dict() as choice]:
                    raise self._malformed(f"the reply ended by {choice.get('finish_reason')!r}", answer)
                case _:
                    raise self._malformed("not one choice", answer)
        return choices

    def _malformed(self, what: str, answer: Any) -> ModelError:
        return ModelError(
            f"{self.name}{self.path}: {what} in the answer of {self.spec.path!r}: {json.dumps(answer)[:300]}"
        )

    def _text(self, choice: Mapping[str, Any]) -> str:
        if self.spec.api == "tokens":
            return self.stops.decode(self._ids(choice), keep_special=False).strip()
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str) or not text.strip():
            cut = choice["finish_reason"] == "length"
            hint = "; it may have spent them on reasoning: raise max_new_tokens" if cut else ""
            raise self._malformed(f"no text{hint}", choice)
        return text.strip()

    def _ids(self, choice: Mapping[str, Any]) -> list[int]:
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not ids:
            raise self._malformed("no token ids (vLLM gives them; for other servers: `api: chat`)", choice)
        return ids

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> StatelessSession:
        """Open one row per prompt; see ``models.base.Sampler``.

        Raises:
            ModelError: an empty prompt, or an endpoint that is only spoken to in messages.
        """
        if self.spec.api == "chat":
            raise ModelError(
                f"{self.spec.path}: `api: chat` gives no token ids, which a searcher needs: serve it with vLLM, "
                "`api: tokens`"
            )
        return super().start(prompts, seeds)

    def write(self, asks: Sequence[Ask]) -> list[Written]:
        """One request per ask, ``spec.batch_size`` at a time."""
        common = {"return_token_ids": True, "stream": False}
        choices = self._ask([{"prompt": list(ask.prompt), **self.settings(ask), **common} for ask in asks])
        return [self._written(choice) for choice in choices]

    def _written(self, choice: Mapping[str, Any]) -> Written:
        ids, logprobs = self._ids(choice), (choice.get("logprobs") or {}).get("token_logprobs")
        if not isinstance(logprobs, list) or len(logprobs) != len(ids) or None in logprobs:
            raise self._malformed("not one log-probability per token", choice)
        return Written(ids, logprobs, choice["finish_reason"])
