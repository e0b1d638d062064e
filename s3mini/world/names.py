"""Inventories of invented names and plain words, the same for every world seed.

A world draws its entities' names from `NAMES` ("Mira Velt", "The Amber Lantern"), half as many again as
it needs, and many share a word with a neighbour, so that retrievers confuse them. The inventory is
fixed, so that the mini tokenizer can hold each name as one token; which facts go with a name is new
in every world, so nothing about it can be known from another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

_ONSETS = "b br c d dr f fl g gr h j k l m n p pr r s st t th tr v w z".split()
_VOWELS = "a e i o u".split()
_MIDDLES = "b d g l ll m n nn r rr s t v ld lm nd nk rd rk rn rt rv sk st".split()

_ENDINGS = {
    "first": "a an el en ia io is o on us".split(),
    "last": "ack ard att eck ell ick old olt oss owe und urst".split(),
    "city": "burg dale field ham mere mouth port stad ton vik".split(),
    "river": "ath eth ine ith une une".split(),
    "company": "ax ex ico ora yx".split(),
    "university": "aster ford minster wick worth".split(),
    "prize": "ander inger obel over uster".split(),
    "mountain": "horn peak top".split(),
    "sea": "aric idic onic uric".split(),
    "herb": "balm bane leaf root wort".split(),
    "compound": "ane ene ine ol one".split(),
    "ailment": "ache algia itis osis".split(),
}
_SIZES = {
    "first": 220, "last": 380, "city": 300, "river": 110, "company": 150, "university": 100, "prize": 90,
    "mountain": 50, "sea": 40, "herb": 110, "compound": 70, "ailment": 60,
}  # fmt: skip

ADJECTIVES = """Amber Ancient Autumn Bitter Blue Brave Bright Broken Bronze Burning Buried Calm Careful Cold Copper
Crimson Crooked Curious Dancing Dark Distant Double Eager Early Eastern Electric Empty Endless Faded Fallen Final
First Floating Flying Forgotten Fragile Frozen Gentle Gilded Glass Golden Grand Green Grey Heavy Hidden Hollow Honest
Humble Invisible Iron Ivory Jade Last Lazy Little Lonely Lost Lucky Marble Midnight Misty Modern Narrow Northern Odd
Open Orange Painted Pale Patient Perfect Plain Polished Proud Purple Quiet Rapid Restless Royal Rusty Sacred Scarlet
Second Secret Shallow Silent Silver Simple Sleeping Slow Southern Stolen Stone Strange Sudden Tall Tender Thirsty
Tidy Velvet Wandering Western White Wild Winter Wooden Yellow Young""".split()
NOUNS = """Anchor Apple Archer Arrow Bakery Balcony Basket Beacon Bell Bicycle Blanket Boat Bottle Bridge Broom Button
Cabin Candle Canyon Carpet Castle Cathedral Cellar Chair Circle Clock Cloud Coast Compass Corner Cottage Crown Curtain
Desert Diamond Door Dream Drum Engine Envelope Falcon Farm Feather Fence Ferry Field Flame Flute Forest Fountain Fox
Garden Gate Giant Glove Grove Hammer Harbour Harvest Hill Horizon Horse Hotel House Island Journey Kettle Key Kingdom
Kitchen Ladder Lake Lamp Lantern Letter Library Lighthouse Market Meadow Mirror Monkey Moon Mountain Museum Needle Nest
Night Oak Ocean Orchard Owl Palace Paper Passage Path Pearl Pencil Piano Picture Pillow Pocket Potter Promise Puzzle
Rabbit Rain Raven Ribbon Ring Road Roof Rope Rose Sailor Salt Scarf School Shadow Ship Shoe Signal Snow Song Spoon
Stair Star Station Storm Street Summer Sun Table Teacher Theatre Thread Thunder Tiger Tower Train Treasure Tunnel
Umbrella Valley Violin Wagon Wall Watch Water Wave Wheel Whistle Wind Window Wolf Woman""".split()
PLURALS = """Acrobats Badgers Bankers Bears Bishops Cats Clowns Comets Cousins Cowboys Dancers Dentists Doctors Dragons
Ducks Eagles Farmers Fishermen Foxes Ghosts Gardeners Hares Herons Hunters Kings Knights Lanterns Lions Magnets Miners
Monks Moths Neighbours Nurses Otters Owls Painters Pandas Pilots Pirates Planets Plumbers Poets Princes Queens Rabbits
Ravens Rebels Robots Saints Sailors Sparrows Spiders Strangers Swans Tailors Tigers Tourists Twins Wizards""".split()

COMPANY_KINDS = ("Mills", "Press", "Records", "Motors", "Foods")
UNIVERSITY_KINDS = ("University", "College", "Institute")
PRIZE_KINDS = ("Prize", "Medal", "Award")


def _make_pools() -> dict[str, tuple[str, ...]]:
    rng = random.Random("s3mini names")  # the inventory never changes with the world's seed
    taken: set[str] = set()
    pools: dict[str, tuple[str, ...]] = {}
    for kind, size in _SIZES.items():
        words: list[str] = []
        while len(words) < size:
            word = (
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_MIDDLES) + rng.choice(_ENDINGS[kind])
            )
            word = word.capitalize() if kind not in ("compound", "ailment") else word
            if word.lower() not in taken:
                taken.add(word.lower())
                words.append(word)
        pools[kind] = tuple(words)
    return pools


POOLS = _make_pools()


_PATTERNS: dict[str, tuple[str, tuple[Sequence[str], ...]]] = {
    "person": ("{} {}", (POOLS["first"], POOLS["last"])),
    "film": ("The {} {}", (ADJECTIVES, NOUNS)),
    "book": ("{} with {}", (NOUNS, NOUNS)),
    "band": ("{} {}", (ADJECTIVES, PLURALS)),
    "company": ("{} {}", (POOLS["company"], COMPANY_KINDS)),
    "university": ("{} {}", (POOLS["university"], UNIVERSITY_KINDS)),
    "prize": ("{} {}", (POOLS["prize"], PRIZE_KINDS)),
    "river": ("River {}", (POOLS["river"],)),
    "mountain": ("Mount {}", (POOLS["mountain"],)),
    "sea": ("{} Sea", (POOLS["sea"],)),
}
_COUNTS = {
    "person": 1500, "film": 570, "book": 450, "band": 300, "company": 300, "university": 195, "prize": 165,
}  # fmt: skip


def _make_names() -> dict[str, tuple[str, ...]]:
    rng = random.Random("s3mini full names")
    names: dict[str, tuple[str, ...]] = {}
    for kind, (pattern, parts) in _PATTERNS.items():
        if len(parts) == 1:
            names[kind] = tuple(pattern.format(part) for part in parts[0])
            continue
        found: dict[str, None] = {}
        while len(found) < _COUNTS[kind]:
            left, right = (rng.choice(part) for part in parts)
            if left != right:
                found[pattern.format(left, right)] = None
        names[kind] = tuple(found)
    return names | {kind: POOLS[kind] for kind in ("city", "herb", "compound", "ailment")}


NAME_PATTERN = r"(?:The )?[A-Z][a-z]+(?: (?:with )?[A-Z][a-z]+)*"
"""A name in running text: a run of capitalised words."""
NAMES = _make_names()
"""Every name a world can give, by entity type or by kind of value without a document."""
