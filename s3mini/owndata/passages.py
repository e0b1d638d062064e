"""Long documents cut into passages that encoder, searcher and generator can read.

wiki-18 cuts Wikipedia every 100 words. Here a cut goes to the end of a paragraph, else of a sentence, where
there is one in the second half of what fits. Scripts without spaces count by the character.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

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
_PARAGRAPH = regex.compile(r"\n\s*\n")
_SENTENCE = regex.compile(r"[.!?…][\"'”’)\]]*\s|[。！？]|\n")

Spans = Callable[[str], list[tuple[int, int]]]


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

    ``spans`` gives the tokens of a text as (begin, end) in characters; None counts words only.
    """

    words: int = WORDS
    tokens: int = 0
    spans: Spans | None = None

    @staticmethod
    def of(profile: Profile, words: int = WORDS) -> Cutter:
        """The cutter for a profile's models; its generator's tokenizer is opened only where room is scarce.

        Raises:
            ModelError: the tokenizer cannot be loaded.
        """
        tokens = room(profile)
        if tokens >= TOKENS_PER_WORD * words:
            return Cutter(words)
        from transformers import AutoTokenizer

        path = profile.generator.path
        folder = profile.resolve(path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path}: its tokenizer, which measures passages, cannot be loaded: give a folder that holds a "
                f"model, or a hub name this machine can reach. Cause: {error}"
            ) from error

        def spans(text: str) -> list[tuple[int, int]]:
            read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return [(int(begin), int(end)) for begin, end in read["offset_mapping"]]

        return Cutter(words, tokens, spans)

    def cut(self, title: str, text: str) -> list[tuple[int, int]]:
        """The passages of a text, in order, as (begin, end) in characters; none where it holds no word."""
        words = [match.span() for match in _WORD.finditer(text)]
        ends = [end for _, end in words]
        tokens = [begin for begin, _ in self.spans(text)] if self.spans else []
        limit = self.tokens
        if self.spans:
            limit = max(limit - len(self.spans(HEADING.format(title))), LEAST_TOKENS)
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


def _latest(breaks: list[int], least: int, upto: int) -> int | None:
    """The last break from ``least`` to ``upto``, counted in words before it."""
    at = bisect_right(breaks, upto) - 1
    return breaks[at] if at >= 0 and breaks[at] >= least else None
