"""How a black box is made to choose between words: by the first of three ways that its server knows.

1. ``top_logprobs``: one token is asked for, with the likeliest in its place and their log-probabilities. An option that
   is not among them counts as impossible.
2. A JSON schema (OpenAI's structured outputs; vLLM, SGLang, llama.cpp and Ollama know it) that allows the options and
   nothing else. That is a choice without probabilities: 0 for the option chosen, minus infinity for the others, so
   that a threshold decides nothing.
3. The reply as it comes, of which the first word is read. It may be none of the options.

A way that the server refuses or ignores is left for good, with a warning. What one way leaves undecided (no option is
among the likeliest tokens; the model thinks first) is asked by the next.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ...profile import ModelSpec
from ...protocols.parsing import THOUGHT, strip_reasoning
from ..base import Reply
from ..spellings import spells
from .endpoint import Refused

LIKELIEST = 20  # the most log-probabilities that OpenAI's interface gives for a place, and vLLM by default
CHOICE = 32  # tokens that a choice in JSON takes at most, where the model does not think first

OPENING = tuple({mark[0] for mark, _ in THOUGHT})  # a first token may be a mark whole or in parts

log = logging.getLogger("s3mini")
Body = Mapping[str, Any]  # a request, or the choice in an answer
Read = list[
    list[float] | None
]  # the options' masses for each body; None where the server does not answer that way


class Chooser:
    """Asks by ``ask``, bodies to choices, and reads whole ``replies``; remembers which ways lead nowhere."""

    def __init__(
        self,
        ask: Callable[[Sequence[Body]], list[dict[str, Any]]],
        replies: Callable[[Sequence[Body], int], list[Reply]],
        spec: ModelSpec,
    ) -> None:
        self.ask, self.replies, self.spec = ask, replies, spec
        self.ways = {
            "log-probabilities": self._by_logprobs,
            "a JSON schema": self._by_schema,
            "free replies": self._by_word,
        }

    def preference(self, bodies: Sequence[Body], options: Sequence[str]) -> list[list[float]]:
        """See ``models.base.ChatModel.preference``; ``bodies`` hold the messages and how to sample."""
        found = [[-math.inf] * len(options) for _ in bodies]
        nowhere = {}
        for name, way in self.ways.items():
            left = [i for i, masses in enumerate(found) if max(masses) == -math.inf]
            asked = [{**bodies[i], "temperature": 0.0, "seed": 0, "stream": False} for i in left]
            try:
                read = way(asked, options)
            except Refused as error:
                if way == self._by_word:  # so it is not for how it was asked
                    raise
                nowhere[name] = str(error)
                continue
            if left and read.count(None) == len(left):
                nowhere[name] = "the server does not answer by it"
            for i, masses in zip(left, read, strict=True):
                found[i] = masses or found[i]
        for name, why in nowhere.items():
            log.warning("%s is asked to choose without %s from now on: %s", self.spec.path, name, why)
            del self.ways[name]
        return found

    def _by_logprobs(self, bodies: Sequence[Body], options: Sequence[str]) -> Read:
        once = {"max_tokens": 1, "logprobs": True, "top_logprobs": LIKELIEST}
        return [likeliest(choice, options) for choice in self.ask([{**body, **once} for body in bodies])]

    def _by_schema(self, bodies: Sequence[Body], options: Sequence[str]) -> Read:
        word = {"choice": {"type": "string", "enum": list(options)}}
        schema = {"type": "object", "properties": word, "required": ["choice"], "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}
        more = {"response_format": form, "max_tokens": max(self.spec.max_new_tokens, CHOICE)}
        return self._words([{**body, **more} for body in bodies], options)

    def _by_word(self, bodies: Sequence[Body], options: Sequence[str]) -> Read:
        return self._words([{**body, "max_tokens": self.spec.max_new_tokens} for body in bodies], options)

    def _words(self, bodies: Sequence[Body], options: Sequence[str]) -> Read:
        budget = bodies[0]["max_tokens"] if bodies else 0
        said = self.replies(self.ask(bodies), budget)
        words = [chosen(reply, options) for reply in said]
        if None in words:
            example = said[words.index(None)]
            cut = f", cut at {budget} tokens: raise max_new_tokens" if example.cut else ""
            log.warning(
                "%s: %d of %d replies choose none of %s, e.g. %r%s",
                self.spec.path, words.count(None), len(words), ", ".join(options), str(example), cut,
            )  # fmt: skip
        return [[0.0 if option == word else -math.inf for option in options] for word in words]


def summed(logprobs: Iterable[float]) -> float:
    """The logarithm of the sum of probabilities; minus infinity of none."""
    return float(np.logaddexp.reduce([-math.inf, *logprobs]))


def likeliest(choice: Body, options: Sequence[str]) -> list[float] | None:
    """The options' masses among the likeliest first tokens; None where the server gave no such tokens.

    All minus infinity where the model thinks before it speaks, or opens some other markup: what comes first is then no choice.
    """
    match choice:
        case {"logprobs": {"content": [{"token": str(first), "top_logprobs": [_, *_] as tops}, *_]}}:
            opens = first.strip().startswith(OPENING)
            message = choice.get("message")
            thinks = opens or (
                isinstance(message, dict) and (message.get("reasoning_content") or message.get("reasoning"))
            )
            said = [] if thinks else list(_readable(tops))
            if said or thinks:
                return [
                    summed(logprob for token, logprob in said if spells(token, option)) for option in options
                ]
    return None


def _readable(tops: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """Tokens with their log-probabilities; some servers have a null or NaN among them, or other names."""
    for top in tops:
        match top:
            case {"token": str(token), "logprob": float(logprob) | int(logprob)} if logprob == logprob:
                yield token, float(logprob)


def chosen(reply: str, options: Sequence[str]) -> str | None:
    """The option that a reply chooses: in JSON, ``{"choice": …}``, or as its first word, in any case.

    Reasoning is ignored; None for any other reply.
    """
    answer = strip_reasoning(reply)
    with suppress(ValueError, TypeError, KeyError):  # no such JSON: words
        answer = json.loads(answer)["choice"]
    first = re.match(rf"\W*({'|'.join(map(re.escape, options))})\b", str(answer), re.IGNORECASE)
    return next((o for o in options if first and first[1].lower() == o.lower()), None)
