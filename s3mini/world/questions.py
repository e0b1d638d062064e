"""Questions over a world, in the manner of the paper's six sets, and of MIRAGE for the herbal corpus.

Each carries its proof: the documents, the sentences in order, and what must be looked up at each hop
(``needs``), so that the reading skill of the mini model can be taught and recall can be measured.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from .build import Entity, Fact, World
from .relations import Relation

COMPARED = ("birthplace", "alma mater", "director", "headquarters", "river", "home city")
_SAME = {
    "birthplace": "Were {a} and {b} born in the same city?",
    "alma mater": "Did {a} and {b} study at the same school?",
    "director": "Do {a} and {b} have the same director?",
    "headquarters": "Are {a} and {b} based in the same city?",
    "river": "Do {a} and {b} lie on the same river?",
    "home city": "Are {a} and {b} from the same city?",
}


KINDS = {"book": "novel", "university": "school"}  # what a type is called in sentences


@dataclass(slots=True)
class Asked:
    """A question with its answer and proof. ``needs[i]`` is what the lookup of ``proof[i]`` looks for."""

    text: str
    answer: str
    proof: list[Fact]
    needs: list[str]
    options: tuple[str, ...] = field(default=())

    @property
    def golds(self) -> list[Entity]:
        """The entities whose documents prove the answer, each once, in order."""
        return list({id(f.subject): f.subject for f in self.proof}.values())

    def restated(self, step: int, found: bool = True) -> str:
        """The fact of one step in plain words of its own, or what of it is missing.

        "The spouse of Mira Velt is Ran Tuld."; where the subject was only described, the other way round: "The film
        with the director Mira Velt is The Amber Lantern."
        """
        fact = self.proof[step]
        name, subject = fact.relation.name, _the(fact.subject.name, fact.subject.type)
        if self.needs[step] == fact.subject.name:
            return f"The {name} of {subject} is {fact.value if found else 'missing'}."
        kind = KINDS.get(fact.subject.type, fact.subject.type)
        return f"The {kind} with the {name} {fact.value} is {fact.subject.name if found else 'missing'}."


def _cap(text: str) -> str:
    return text[0].upper() + text[1:] + "?"


def _what(relation: Relation) -> str:
    return "Who" if relation.object == "person" else "What"


def _the(name: str, kind: str) -> str:
    return f"the {name}" if kind in ("river", "prize") else name


def ask_nq(fact: Fact, rng: random.Random) -> Asked:
    """One fact, natural wording, no capitals and no question mark, as people type."""
    text = rng.choice(fact.relation.questions).format(s=fact.subject.name)
    return Asked(text, fact.value, [fact], [fact.subject.name])


def ask_popqa(fact: Fact) -> Asked:
    """One fact in a rigid template."""
    subject = _the(fact.subject.name, fact.subject.type)
    text = f"{_what(fact.relation)} is the {fact.relation.name} of {subject}?"
    return Asked(text, fact.value, [fact], [fact.subject.name])


def ask_triviaqa(by: Fact, fact: Fact, rng: random.Random) -> Asked:
    """One fact about an entity that is described by another fact of its document, never named."""
    described = rng.choice(by.relation.described).format(o=by.value)
    text = rng.choice(fact.relation.questions).format(s="{s}")
    text = text.replace("the {s}", "{s}").format(s=described)
    return Asked(_cap(text), fact.value, [by, fact], [described, fact.subject.name])


def ask_hotpotqa(first: Fact, second: Fact, rng: random.Random) -> Asked:
    """Two facts: the second is asked of an entity named only by way of the first (a bridge)."""
    phrase = rng.choice(first.relation.phrases).format(s=first.subject.name)
    text = rng.choice(second.relation.questions).replace("the {s}", "{s}").format(s=phrase)
    return Asked(_cap(text), second.value, [first, second], [first.subject.name, second.subject.name])


def ask_comparison(a: Fact, b: Fact) -> Asked:
    """A yes/no question on two facts of one relation (dropped from training by the filter)."""
    text = _SAME[a.relation.name].format(a=a.subject.name, b=b.subject.name)
    return Asked(text, "yes" if a.value == b.value else "no", [a, b], [a.subject.name, b.subject.name])


def ask_2wiki(first: Fact, second: Fact) -> Asked:
    """A rigid chain of two relations: "Who is the spouse of the director of X?"."""
    subject = _the(first.subject.name, first.subject.type)
    text = (
        f"{_what(second.relation)} is the {second.relation.name} of the {first.relation.name} of {subject}?"
    )
    return Asked(text, second.value, [first, second], [first.subject.name, second.subject.name])


def ask_musique(first: Fact, second: Fact, third: Fact, rng: random.Random) -> Asked:
    """Three facts in a chain, two of them bridges."""
    inner = rng.choice(first.relation.phrases).format(s=first.subject.name)
    outer = rng.choice(second.relation.phrases).replace("the {s}", "{s}").format(s=inner)
    text = rng.choice(third.relation.questions).replace("the {s}", "{s}").format(s=outer)
    proof = [first, second, third]
    return Asked(_cap(text), third.value, proof, [f.subject.name for f in proof])


def follow(fact: Fact, rng: random.Random) -> Fact | None:
    """A fact of the document that ``fact`` leads to, not leading straight back; None at a dead end."""
    if fact.target is None or not fact.relation.phrases:
        return None
    options = [f for f in fact.target.facts.values() if f.target is not fact.subject]
    return rng.choice(options) if options else None


def unique_description(world: World, fact: Fact) -> bool:
    """True when no other entity of the type has this value for this relation."""
    if not fact.relation.described:
        return False
    same = world.mentions.get(fact.target.id, []) if fact.target else world.by_type[fact.subject.type]
    name = fact.relation.name
    return (
        sum(
            e.type == fact.subject.type and name in e.facts and e.facts[name].value == fact.value
            for e in same
        )
        == 1
    )


def near_namesakes(world: World, entity: Entity) -> int:
    """How many other entities of the type share a word of the name."""
    others = {id(e) for w in entity.words() for e in world.by_word[w] if e.type == entity.type}
    return len(others) - 1


def ask(kind: str, world: World, start: Entity, rng: random.Random) -> Asked | None:
    """A question of one set about ``start``; None when its facts allow none.

    Raises:
        KeyError: unknown kind.
    """
    facts = list(start.facts.values())
    if not facts:
        return None
    fact = rng.choice(facts)
    if kind == "nq":
        return ask_nq(fact, rng)
    if kind == "popqa":  # the long tail: mentioned nowhere else, easily confused
        lonely = start.id not in world.mentions and near_namesakes(world, start) >= 2
        return ask_popqa(fact) if lonely else None
    if kind == "triviaqa":
        others = [f for f in facts if f is not fact and unique_description(world, f)]
        return ask_triviaqa(rng.choice(others), fact, rng) if others else None
    if kind == "comparison":
        if fact.relation.name not in COMPARED:
            return None
        pool = [e for e in world.by_type[start.type] if e is not start and fact.relation.name in e.facts]
        same = [e for e in pool if e.facts[fact.relation.name].value == fact.value]
        choice = rng.choice(same if same and rng.random() < 0.5 else pool) if pool else None
        return ask_comparison(fact, choice.facts[fact.relation.name]) if choice else None
    second = follow(fact, rng)
    if second is None:
        return None
    if kind == "hotpotqa":
        return ask_hotpotqa(fact, second, rng)
    if kind == "2wiki":
        return ask_2wiki(fact, second)
    if kind == "musique":
        third = follow(second, rng)
        chain = third is not None and third.subject is not start and third.target is not start
        return ask_musique(fact, second, third, rng) if third is not None and chain else None
    raise KeyError(kind)
