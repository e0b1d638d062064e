"""The herbal corpus: herbs, the cities that grow them and the prizes they won; multiple choice in the manner of MIRAGE.

Three sets over the one corpus, from what naive RAG finds to what it does not::

    herbal      "what does Stibroot treat?"                             names its herb: one document
    described   "What is the use of the first winner of the Velt Prize?"   only describes its herb: two
    two-step    "Who is the mayor of the origin of Stibroot?"           names its herb, asks of its city: two

The wrong options are what other documents say in the same place, and first of all what the right document says
elsewhere: an ailment that the herb makes worse, where the one that it treats is asked for.
"""

import random
from dataclasses import replace

from .build import Fact, World, build_world
from .questions import Asked, lettered, word_question
from .relations import BY_SUBJECT, HERBAL, Relation

SIZES = {"herb": 100, "prize": 100, "city": 80, "person": 60, "river": 40}


def _won_by_herbs() -> Relation:
    """As people win prizes, without the statement that calls the winner a person."""
    first = next(relation for relation in BY_SUBJECT["prize"] if relation.name == "first winner")
    spoken = tuple(statement for statement in first.statements if "person" not in statement)
    return replace(first, object="herb", statements=spoken)


RELATIONS = {
    "herb": HERBAL,
    "prize": (_won_by_herbs(),),
    "city": BY_SUBJECT["city"],
    "person": tuple(relation for relation in BY_SUBJECT["person"] if relation.object != "prize"),
    "river": BY_SUBJECT["river"],
}


def build_herbal(seed: int, sizes: dict[str, int] | None = None) -> World:
    """The herbal world of ``seed``; ``sizes`` as `build_world`'s, all types of `SIZES`."""
    return build_world(f"herbal {seed}", SIZES if sizes is None else sizes, RELATIONS)


def herbal_sets(world: World, count: int = 200) -> dict[str, list[Asked]]:
    """The three sets, of ``count`` questions each, or of as many as the world holds; no text occurs twice."""
    herbs = world.by_type["herb"]
    cities = [herb.facts["origin"] for herb in herbs if "origin" in herb.facts]
    winners = [fact for prize in world.by_type["prize"] for fact in prize.facts.values()]
    proofs = {
        "herbal": [[fact] for herb in herbs for fact in herb.facts.values()],
        "described": _onward(winners),
        "two-step": _onward(cities),
    }
    sets = {}
    for name, pool in proofs.items():
        rng = random.Random(f"{name} {world.seed}")
        chosen = rng.sample(pool, min(count, len(pool)))
        # of chains, the mini model reads the rigid form with options
        kind = "nq" if name == "herbal" else "2wiki"
        sets[name] = [_choice(world, word_question(kind, proof, rng), rng) for proof in chosen]
    return sets


def _onward(firsts: list[Fact]) -> list[list[Fact]]:
    """Every chain of two facts that begins with one of ``firsts``."""
    return [[fact, last] for fact in firsts if fact.bridge for last in fact.bridge.facts.values()]


def _choice(world: World, asked: Asked, rng: random.Random) -> Asked:
    last = asked.proof[-1]
    name, kind = last.relation.name, last.relation.object
    elsewhere = [fact.value for fact in last.subject.facts.values() if fact.relation.object == kind]
    alike = [e.facts[name].value for e in world.by_type[last.subject.type] if name in e.facts]
    rng.shuffle(alike)
    wrong = [value for value in dict.fromkeys(elsewhere + alike) if value != asked.answer]
    return lettered(asked, wrong[:3], rng)
