"""Drills that come before whole documents: lists of names, and statements that only their subject tells apart.

A model that reads whole documents from the start settles for the relation and never looks at the subject (right as
often as chance, measured, after 8 M tokens); here that earns nothing.
"""

from __future__ import annotations

import random

from ..protocols.wordings import render_documents
from ..records import Document
from ..world.build import Fact, World
from ..world.questions import Asked
from ..world.relations import RELATIONS
from .samples import Sample, Segment

FILLERS = ("is", "was", "of", "by", "in", "the", "to", "that", "where")


def drill(world: World, rng: random.Random, count: int) -> Sample:
    """A list or statements, at random."""
    return name_list(world, rng, count) if rng.random() < 0.5 else binding(world, rng, count)


def name_list(world: World, rng: random.Random, count: int, plain: bool = False) -> Sample:
    """``2 * count`` names with fillers between, then parts of the list to go on with, forwards or backwards.

    ``plain``: forwards only, and hardly any fillers.
    """
    names = [entity.name for entity in rng.sample(world.entities, 2 * count)]
    gap = rng.choice((0, 0, 0, 1)) if plain else rng.choice((0, 1, 1, 1, 2, 2, 3))

    def between() -> str:
        return "".join(f" {rng.choice(FILLERS)}" for _ in range(gap))

    sample = Sample("".join(f" {name}{between()}" for name in names) + "\n", [], [])
    back = not plain and rng.random() < 0.5
    if back:  # what stood before: descriptions name the object and ask for the subject
        names.reverse()
    for _ in range(count // 2):
        first = rng.randrange(len(names) - 1)
        branch: list[Segment] = [(" before" if back else " after", 0.0), (f" {names[first]}", 0.0)]
        for name in names[first + 1 : first + rng.randint(2, 8)]:
            branch += [(between(), 0.0)] if gap else []
            branch.append((f" {name}", 1.0))
        sample.branches.append(branch)
        sample.kinds.append(f"{'back' if back else 'list'} {gap}")
    return sample


def binding(world: World, rng: random.Random, count: int, branches: int = 16) -> Sample:
    """One relation stated of ``count`` subjects, then repeated, restated, reversed, or found by title."""
    facts: list[Fact] = []
    while len(facts) < 2:
        relation = rng.choice(RELATIONS)
        holders = [e for e in world.by_type[relation.subject] if relation.name in e.facts]
        facts = [e.facts[relation.name] for e in rng.sample(holders, min(count, len(holders)))]
    titled = rng.random() < 0.5
    alone = [Document("", f.subject.title, f.sentence) for f in facts]
    trunk = render_documents(alone) if titled else "".join(f" {f.sentence}" for f in facts)
    sample = Sample(trunk + "\n", [], [])
    form = rng.choice(("repeated", "restated", "reversed", *(("numbered",) if titled else ())))
    values = [fact.value for fact in facts]
    for number, fact in rng.sample(list(enumerate(facts, 1)), min(branches, len(facts))):
        if form == "reversed" and values.count(fact.value) > 1:
            continue
        if form == "numbered":  # which document: what selecting takes
            sample.branches.append([(f" {fact.subject.title} Doc", 0.0), (f" {number}", 1.0)])
        else:
            described = fact.value if form == "reversed" else fact.subject.name
            stated = Asked("", fact.value, [fact], [described]).restated(0)
            head, tail = (fact.sentence if form == "repeated" else stated).split(described, 1)
            sample.branches.append([(f" {head}{described}", 0.0), (tail, 1.0)])
        sample.kinds.append("binding")
    return sample
