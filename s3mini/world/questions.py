"""Questions over a world, in the manner of the paper's six sets; with options, in that of MIRAGE.

Each carries its proof: the documents, the sentences in order, and what must be looked up at each hop
(``needs``), so that the reading skill of the mini model can be taught and recall can be measured.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..choices import LETTERS, with_options
from .build import Entity, Fact, World
from .relations import Relation, the

COMPARED = {
    "birthplace": "Were {a} and {b} born in the same city?",
    "alma mater": "Did {a} and {b} study at the same school?",
    "director": "Do {a} and {b} have the same director?",
    "headquarters": "Are {a} and {b} based in the same city?",
    "river": "Do {a} and {b} lie on the same river?",
    "home city": "Are {a} and {b} from the same city?",
}
"""Relations on which two entities are compared, and how."""
CALLED = {"book": "novel", "university": "school"}  # what a type is called in sentences


@dataclass(slots=True)
class Asked:
    """A question with its answer and proof.

    ``needs[i]`` is what the lookup of ``proof[i]`` looks for: its subject's name, unless that is only described.
    """

    kind: str
    text: str
    answer: str
    proof: list[Fact]
    needs: list[str]
    options: tuple[str, ...] = ()

    @property
    def golds(self) -> list[Entity]:
        """The entities whose documents prove the answer, each once, in order."""
        return list(dict.fromkeys(fact.subject for fact in self.proof))

    def restated(self, step: int, known: bool = True) -> str:
        """The fact of one step in plain words of its own, or what of it is missing.

        "The spouse of Mira Velt is Ran Tuld."; where the subject was only described, the other way round: "The film
        with the director Mira Velt is The Amber Lantern."
        """
        fact = self.proof[step]
        name, subject = fact.relation.name, fact.subject
        if self.needs[step] == subject.name:
            return f"The {name} of {the(subject.name, subject.type)} is {fact.value if known else 'missing'}."
        kind = CALLED.get(subject.type, subject.type)
        return f"The {kind} with the {name} {fact.value} is {subject.name if known else 'missing'}."


def _put(template: str, subject: str) -> str:
    """The template about ``subject``, a name or a phrase ("the director of The Amber Lantern")."""
    return template.format(s=subject).replace("the the ", "the ")


def _rigid(relation: Relation, subject: str) -> str:
    return f"{'Who' if relation.object == 'person' else 'What'} is the {relation.name} of {subject}?"


def word_question(kind: str, proof: list[Fact], rng: random.Random) -> Asked:
    """The question of one kind whose answer ``proof`` leads to, in order.

    Raises:
        KeyError: unknown kind.
    """
    first, last = proof[0], proof[-1]
    subject = the(first.subject.name, first.subject.type)
    answer, needs = last.value, [fact.subject.name for fact in proof]
    if kind == "nq":  # as people type: no capitals, no question mark
        text = _put(rng.choice(last.relation.questions), last.subject.name)
    elif kind == "popqa":
        text = _rigid(last.relation, subject)
    elif kind == "2wiki":  # "Who is the spouse of the director of X?"
        text = _rigid(last.relation, f"the {first.relation.name} of {subject}")
    elif kind == "comparison":  # of two facts of one relation (the filter drops it from training)
        text = COMPARED[first.relation.name].format(a=first.subject.name, b=last.subject.name)
        answer = "yes" if first.value == last.value else "no"
    elif kind in ("triviaqa", "hotpotqa", "musique"):
        if kind == "triviaqa":  # never named: described by another fact of its document
            phrase = needs[0] = rng.choice(first.relation.described).format(o=first.value)
        else:  # only the first is named, the others by way of it
            phrase = first.subject.name
            for fact in proof[:-1]:
                phrase = _put(rng.choice(fact.relation.phrases), phrase)
        text = _put(rng.choice(last.relation.questions), phrase)
        text = text[0].upper() + text[1:] + "?"
    else:
        raise KeyError(kind)
    return Asked(kind, text, answer, proof, needs)


def lettered(asked: Asked, values: Sequence[str], rng: random.Random) -> Asked:
    """The question with four lettered options, three of ``values`` among them; its answer is the right one's letter."""
    pool = [value for value in values if value != asked.answer]
    options = [asked.answer, *rng.sample(pool, 3)]
    rng.shuffle(options)
    letter, text = LETTERS[options.index(asked.answer)], with_options(f"{asked.text.rstrip('?')}?", options)
    return Asked("choice", text, letter, asked.proof, asked.needs, tuple(options))


def descriptions(world: World, fact: Fact) -> list[Fact]:
    """The subject's other facts that describe it alone: no other entity of its type has that value."""
    kind = fact.subject.type

    def alone(other: Fact) -> bool:
        name = other.relation.name
        rivals = world.mentions.get(other.target.id, []) if other.target else world.by_type[kind]
        values = [e.facts[name].value for e in rivals if e.type == kind and name in e.facts]
        return values.count(other.value) == 1

    return [
        other
        for other in fact.subject.facts.values()
        if other is not fact and other.relation.described and alone(other)
    ]


def near_namesakes(world: World, entity: Entity) -> int:
    """How many other entities of the type share a word of the name."""
    return len({e for w in entity.words() for e in world.by_word[w] if e.type == entity.type}) - 1


def ask(kind: str, world: World, start: Entity, rng: random.Random) -> Asked | None:
    """A question of one set about ``start``; None when its facts allow none. Errors of `word_question`."""
    if not start.facts:
        return None
    fact = rng.choice(list(start.facts.values()))
    proof = [fact]
    if kind == "popqa" and (start.id in world.mentions or near_namesakes(world, start) < 2):
        return None  # it asks of the long tail: mentioned nowhere else, easily confused
    if kind == "triviaqa":
        others = descriptions(world, fact)
        proof = [rng.choice(others), fact] if others else []
    elif kind == "comparison":
        name, rivals = fact.relation.name, world.by_type[start.type]
        pool = [e.facts[name] for e in rivals if e is not start and name in e.facts and name in COMPARED]
        same = [other for other in pool if other.value == fact.value]
        chosen = same if same and rng.random() < 0.5 else pool
        proof = [fact, rng.choice(chosen)] if chosen else []
    elif kind in ("hotpotqa", "2wiki", "musique"):
        while proof and len(proof) < (3 if kind == "musique" else 2):
            bridge, back = proof[-1].bridge, proof[-1].subject  # no chain leads straight back
            onward = [f for f in bridge.facts.values() if f.target is not back] if bridge else []
            proof = [*proof, rng.choice(onward)] if onward else []
        if len(proof) == 3 and start in (proof[2].subject, proof[2].target):
            return None
    return word_question(kind, proof, rng) if proof else None
