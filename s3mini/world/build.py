"""A seeded fictional encyclopedia: entities, facts, and the documents that state them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..records import Document
from .names import NAMES
from .relations import BY_SUBJECT, Relation

SIZES = {
    "person": 1000, "film": 380, "book": 300, "band": 200, "company": 200, "university": 130,
    "city": 260, "river": 100, "prize": 110,
}  # fmt: skip
FACTS_PER_DOCUMENT = (3, 4)
NAMESAKES = 0.06  # share of novels that carry the title of a film
YEARS = (1850, 2019)
LEAVES = ("year", "mountain", "sea", "ailment", "compound", "city")  # values that need no document


@dataclass(slots=True)
class Fact:
    """``subject`` stands in ``relation`` to ``value``; ``target`` is the value's entity, if it has a document."""

    subject: Entity
    relation: Relation
    value: str
    target: Entity | None
    sentence: str


@dataclass(slots=True, eq=False)
class Entity:
    id: str
    type: str
    name: str
    title: str
    facts: dict[str, Fact] = field(default_factory=dict)
    document: Document | None = None

    def words(self) -> list[str]:
        """The parts of the name by which it can be confused with a neighbour's."""
        return [w for w in self.name.split() if w not in ("The", "with", "River")]


@dataclass(slots=True)
class World:
    """Entities in document order; ``by_word`` finds those whose names share a word."""

    seed: str
    entities: list[Entity]
    by_type: dict[str, list[Entity]]
    by_word: dict[str, list[Entity]]
    mentions: dict[str, list[Entity]]  # entity id -> entities whose documents mention it

    @property
    def documents(self) -> list[Document]:
        return [entity.document for entity in self.entities if entity.document is not None]


def _names(kind: str, count: int, rng: random.Random) -> list[str]:
    """``count`` distinct names of one type.

    Raises:
        ValueError: the inventory holds fewer.
    """
    if count > len(NAMES[kind]):
        raise ValueError(
            f"the inventory holds {len(NAMES[kind])} names of type {kind!r}, {count} are asked for: lower its size"
        )
    return rng.sample(NAMES[kind], count)


def leaf_value(kind: str, rng: random.Random) -> str:
    """A value that has no document."""
    return str(rng.randint(*YEARS)) if kind == "year" else rng.choice(NAMES[kind])


def _state(relation: Relation, subject: str, value: str, rng: random.Random) -> str:
    return rng.choice(relation.statements).format(s=subject, o=value)


def build_world(seed: int | str, sizes: dict[str, int] | None = None) -> World:
    """The world of ``seed``: the same on every machine.

    ``sizes`` overrides the number of entities by type (``SIZES``).
    """
    rng = random.Random(f"world {seed}")
    sizes = SIZES if sizes is None else sizes
    by_type: dict[str, list[Entity]] = {}
    for kind, count in sizes.items():
        by_type[kind] = [Entity("", kind, name, name) for name in _names(kind, count, rng)]
    for book in by_type.get("book", ()):
        if by_type.get("film") and rng.random() < NAMESAKES:
            book.name = rng.choice(by_type["film"]).name
            book.title = f"{book.name} (novel)"
    entities = [entity for group in by_type.values() for entity in group]
    rng.shuffle(entities)
    for number, entity in enumerate(entities):
        entity.id = str(number)

    for entity in entities:
        usable = [r for r in BY_SUBJECT[entity.type] if r.object in by_type or r.object in LEAVES]
        chosen = rng.sample(usable, min(len(usable), rng.randint(*FACTS_PER_DOCUMENT)))
        for relation in chosen:
            if relation.name in entity.facts:  # a spouse set from the other side
                continue
            target = None
            if relation.object in by_type:
                target = rng.choice(by_type[relation.object])
                if target is entity or (relation.name == "spouse" and "spouse" in target.facts):
                    continue
            value = target.name if target else leaf_value(relation.object, rng)
            sentence = _state(relation, entity.name, value, rng)
            entity.facts[relation.name] = Fact(entity, relation, value, target, sentence)
            if relation.name == "spouse" and target is not None:
                back = _state(relation, target.name, entity.name, rng)
                target.facts["spouse"] = Fact(target, relation, entity.name, entity, back)

    by_word: dict[str, list[Entity]] = {}
    mentions: dict[str, list[Entity]] = {}
    for entity in entities:
        facts = list(entity.facts.values())
        rng.shuffle(facts)
        entity.facts = {fact.relation.name: fact for fact in facts}
        entity.document = Document(entity.id, entity.title, " ".join(fact.sentence for fact in facts))
        for word in entity.words():
            by_word.setdefault(word, []).append(entity)
        for fact in facts:
            if fact.target is not None:
                mentions.setdefault(fact.target.id, []).append(entity)
    return World(str(seed), entities, by_type, by_word, mentions)


def distractors(world: World, golds: Sequence[Entity], count: int, rng: random.Random) -> list[Entity]:
    """``count`` entities that a retriever could confuse with ``golds``: namesakes, backlinks, same type."""
    chosen: list[Entity] = []
    seen = {id(e) for e in golds}
    for _ in range(20 * count):
        if len(chosen) == count:
            break
        gold, kind = rng.choice(golds), rng.random()
        if kind < 0.45:
            pool = world.by_word.get(rng.choice(gold.words()), [])
        elif kind < 0.75:
            pool = world.mentions.get(gold.id, [])
        else:
            pool = world.by_type[gold.type]
        candidate = rng.choice(pool) if pool else rng.choice(world.entities)
        if id(candidate) not in seen:
            seen.add(id(candidate))
            chosen.append(candidate)
    return chosen
