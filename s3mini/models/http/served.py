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
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...profile import ModelSpec
from ..base import Conversation, Reply, check_fits
from ..chat import chat_ids, check_encodable, merged, opening
from ..spellings import spellings
from .choosing import LIKELIEST, Chooser, summed
from .dialect import NO_SYSTEM
from .endpoint import Endpoint, Refused
from .stateless import PLAIN, PLAIN_VLLM, Ask, StatelessSampler, StatelessSession, Written
from .telltales import Telltales

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


ENDINGS = {
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("max_tokens", "model_length"), "length"),
}
"""Other words for the two ways in which a reply may end."""
TEXT = ("text", "output_text")  # types of a message's parts that are said
ENDED = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|return|call)\|>|<\|end\|>(?!\s*<\|start\|>)|</s>|<end_of_turn>|<eos>"
    r"|<｜end▁of▁sentence｜>"
)
"""The ends of a turn, of which no text is made but by servers that do not know them for the model's."""


def said(content: Any) -> str:
    """The text of a message, whole or in parts (Mistral's, Anthropic's), without those that are reasoning; "" of none.

    It ends where the model ended its turn, though the server went on or shows how. Half a character, as servers in JavaScript
    cut one, becomes "?": no tokenizer and no file takes it.
    """
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type", "text") in TEXT]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if not isinstance(content, str):
        return ""
    return ENDED.split(content, maxsplit=1)[0].encode("utf-8", "replace").decode().strip()


def chat_bodies(conversations: Sequence[Conversation]) -> list[dict[str, Any]]:
    """What a black box is asked: the messages, and the parameters of plain sampling.

    Raises:
        DataError: a message holds what UTF-8 cannot.
    """
    check_encodable(conversations)
    return [{"messages": list(map(dict, talk)), **PLAIN} for talk in conversations]


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
        self._system_role = True  # until a black box refuses it
        self.name = self.endpoint.url
        self.path = "/chat/completions" if spec.api == "chat" else "/completions"
        self._telltales = Telltales(self.name, spec.path)
        self.chooser = Chooser(self.ask, self.replies, spec)
        if spec.api == "tokens":
            from ..stops import Stops
            from ..tokenizer import end_ids, generation_config, open_tokenizer, settle_end, source_of

            self.tokenizer = tokenizer or open_tokenizer(source_of(spec))
            self.end_ids = ends or end_ids(self.tokenizer, generation_config(source_of(spec)))
            settle_end(self.tokenizer, self.end_ids)
            self.stops = Stops(self.tokenizer, self.end_ids)

    def reply(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Reply]:
        """One reply per conversation; see ``models.base.ChatModel`` and, for failures, `endpoint.Endpoint.ask`."""
        budget = max_new_tokens or self.spec.max_new_tokens
        lead = ""
        if self.spec.api == "chat":
            bodies = chat_bodies(conversations)
        else:
            assert self.tokenizer is not None
            prompts, lead = chat_ids(self.tokenizer, conversations), opening(self.tokenizer)
            check_fits(self.spec.path, prompts, budget, self.positions)
            ends = {"stop_token_ids": sorted(self.end_ids), "return_token_ids": True}
            bodies = [{"prompt": ids, **PLAIN_VLLM, **ends} for ids in prompts]
        for i, body in enumerate(bodies):
            own = seed + i if temperature else 0
            body |= {"max_tokens": budget, "temperature": temperature, "seed": own, "stream": False}
        return self.replies(self.ask(bodies), budget, lead)

    def preference(self, conversations: Sequence[Conversation], options: Sequence[str]) -> list[list[float]]:
        """See ``models.base.ChatModel``. vLLM may say no token but those of the options; a black box: `choosing`."""
        if self.spec.api == "chat":
            return self.chooser.preference(chat_bodies(conversations), options)
        assert self.tokenizer is not None
        prompts = chat_ids(self.tokenizer, conversations, thinking=False)
        check_fits(self.spec.path, prompts, 1, self.positions)
        ids = spellings(self.tokenizer, options)
        allowed = sorted({i for own in ids for i in own})
        once = {
            **PLAIN_VLLM, "max_tokens": 1, "temperature": 0.0, "seed": 0, "stream": False, "allowed_token_ids": allowed,
            "logprobs": min(len(allowed), LIKELIEST), "return_tokens_as_token_ids": True,
        }  # fmt: skip
        choices = self.ask([{"prompt": prompt, **once} for prompt in prompts])
        return [self._masses(choice, ids) for choice in choices]

    def _masses(self, choice: Mapping[str, Any], ids: Sequence[Sequence[int]]) -> list[float]:
        tops = (choice.get("logprobs") or {}).get("top_logprobs")
        if not isinstance(tops, list) or not tops or not isinstance(tops[0], dict):
            raise self._malformed("no log-probabilities (for servers that give none: `api: chat`)", choice)
        given = {name: float(logprob) for name, logprob in tops[0].items()}
        masses = [summed(given.get(f"token_id:{i}", -math.inf) for i in own) for own in ids]
        if max(masses) == -math.inf:  # it may only say what it was allowed to
            raise self._malformed("none of the allowed tokens, by id (vLLM gives them)", choice)
        return masses

    def ask(self, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The one choice of each answer, ended as a reply may end; equal bodies are sent once."""
        keys = [json.dumps(body, sort_keys=True) for body in bodies]
        distinct = dict(zip(keys, bodies, strict=True))
        if not self._system_role:
            distinct = {key: {**body, "messages": merged(body["messages"])} for key, body in distinct.items()}
        try:
            choices = dict(zip(distinct, self._ask(list(distinct.values())), strict=True))
        except Refused as error:
            if self.spec.api != "chat" or not self._system_role or not NO_SYSTEM.search(str(error)):
                raise
            self._system_role = False  # its template has none (Gemma's, Mistral's first)
            return self.ask(bodies)
        return [choices[key] for key in keys]

    def _ask(self, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        choices = []
        answers = self.endpoint.ask(self.path, [{"model": self.spec.path, **body} for body in bodies])
        if self.spec.api == "chat":
            self._telltales.heed(bodies, answers)
        for answer in answers:
            given = answer.get("choices")
            for choice in given if isinstance(given, list) else ():
                if isinstance(choice, dict) and isinstance(reason := choice.get("finish_reason"), str):
                    choice["finish_reason"] = ENDINGS.get(reason.lower(), reason.lower())
            match given:
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

    def replies(self, choices: Sequence[Mapping[str, Any]], budget: int, lead: str = "") -> list[Reply]:
        """The replies in choices, of at most ``budget`` tokens each; ``lead`` begins every one.

        Raises:
            ModelError: one that the model ended without a text, or more than half that the budget cut before any.
        """
        read = [self._text(choice, lead) for choice in choices]
        lost = [i for i, reply in enumerate(read) if reply.cut and not reply]
        if 2 * len(lost) > len(read):
            told = f"no text in {len(lost)} of {len(read)} replies, cut at {budget} tokens; a model may spend them on "
            raise self._malformed(f"{told}reasoning: raise max_new_tokens", choices[lost[0]])
        return read

    def _text(self, choice: Mapping[str, Any], lead: str) -> Reply:
        cut = choice["finish_reason"] == "length"
        if self.spec.api == "tokens":
            return Reply(self.stops.reply(self._ids(choice), lead), cut)
        message = choice.get("message")
        text = said(message.get("content") if isinstance(message, dict) else None)
        if not cut and not text:
            raise self._malformed("no text", choice)
        return Reply(text, cut)

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
