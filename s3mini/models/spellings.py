"""Which tokens say a word: how a choice between words ("yes" or "no") is read from next-token probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


BLANK = " \t\r\n\N{LOWER ONE EIGHTH BLOCK}ĠĊ"  # with those of SentencePiece's and byte-level tokens, which some servers show raw


@lru_cache(maxsize=8)
def pieces(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The text of every id, control tokens included, each decoded alone."""
    return tuple(tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=False))


def spells(piece: str, option: str) -> bool:
    """Whether a token's text is the option, in any case and with white space around it."""
    return piece.strip(BLANK).lower() == option.lower()


def spellings(tokenizer: PreTrainedTokenizerBase, options: Sequence[str]) -> list[list[int]]:
    """For each option, a word, the ids that say it: all tokens that spell it (`spells`).

    A usual spelling (yes, Yes, YES; a blank before it) that is no single token is told by its first that is no blank ("Y"
    for Yes), but for one that begins another option too.

    Raises:
        ModelError: an option has no token of its own.
    """
    texts = pieces(tokenizer)
    whole = [{i for i, piece in enumerate(texts) if spells(piece, option)} for option in options]
    firsts = [_firsts(tokenizer, option) for option in options]
    found = []
    for n, option in enumerate(options):
        others = {i for m in range(len(options)) if m != n for i in whole[m] | firsts[m]}
        own = (whole[n] | firsts[n]) - others
        if not own:
            raise ModelError(
                f"{tokenizer.name_or_path}: no token tells {option!r} from {', '.join(options)}: choose another model"
            )
        found.append(sorted(own))
    return found


def _firsts(tokenizer: PreTrainedTokenizerBase, option: str) -> set[int]:
    """The first tokens, blanks aside, of an option's usual spellings."""
    usual = [space + case(option) for case in (str.lower, str.capitalize, str.upper) for space in ("", " ")]
    found = [tokenizer.encode(text, add_special_tokens=False) for text in usual]
    return {i for ids in found for i in [i for i in ids if pieces(tokenizer)[i].strip(BLANK)][:1]}
