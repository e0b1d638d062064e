"""Inventories of invented names and plain words, the same for every world seed.

A world draws its entities' names from `NAMES` ("Mira Velt", "The Amber Lantern"), half as many again as
it needs, and many share a word with a neighbour, so that retrievers confuse them. The inventory is
fixed, so that the mini tokenizer can hold each name as one token; which facts go with a name is new
in every world, so nothing about it can be known from another.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import yaml

_ONSETS = "b br c d dr f fl g gr h j k l m n p pr r s st t th tr v w z".split()
_VOWELS = "a e i o u".split()
_MIDDLES = "b d g l ll m n nn r rr s t v ld lm nd nk rd rk rn rt rv sk st".split()

_COINED: dict[str, tuple[int, str]] = {
    "first": (220, "a an el en ia io is o on us"),
    "last": (380, "ack ard att eck ell ick old olt oss owe und urst"),
    "city": (300, "burg dale field ham mere mouth port stad ton vik"),
    "river": (110, "ath eth ine ith une une"),
    "company": (150, "ax ex ico ora yx"),
    "university": (100, "aster ford minster wick worth"),
    "prize": (90, "ander inger obel over uster"),
    "mountain": (50, "horn peak top"),
    "sea": (40, "aric idic onic uric"),
    "herb": (110, "balm bane leaf root wort"),
    "compound": (70, "ane ene ine ol one"),
    "ailment": (60, "ache algia itis osis"),
}
"""How many words of each kind are made up, and their endings."""


def _coin() -> dict[str, list[str]]:
    rng = random.Random("s3mini names")  # the inventory never changes with the world's seed
    words: dict[str, list[str]] = {}
    taken: set[str] = set()
    for kind, (count, endings) in _COINED.items():
        words[kind] = []
        while len(words[kind]) < count:
            parts = (_ONSETS, _VOWELS, _MIDDLES, endings.split())
            word = "".join(rng.choice(part) for part in parts)
            if word not in taken:
                taken.add(word)
                words[kind].append(word if kind in ("compound", "ailment") else word.capitalize())
    return words


def _combine(words: dict[str, list[str]]) -> dict[str, Sequence[str]]:
    rng = random.Random("s3mini full names")
    plain = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
    adjectives, nouns, plurals = (plain[kind].split() for kind in ("adjectives", "nouns", "plurals"))
    patterns: dict[str, tuple[int, str, Sequence[str], Sequence[str]]] = {
        "person": (1500, "{} {}", words["first"], words["last"]),
        "film": (570, "The {} {}", adjectives, nouns),
        "book": (450, "{} with {}", nouns, nouns),
        "band": (300, "{} {}", adjectives, plurals),
        "company": (300, "{} {}", words["company"], ("Mills", "Press", "Records", "Motors", "Foods")),
        "university": (195, "{} {}", words["university"], ("University", "College", "Institute")),
        "prize": (165, "{} {}", words["prize"], ("Prize", "Medal", "Award")),
    }
    names: dict[str, Sequence[str]] = {}
    for kind, (count, pattern, *parts) in patterns.items():
        distinct: dict[str, None] = {}
        while len(distinct) < count:
            left, right = (rng.choice(part) for part in parts)
            if left != right:
                distinct[pattern.format(left, right)] = None
        names[kind] = tuple(distinct)
    for kind, pattern in (("river", "River {}"), ("mountain", "Mount {}"), ("sea", "{} Sea")):
        names[kind] = [pattern.format(word) for word in words[kind]]
    return names | {kind: words[kind] for kind in ("city", "herb", "compound", "ailment")}


NAME_PATTERN = r"(?:The )?[A-Z][a-z]+(?: (?:with )?[A-Z][a-z]+)*"
"""A name in running text: a run of capitalised words."""
NAMES = _combine(_coin())
"""Every name a world can give, by entity type or by kind of value without a document."""
