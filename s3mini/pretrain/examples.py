"""What one pretraining sequence is, and the reading skill every role shares.

An `Example` is a *trunk* (the documents, read once) and *branches* that each go on from the trunk and
see nothing of one another: several questions about the same documents cost the documents once. A
branch is a list of ``(text, weight)`` segments; weight 1 marks the model's own words. Segments are
tokenised one by one, exactly as the episode engine does with the model's and the environment's text.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..protocols.wordings import Message
from ..records import Document
from ..world.build import Entity, Fact, World, distractors
from ..world.questions import Asked, descriptions, word_question

END = "<|im_end|>"
UNKNOWN = "unknown"
Segment = tuple[str, float]


@dataclass(slots=True)
class Example:
    """``kinds`` names each branch's role and question kind, for the training record."""

    trunk: str
    branches: list[list[Segment]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def add(self, kind: str, *branch: Segment) -> None:
        self.branches.append(list(branch))
        self.kinds.append(kind)


def chat(messages: Iterable[Message]) -> str:
    """ChatML text of the messages and the opening of the assistant's turn (the shipped chat template)."""
    body = "".join(f"<|im_start|>{m['role']}\n{m['content']}{END}\n" for m in messages)
    return body + "<|im_start|>assistant\n"


def documents(entities: Iterable[Entity]) -> list[Document]:
    return [entity.document for entity in entities]


def read(asked: Asked, shown: Sequence[Entity]) -> tuple[str, str | None]:
    """The proof as far as ``shown`` holds it: (evidence sentences, what is missing or None).

    This is the one skill under all roles: restate each fact, then end, or name what has to be found. The
    restatement names relation and subject first, whatever the document's wording, so that all that is left to
    find in the documents is one word: a model this small cannot plan a sentence whose end decides its beginning.
    """
    evidence = ""
    for step, (fact, need) in enumerate(zip(asked.proof, asked.needs, strict=True)):
        known = fact.subject in shown
        evidence += f" {asked.restated(step, known)}"
        if not known:
            return evidence, need
    return evidence, None


def thought(asked: Asked, shown: Sequence[Entity]) -> str:
    return f"<think>{read(asked, shown)[0]}</think>"


def solved(asked: Asked, shown: Sequence[Entity]) -> str:
    """The generator's reply: evidence as reasoning, then the bare answer."""
    return f"{thought(asked, shown)} {UNKNOWN if read(asked, shown)[1] else asked.answer}"


def asked_within(world: World, shown: Sequence[Entity], hops: int, rng: random.Random) -> Asked | None:
    """A random question of at most ``hops`` facts whose first fact lies in ``shown``."""
    start = rng.choice(shown)
    if not start.facts:
        return None
    fact = rng.choice(list(start.facts.values()))
    depth = min(hops, rng.choice((1, 1, 2, 2, 3, 3))) if hops > 1 else 1
    if depth > 1:
        proof = _chain(shown, depth, rng)
        kind = "musique" if depth == 3 else "hotpotqa" if proof and rng.random() < 0.55 else "2wiki"
    elif (others := descriptions(world, fact)) and rng.random() < 0.6:
        kind, proof = "triviaqa", [rng.choice(others), fact]
    else:
        kind, proof = ("nq" if rng.random() < 0.6 else "popqa"), [fact]
    return word_question(kind, proof, rng) if proof else None


def _chain(shown: Sequence[Entity], depth: int, rng: random.Random) -> list[Fact]:
    """``depth`` linked facts, the first ``depth - 1`` of which mostly lead to documents in ``shown``; or none."""
    starts = [fact for entity in shown for fact in entity.facts.values() if fact.bridge]
    inside = [fact for fact in starts if fact.bridge in shown]
    chain = [rng.choice(inside if inside and rng.random() < 0.9 else starts)] if starts else []
    while chain and len(chain) < depth:
        onward = list(chain[-1].target.facts.values()) if chain[-1].target else []
        onward = [fact for fact in onward if fact.target not in (chain[-1].subject, chain[0].subject)]
        if len(chain) + 1 < depth:
            onward = [fact for fact in onward if fact.bridge]
            onward = [fact for fact in onward if fact.bridge in shown] or onward
        if not onward:
            return []
        chain.append(rng.choice(onward))
    return chain


def shelf(world: World, count: int, hops: int, rng: random.Random) -> list[Entity]:
    """``count`` entities to read about: linked chains of up to ``hops`` documents among hard distractors."""
    chosen: list[Entity] = []
    dense = rng.random() < 0.7  # one chain and its like, as a retriever would return
    while len(chosen) < (1 if dense else max(1, (count + 1) // 2)):
        entity: Entity | None = rng.choice(world.entities)
        for _ in range(hops):
            if entity is None or len(chosen) == count:
                break
            if entity not in chosen:
                chosen.append(entity)
            if dense and rng.random() < 0.3:
                break
            bridges = [fact.bridge for fact in entity.facts.values() if fact.bridge]
            entity = rng.choice(bridges) if bridges else None
    around = [rng.choice(chosen)] if dense else chosen
    if dense:  # of one type, they share relations: only the subject tells their facts apart
        more = [e for e in rng.sample(world.by_type[around[0].type], count) if e not in chosen]
        chosen += more[: rng.randint((count - len(chosen)) // 2, max(0, count - len(chosen)))]
    chosen += distractors(world, around, count - len(chosen), rng)
    rng.shuffle(chosen)
    return chosen
