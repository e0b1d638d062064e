"""What answers say of themselves beside the reply: which model wrote it, and how much of the prompt it read.

Some servers answer by the model they have loaded, whatever name they are asked for (LM Studio, llama.cpp), and some drop what
does not fit their context without a word (Ollama). From here neither is certain: a gateway has names of its own, and some
servers do not count what they found in a cache. So it is told, once, and not refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger("s3mini")

DENSEST = 7  # characters a token; English has four to five, other languages fewer
FILLED = 1000  # tokens: the least that fill a server's context
APART = 1.25  # prompts of so unequal length do not have the same number of tokens by chance, where it is the highest


class Telltales:
    """Heeds the answers of one endpoint, ``url``, asked for ``model``; tells once what is odd about them."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self._names: set[str] = set()
        self._most, self._shortest, self._longest = 0, 0, 0  # the highest count, and the prompts that had it
        self._told = False

    def heed(self, bodies: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> None:
        """Chat requests and their answers, of which any field may be missing or odd."""
        for body, answer in zip(bodies, answers, strict=True):
            if isinstance(name := answer.get("model"), str):
                self._named(name)
            match answer:
                case {"usage": {"prompt_tokens": int(count)}} if count > 0 and not self._told:
                    self._counted(sum(len(message["content"]) for message in body["messages"]), count)

    def _named(self, name: str) -> None:
        if name in self._names:
            return
        if self._names or not alike(name, self.model):
            log.warning(
                "%s: asked for the model %r, answers as %r%s; what it says is reported as %r",
                self.url, self.model, name, ", too" if self._names else "", self.model,
            )  # fmt: skip
        self._names.add(name)

    def _counted(self, characters: int, count: int) -> None:
        if count > self._most:
            self._most, self._shortest, self._longest = count, characters, characters
        elif count == self._most:
            self._shortest, self._longest = min(self._shortest, characters), max(self._longest, characters)
        full = self._most >= FILLED and self._longest > APART * self._shortest
        if full or characters > DENSEST * max(count, FILLED):
            self._told = True
            log.warning(
                "%s: counts %d tokens in a prompt of %d characters%s: it seems to cut prompts to its context, and answers what "
                "is left of them; raise the server's context (Ollama: OLLAMA_CONTEXT_LENGTH or num_ctx; LM Studio: where the "
                "model is loaded), or give fewer documents",
                self.url, count, characters, f" and in one of {self._shortest}" if full else "",
            )  # fmt: skip


def alike(name: str, asked: str) -> bool:
    """Whether one name says the other at more length: a date, a quantisation, the maker, a folder, other separators."""
    ours, theirs = (re.sub(r"[\W_]", "", text.lower().rpartition("/")[2]) for text in (asked, name))
    return ours in theirs or theirs in ours
