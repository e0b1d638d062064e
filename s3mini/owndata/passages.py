"""Long documents cut into passages that encoder, searcher and generator can read.

wiki-18 cuts Wikipedia every 100 words. Here a cut goes to the end of a paragraph, else of a sentence, where
there is one in the second half of what fits. Scripts without spaces count by the character.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from ..errors import ModelError
from ..profile import Profile

WORDS = 100
QUESTION_TOKENS = 64
HEADING = "Doc 10 (Title: {}) "  # as documents are shown, see protocols.wordings
LEAST_TOKENS = 24  # of text, however long the title
TOKENS_PER_WORD = 2.5  # where a passage may have that many, no tokenizer is asked

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,60}}")
_ASCII_WORD = re.compile(r"[^\t-\r ]{1,60}")  # the same where all is ASCII, in half the time
_PARAGRAPH = regex.compile(r"\n\s*\n")
_SENTENCE = regex.compile(r"[.!?…][\"'”’)\]]*\s|[。！？]|\n")

Measured = tuple[Sequence[int], int]
Begins = Callable[[Sequence[str]], Sequence[Sequence[int]]]


def room(profile: Profile) -> int:
    """Tokens that one passage may take, so that an episode and the generator's longest context fit.

    The longest context is every document that an episode can be shown.
    """
    s3, generator, searcher = profile.s3, profile.generator, profile.searcher
    documents = s3.begin_k + s3.turns * s3.k
    read = generator.max_length - generator.max_new_tokens - QUESTION_TOKENS
    searched = searcher.max_length - (s3.turns + 1) * s3.max_turn_tokens - QUESTION_TOKENS
    return max(min(read, searched) // documents, LEAST_TOKENS)


@dataclass(frozen=True)
class Cutter:
    """Cuts at ``words`` words, or earlier, where ``tokens`` of a tokenizer are used up.

    ``begins`` gives, for each of some texts, where its tokens begin, in characters; None counts words only.
    """

    words: int = WORDS
    tokens: int = 0
    begins: Begins | None = None

    @staticmethod
    def of(profile: Profile, words: int = WORDS) -> Cutter:
        """The cutter for a profile's models; its generator's tokenizer is opened only where room is scarce.

        Raises:
            ModelError: the tokenizer cannot be loaded.
        """
        tokens = room(profile)
        if tokens >= TOKENS_PER_WORD * words:
            return Cutter(words)
        return Cutter(words, tokens, _token_begins(profile))

    def cut(self, title: str, text: str) -> list[tuple[int, int]]:
        """The passages of a text, in order, as (begin, end) in characters; none where it holds no word."""
        return self.cut_all([(title, text)])[0]

    def cut_all(self, documents: Sequence[tuple[str, str]]) -> list[list[tuple[int, int]]]:
        """`cut` for several documents, (title, text) each, whose tokens are counted in one go."""
        return self.cut_measured([text for _, text in documents], self.measure(documents))

    def measure(self, documents: Sequence[tuple[str, str]]) -> list[Measured]:
        """Where the tokens of each text begin, and how many its passages may have beside the title; none: they do not count.

        The tokenizer's part of `cut_all`, during which other threads run.
        """
        if self.begins is None:
            return [((), 0)] * len(documents)
        headings = self.begins([HEADING.format(title) for title, _ in documents])
        tokens = self.begins([text for _, text in documents])
        limits = (max(self.tokens - len(heading), LEAST_TOKENS) for heading in headings)
        return list(zip(tokens, limits, strict=True))

    def cut_measured(self, texts: Sequence[str], measured: Sequence[Measured]) -> list[list[tuple[int, int]]]:
        """The rest of `cut_all`."""
        return [self._cut(text, *its) for text, its in zip(texts, measured, strict=True)]

    def _cut(self, text: str, tokens: Sequence[int], limit: int) -> list[tuple[int, int]]:
        """The passages of a text whose ``tokens`` begin there, no more than ``limit`` of them in each."""
        words = [match.span() for match in word_pattern(text).finditer(text)]
        ends = [end for _, end in words]
        paragraphs, sentences = (
            sorted({bisect_right(ends, m.end()) for m in pattern.finditer(text)})
            for pattern in (_PARAGRAPH, _SENTENCE)
        )
        passages: list[tuple[int, int]] = []
        first = 0
        while first < len(words):
            last = min(first + self.words, len(words))
            if tokens:
                begin = max(bisect_left(tokens, words[first][0]) - 1, 0)  # a token may begin in the space
                allowed = begin + limit
                if allowed < len(tokens):
                    last = min(last, max(bisect_right(ends, tokens[allowed]), first + 1))
            if last < len(words):
                half = first + max(1, (last - first) // 2)
                last = _latest(paragraphs, half, last) or _latest(sentences, half, last) or last
            passages.append((words[first][0], words[last - 1][1]))
            first = last
        return passages


def word_pattern(text: str) -> Any:
    """The pattern that finds the words of ``text``."""
    return _ASCII_WORD if text.isascii() else _WORD


def _token_begins(profile: Profile) -> Begins:
    """Where the tokens of the profile's generator begin.

    The ``tokenizer.json`` of a folder is read without transformers, whose import takes longer than cutting ten thousand
    documents does.

    Raises:
        ModelError: the tokenizer cannot be loaded.
    """
    path = profile.generator.path
    folder = profile.resolve(path)
    file = folder / "tokenizer.json"
    try:
        if file.is_file():
            return _fast_begins(file)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: its tokenizer, which measures passages, cannot be loaded: give a folder that holds a "
            f"model, or a hub name this machine can reach. Cause: {error}"
        ) from error

    def begins(texts: Sequence[str]) -> list[_TokenBegins]:
        read = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [_TokenBegins(encoding) for encoding in read.encodings]

    return begins


class _TokenBegins(Sequence[int]):
    """Where the tokens of a text begin, each looked up when it is asked for: few of them decide where to cut."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding)

    def __getitem__(self, token: Any) -> Any:
        if (span := self._encoding.token_to_chars(token)) is None:
            raise IndexError(token)
        return span[0]


def _fast_begins(file: Path) -> Begins:
    """`_token_begins` of a ``tokenizer.json``; raises ValueError where it is damaged."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def begins(texts: Sequence[str]) -> list[_TokenBegins]:
        return [_TokenBegins(read) for read in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return begins


def _latest(breaks: list[int], least: int, upto: int) -> int | None:
    """The last break from ``least`` to ``upto``, counted in words before it."""
    at = bisect_right(breaks, upto) - 1
    return breaks[at] if at >= 0 and breaks[at] >= least else None
