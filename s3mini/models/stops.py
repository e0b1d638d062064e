"""Where a turn ends: the end token, or a stop string of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..protocols.parsing import THOUGHT
from ..protocols.wordings import TAGS
from .spellings import pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Finder = Callable[[int, Sequence[int]], "str | None"]


class Stops:
    """Finds the end of a turn in token ids, alike for every engine; ``end_ids`` are the tokens that end one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int]) -> None:
        self.tokenizer, self.end_ids = tokenizer, end_ids
        added = tokenizer.added_tokens_decoder.items()
        kept = " ".join(
            (*TAGS, *(mark for pair in THOUGHT for mark in pair))
        )  # some marks are of several tokens
        self._dropped = end_ids | {i for i, token in added if token.special and token.content not in kept}
        self._finders: dict[tuple[str, ...], Finder] = {}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens shown."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def reply(self, ids: Sequence[int], lead: str = "") -> str:
        """Text of a whole reply, ``lead`` before it: special tokens dropped, but for the tags that mark its reasoning."""
        return (lead + self.decode([i for i in ids if i not in self._dropped])).strip()

    def shown(self, ids: Sequence[int], stopped: str | None) -> str:
        """Text of a turn's ids, without the end token that stopped it."""
        return self.decode(ids[:-1] if stopped is not None and ids[-1] in self.end_ids else ids)

    def finder(self, stop: tuple[str, ...]) -> Finder:
        """A function of (last id, this turn's ids) naming the stop string or end token met, or None.

        Text is decoded only after a token that holds the last character of some stop string, and then
        only the tail that could hold it.
        """
        if stop not in self._finders:
            lasts = {s[-1] for s in stop}
            if any(not last.isascii() for last in lasts):
                lasts.add("\ufffd")  # a token may hold only part of the character's bytes
            triggers = {i for i, piece in enumerate(pieces(self.tokenizer)) if lasts & set(piece)}
            reach = max((len(s.encode()) for s in stop), default=0) + 1

            def find(token: int, ids: Sequence[int]) -> str | None:
                if token in self.end_ids:
                    return self.decode([token])
                if token in triggers:
                    tail = self.decode(ids[-reach:])
                    return next((s for s in stop if s in tail), None)
                return None

            self._finders[stop] = find
        return self._finders[stop]

    def cut(self, ids: Sequence[int], stop: tuple[str, ...]) -> tuple[int, str | None]:
        """How many of a turn's ids there are up to its first stop, and that stop (all of them and None without)."""
        find = self.finder(stop)
        for count, token in enumerate(ids, 1):
            if (met := find(token, ids[:count])) is not None:
                return count, met
        return len(ids), None
