"""What one pretraining sequence is, and the reading skill every role shares.

A `Sample` is a *trunk* (the documents, read once) and *branches* that each go on from the trunk and
see nothing of one another: several questions about the same documents cost the documents once. A
branch is a list of ``(text, weight)`` segments; weight 1 marks the model's own words. Segments are
tokenised one by one, exactly as the episode engine does with the model's and the environment's text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..protocols.wordings import Message
from ..records import Document
from ..world.build import Entity, Fact, World, distractors
from ..world.questions import (
    Asked,
    ask_2wiki,
    ask_hotpotqa,
    ask_musique,
    ask_nq,
    ask_popqa,
    ask_triviaqa,
    unique_description,
)

END = "<|im_end|>"
UNKNOWN = "unknown"
Segment = tuple[str, float]


@dataclass(slots=True)
class Sample:
    """``kinds`` names each branch's role and question kind, for the training record."""

    trunk: str
    branches: list[list[Segment]]
    kinds: list[str]


def chat(messages: Iterable[Message]) -> str:
    """ChatML text of the messages and the opening of the assistant's turn (the shipped chat template)."""
    body = "".join(f"<|im_start|>{m['role']}\n{m['content']}{END}\n" for m in messages)
    return body + "<|im_start|>assistant\n"


def documents(entities: Iterable[Entity]) -> list[Document]:
    return [e.document for e in entities if e.document is not None]


def read(asked: Asked, shown: Iterable[Entity]) -> tuple[str, str | None]:
    """The proof as far as ``shown`` holds it: (evidence sentences, what is missing or None).

    This is the one skill under all roles: restate each fact, then end, or name what has to be found. The
    restatement names relation and subject first, whatever the document's wording, so that all that is left to
    find in the documents is one word: a model this small cannot plan a sentence whose end decides its beginning.
    """
    seen = {e.id for e in shown}
    words: list[str] = []
    for step, (fact, need) in enumerate(zip(asked.proof, asked.needs, strict=True)):
        found = fact.subject.id in seen
        words.append(asked.restated(step, found))
        if not found:
            return " ".join(["", *words]), need
    return " ".join(["", *words]), None


def as_json(query: str) -> str:
    """The query as the JSON object of the protocol; the leading space keeps names on their usual tokens."""
    return json.dumps({"query": f" {query}"}, ensure_ascii=False)


def thought(asked: Asked, shown: Iterable[Entity]) -> str:
    return f"<think>{read(asked, shown)[0]}</think>"


def solved(asked: Asked, shown: Iterable[Entity]) -> str:
    """The generator's reply: evidence as reasoning, then the bare answer."""
    evidence, missing = read(asked, shown)
    return f"<think>{evidence}</think> {UNKNOWN if missing else asked.answer}"


def asked_within(
    world: World, shown: Sequence[Entity], hops: int, rng: random.Random
) -> tuple[str, Asked] | None:
    """A random question of at most ``hops`` facts whose first fact lies in ``shown``."""
    start = rng.choice(shown)
    if not start.facts:
        return None
    facts = list(start.facts.values())
    fact = rng.choice(facts)
    depth = min(hops, rng.choice((1, 1, 2, 2, 3, 3))) if hops > 1 else 1
    if depth == 1:
        others = [f for f in facts if f is not fact and unique_description(world, f)]
        if others and rng.random() < 0.6:
            return "triviaqa", ask_triviaqa(rng.choice(others), fact, rng)
        return ("nq", ask_nq(fact, rng)) if rng.random() < 0.6 else ("popqa", ask_popqa(fact))
    chain = _chain(shown, depth, rng)
    if chain is None:
        return None
    first, second, *third = chain
    if third:
        return "musique", ask_musique(first, second, third[0], rng)
    if rng.random() < 0.55:
        return "hotpotqa", ask_hotpotqa(first, second, rng)
    return "2wiki", ask_2wiki(first, second)


def _chain(shown: Sequence[Entity], depth: int, rng: random.Random) -> list[Fact] | None:
    """``depth`` linked facts, the first ``depth - 1`` of which lead to documents in ``shown``."""
    inside = {e.id for e in shown}
    starts = [f for e in shown for f in e.facts.values() if f.relation.phrases and f.target is not None]
    linked = [f for f in starts if f.target is not None and f.target.id in inside]
    chain = [rng.choice(linked if linked and rng.random() < 0.9 else starts)] if starts else []
    while chain and len(chain) < depth:
        target = chain[-1].target
        if target is None or not chain[-1].relation.phrases:
            return None
        onward = [
            f
            for f in target.facts.values()
            if f.target is not chain[-1].subject and f.target is not chain[0].subject
        ]
        if len(chain) + 1 < depth:
            onward = [f for f in onward if f.relation.phrases and f.target is not None]
            inner = [f for f in onward if f.target is not None and f.target.id in inside]
            onward = inner or onward
        if not onward:
            return None
        chain.append(rng.choice(onward))
    return chain or None


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
            linked = [f for f in entity.facts.values() if f.target is not None and f.relation.phrases]
            entity = rng.choice(linked).target if linked else None
    around = [rng.choice(chosen)] if dense else chosen
    if dense:  # of one type, they share relations: only the subject tells their facts apart
        more = [e for e in rng.sample(world.by_type[around[0].type], count) if e not in chosen]
        chosen += more[: rng.randint((count - len(chosen)) // 2, max(0, count - len(chosen)))]
    chosen += distractors(world, around, count - len(chosen), rng)
    rng.shuffle(chosen)
    return chosen
