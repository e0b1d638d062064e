"""Which forms are the same text: decided here once, for corpora, queries, caches and scoring alike.

A text is kept and shown as it was written; what is *compared* is its canonical form: indexes are built of it and
queries brought to it (`canonical`), the measures fold case besides (`folded`). The same are

- canonical equivalents (é as one character or two): the form is NFC;
- another typesetting of the same letters: full and half width, ligatures (ﬁ), mathematical alphabets, Arabic
  presentation forms, squared units (㎏), Roman numerals (Ⅳ), subscripts (CO₂ is CO2). Superscripts, fractions
  and circled digits are not: 10² is not 102, 2½ not 21/2;
- every space (no-break, thin, ideographic …) and the plain one;
- a text with and without what nobody sees: zero-width characters, soft hyphens, direction marks, variation selectors;
- typographic and ASCII apostrophes, quotation marks, hyphens, dashes, the minus and the slashes;
- what differs in case alone, by Unicode's full case folding: ß is ss, ς is σ. The dot of İ says nothing, for its small
  letter is i; ı without a dot is another letter, as é and e are.

ASCII text is its own canonical form. An index made elsewhere, of the text as it stood, is searched with canonical queries.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import regex

_SAME = {
    **dict.fromkeys("‘’‚‛‹›′´ʻʼ", "'"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("‐‒–—―⸺⸻−", "-"),
    **dict.fromkeys("⁄∕", "/"),
    "ß": "ss",
    "ẞ": "SS",
    "ς": "σ",
}
_TYPESETTING = (
    "compat wide narrow small noBreak vertical square font sub initial medial final isolated".split()
)
_ABOVE_ASCII = re.compile(r"[^\x00-\x7f]")
_UNSEEN = regex.compile(r"\p{Default_Ignorable_Code_Point}")
_DOTTED = re.compile("([iI])\u0307+")


def canonical(text: str) -> str:
    """The form that stands for all forms of a text (see the module), case kept, in NFC. Idempotent.

    >>> canonical("Ｐａｒｉｓ\\u200b\\u00a0’ﬁne’ – CO₂, 10²")
    "Paris 'fine' - CO2, 10²"
    """
    if text.isascii():
        return text
    plain = _ABOVE_ASCII.sub(lambda one: _plain(one[0]), unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", _DOTTED.sub(r"\1", unicodedata.normalize("NFD", plain)))


def folded(text: str) -> str:
    """As `canonical`, without regard to case, in NFD (the form of DPR's measures). Idempotent."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", canonical(text)).casefold())


def blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return not canonical(text).strip()


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """The canonical form of one character above ASCII, in any normal form."""
    if character in _SAME:
        return _SAME[character]
    if _UNSEEN.match(character):
        return ""
    if character.isspace():
        return " "
    kind, _, codes = unicodedata.decomposition(character).partition("> ")
    # what Unicode spells as a space and a mark is a sign of its own: ¨ ¯ ˘
    if kind[1:] not in _TYPESETTING or codes.startswith("0020 "):
        return character
    return "".join(_plain(chr(int(code, 16))) for code in codes.split())
