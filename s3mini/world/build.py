"""A seeded fictional encyclopedia: entities, facts, and the documents that state them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..records import Document
from .names import NAMES
from .relations import BY_SUBJECT, Relation

SIZES = {
    "person": 1000, "film": 380, "book": 300, "band": 200, "company": 200, "university": 130,
    "city": 260, "river": 100, "prize": 110,
}  # fmt: skip
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
    sentence: str = ""

    @property
    def bridge(self) -> Entity | None:
        """The entity from which a chain can go on: the value's, if a phrase can stand for it."""
        return self.target if self.relation.phrases else None


@dataclass(slots=True, eq=False)
class Entity:
    id: str
    type: str
    name: str
    title: str
    facts: dict[str, Fact] = field(default_factory=dict)
    document: Document = field(init=False)

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
        return [entity.document for entity in self.entities]


def _state(fact: Fact, rng: random.Random) -> None:
    """Word the fact and give it to its subject."""
    fact.sentence = rng.choice(fact.relation.statements).format(s=fact.subject.name, o=fact.value)
    fact.subject.facts[fact.relation.name] = fact


def build_world(
    seed: int | str,
    sizes: dict[str, int] | None = None,
    relations: Mapping[str, Sequence[Relation]] = BY_SUBJECT,
) -> World:
    """The world of ``seed``: the same on every machine.

    ``sizes`` overrides ``SIZES``, entities by type; ``relations`` are those that each type can stand in.

    Raises:
        ValueError: more entities of a type than there are names.
    """
    rng = random.Random(f"world {seed}")
    by_type: dict[str, list[Entity]] = {}
    for kind, count in (SIZES if sizes is None else sizes).items():
        if count > len(NAMES[kind]):
            raise ValueError(
                f"the inventory holds {len(NAMES[kind])} names of type {kind!r}, {count} are asked for: lower its size"
            )
        by_type[kind] = [Entity("", kind, name, name) for name in rng.sample(NAMES[kind], count)]
    for book in by_type.get("book", ()):
        if by_type.get("film") and rng.random() < NAMESAKES:
            book.name = rng.choice(by_type["film"]).name
            book.title = f"{book.name} (novel)"
    entities = [entity for group in by_type.values() for entity in group]
    rng.shuffle(entities)
    for number, entity in enumerate(entities):
        entity.id = str(number)

    for entity in entities:
        usable = [r for r in relations[entity.type] if r.object in by_type or r.object in LEAVES]
        for relation in rng.sample(usable, min(len(usable), rng.randint(3, 4))):
            if relation.name in entity.facts:  # a spouse set from the other side
                continue
            target = None
            if relation.object in by_type:
                target = rng.choice(by_type[relation.object])
                if target is entity or (relation.name == "spouse" and "spouse" in target.facts):
                    continue
                value = target.name
            elif relation.object == "year":
                value = str(rng.randint(*YEARS))
            else:
                value = rng.choice(NAMES[relation.object])
            _state(Fact(entity, relation, value, target), rng)
            if relation.name == "spouse" and target is not None:
                _state(Fact(target, relation, entity.name, entity), rng)

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
        candidate = rng.choice(pool or world.entities)
        if candidate not in golds and candidate not in chosen:
            chosen.append(candidate)
    return chosen
