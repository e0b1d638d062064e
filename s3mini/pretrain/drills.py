"""Drills that come before whole documents, and stay among them: lists of names, statements that only their subject
tells apart, and labels: which document a name belongs to.

A model that reads whole documents from the start settles for the relation and never looks at the subject (right as
often as chance, measured, after 8 M tokens); here that earns nothing.
"""

import random
from collections import Counter
from collections.abc import Sequence

from ..protocols.wordings import render_documents
from ..records import Document
from ..world.build import Entity, Fact, World
from ..world.questions import Asked
from ..world.relations import RELATIONS
from .examples import Example, Segment

STYLES = (("Doc {} (Title: {})", "\n"), ("({}) {}", " "), ("{} {}", " "), ("{}: {}", "\n"))
ASKED = "</think>\n<important_info>"
CUES = ((" Doc", ""), (" is", ""), (ASKED, "["))
"""Between a name and its label: what stands there in a document, and before a selection."""
FILLERS = ("is", "was", "of", "by", "in", "the", "to", "that", "where")


def drill(world: World, rng: random.Random, count: int, only: str = "") -> Example:
    """A list, labels or statements, of ``count`` items, at random; ``only`` "lists", or "labels" mostly.

    Labels earn nothing until the model keeps, at each name, what stood before it; mixed with all else they
    stay at chance, alone they take half a million tokens.
    """
    if only == "lists":
        return name_list(world, rng, count, plain=True)
    dice = rng.random()
    if only != "labels" and dice < 0.25:
        return name_list(world, rng, count)
    return (label if dice < (0.6 if only == "labels" else 0.5) else binding)(world, rng, count)


def name_list(world: World, rng: random.Random, count: int, plain: bool = False) -> Example:
    """``2 * count`` names with fillers between, then parts of the list to go on with, forwards or backwards.

    ``plain``: forwards only, and hardly any fillers.
    """
    names = [entity.name for entity in rng.sample(world.entities, 2 * count)]
    gap = rng.choice((0, 0, 0, 1)) if plain else rng.choice((0, 1, 1, 1, 2, 2, 3))
    example = Example("".join(f" {name}{_fillers(gap, rng)}" for name in names) + "\n")
    back = not plain and rng.random() < 0.5
    if back:  # what stood before: descriptions name the object and ask for the subject
        names.reverse()
    for _ in range(count // 2):
        first = rng.randrange(len(names) - 1)
        branch: list[Segment] = [(" before" if back else " after", 0.0), (f" {names[first]}", 0.0)]
        for name in names[first + 1 : first + rng.randint(2, 8)]:
            branch += [(_fillers(gap, rng), 0.0)] if gap else []
            branch.append((f" {name}", 1.0))
        example.add(f"{'back' if back else 'list'} {gap}", *branch)
    return example


def _fillers(count: int, rng: random.Random) -> str:
    return "".join(f" {rng.choice(FILLERS)}" for _ in range(count))


def label(world: World, rng: random.Random, count: int) -> Example:
    """Names with a number or letter before each, then the label of each name: which document."""
    letters = rng.random() < 0.4
    names = [entity.name for entity in rng.sample(world.entities, 4 if letters else count)]
    labels = list("ABCD") if letters else [str(n) for n in range(1, count + 1)]
    if rng.random() < 0.5:  # not to be counted
        rng.shuffle(labels)
    style, between = rng.choice(STYLES)
    pairs = list(zip(names, labels, strict=True))
    example = Example(f" {between.join(style.format(mark, name) for name, mark in pairs)}\n")
    before, after = rng.choice(CUES)
    if before != ASKED:
        before += _fillers(rng.randint(0, 3), rng)
    for name, mark in rng.sample(pairs, len(pairs)):
        kind = "label selected" if before == ASKED else "label"
        example.add(kind, (f" {name}{before}", 0.0), (f"{after or ' '}{mark}", 1.0))
    return example


def binding(world: World, rng: random.Random, count: int, branches: int = 16) -> Example:
    """One relation stated of ``count`` subjects, then repeated, restated, reversed, or found by title."""
    facts: list[Fact] = []
    while len(facts) < 2:
        relation = rng.choice(RELATIONS)
        holders = [e for e in world.by_type[relation.subject] if relation.name in e.facts]
        facts = [e.facts[relation.name] for e in rng.sample(holders, min(count, len(holders)))]
    titled = rng.random() < 0.7
    alone = [Document("", f.subject.title, f.sentence) for f in facts]
    trunk = render_documents(alone) if titled else "".join(f" {f.sentence}" for f in facts)
    example = Example(trunk + "\n")
    form = rng.choice(("repeated", "restated", "reversed", *(("numbered", "selected") * 2 * titled)))
    values = [fact.value for fact in facts]
    for number, fact in rng.sample(list(enumerate(facts, 1)), min(branches, len(facts))):
        if form != "reversed" or values.count(fact.value) == 1:
            example.add(form if form in ("numbered", "selected") else "binding", *lookup(fact, number, form))
    return example


def lookup(fact: Fact, number: int, form: str) -> list[Segment]:
    """One thing to find about document ``number``, which states ``fact``; see `binding` for the forms."""
    if form == "numbered":  # which document: what selecting takes
        return [(f" {fact.subject.title} Doc", 0.0), (f" {number}", 1.0)]
    if form == "selected":
        return [(f"<think> {fact.subject.name}{ASKED}", 0.0), (f"[{number}]</important_info>", 1.0)]
    described = fact.value if form == "reversed" else fact.subject.name
    stated = Asked("", "", fact.value, [fact], [described]).restated(0)
    head, tail = (fact.sentence if form == "repeated" else stated).split(described, 1)
    return [(f" {head}{described}", 0.0), (tail, 1.0)]


def lookups(shown: Sequence[Entity], rng: random.Random, count: int = 4) -> list[tuple[str, list[Segment]]]:
    """``count`` lookups in whole documents, with their kinds: by number, or from an object back to its subject."""
    stated = Counter((f.relation.name, f.value) for entity in shown for f in entity.facts.values())
    names = Counter(entity.name for entity in shown)
    drawn = []
    for number, entity in rng.sample(list(enumerate(shown, 1)), min(count, len(shown))):
        form = rng.choice(("numbered", "selected", "reversed", "reversed"))
        facts = list(entity.facts.values())
        if form == "reversed":
            facts = [fact for fact in facts if stated[fact.relation.name, fact.value] == 1]
        if facts and names[entity.name] == 1:
            drawn.append((form, lookup(rng.choice(facts), number, form)))
    return drawn
