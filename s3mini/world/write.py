"""Question sets of a world, split without overlap, written in the formats of wiki-18 and FlashRAG."""

from __future__ import annotations

import json
import random
from pathlib import Path

from ..corpus import write_corpus, write_questions
from ..records import Question
from ..runs.stages import atomic_write
from .build import World, build_world
from .names import NAMES
from .questions import Asked, ask

SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wiki", "musique")
TRAIN_SETS = ("nq", "hotpotqa")
SPLITS = {"train": 700, "dev": 100, "test": 200}
COMPARISONS = 0.05  # share of yes/no questions in hotpotqa
HERBS = 100


def _record(asked: Asked, name: str, kind: str, split: str, number: int) -> Question:
    metadata = {
        "set": name,
        "split": split,
        "type": kind,
        "hops": len(asked.proof),
        "gold_ids": [entity.id for entity in asked.golds],
        "evidence": [fact.sentence for fact in asked.proof],
    }
    if asked.options:
        metadata["options"] = list(asked.options)
        metadata["stem"] = asked.text.split(" Options: ")[0]
    return Question(f"{name}-{split}-{number}", asked.text, (asked.answer,), metadata)


def question_sets(world: World, splits: dict[str, int] | None = None) -> dict[str, dict[str, list[Question]]]:
    """``{set: {split: questions}}``; no question text occurs twice in a set, train only for `TRAIN_SETS`.

    Raises:
        ValueError: the world is too small for that many different questions.
    """
    splits = SPLITS if splits is None else splits
    sets: dict[str, dict[str, list[Question]]] = {}
    for name in SETS:
        rng = random.Random(f"questions {name} {world.seed}")
        seen: set[str] = set()
        sets[name] = {}
        for split, count in splits.items():
            if split == "train" and name not in TRAIN_SETS:
                continue
            questions: list[Question] = []
            for _ in range(500 * count):
                if len(questions) == count:
                    break
                kind = "comparison" if name == "hotpotqa" and rng.random() < COMPARISONS else name
                asked = ask(kind, world, rng.choice(world.entities), rng)
                if asked is None or asked.text in seen:
                    continue
                seen.add(asked.text)
                questions.append(_record(asked, name, kind, split, len(questions)))
            if len(questions) < count:
                raise ValueError(
                    f"this world holds only {len(questions)} {name}-{split} questions of {count}: make it larger"
                )
            sets[name][split] = questions
    return sets


def herbal_questions(world: World, count: int = 200) -> list[Question]:
    """Multiple-choice questions on the herbal corpus; the golden answer is the option's letter."""
    rng = random.Random(f"herbal {world.seed}")
    facts = [fact for entity in world.entities for fact in entity.facts.values()]
    questions: list[Question] = []
    for fact in rng.sample(facts, min(count, len(facts))):
        stem = rng.choice(fact.relation.questions).format(s=fact.subject.name)
        asked = with_options(Asked(stem, fact.value, [fact], [fact.subject.name]), fact.relation.object, rng)
        questions.append(_record(asked, "herbal", "choice", "test", len(questions)))
    return questions


def with_options(asked: Asked, kind: str, rng: random.Random) -> Asked:
    """The question with four lettered options; its answer is the letter of the right one."""
    pool = [value for value in NAMES[kind] if value != asked.answer]
    options = [asked.answer, *rng.sample(pool, 3)]
    rng.shuffle(options)
    listed = " ".join(f"({letter}) {value}" for letter, value in zip("ABCD", options, strict=True))
    letter = "ABCD"[options.index(asked.answer)]
    return Asked(f"{asked.text}? Options: {listed}", letter, asked.proof, asked.needs, tuple(options))


def make_world(
    seed: int, out: Path, splits: dict[str, int] | None = None, sizes: dict[str, int] | None = None
) -> Path:
    """Write the world of ``seed`` to ``out`` and return it; the same bytes on every machine."""
    out = Path(out)
    world = build_world(seed, sizes)
    write_corpus(out / "corpus.jsonl", world.documents)
    for name, by_split in question_sets(world, splits).items():
        for split, questions in by_split.items():
            write_questions(out / "questions" / name / f"{split}.jsonl", questions)
    herbs = build_world(f"herbal {seed}", {"herb": HERBS})
    write_corpus(out / "herbal" / "corpus.jsonl", herbs.documents)
    write_questions(out / "herbal" / "questions" / "herbal" / "test.jsonl", herbal_questions(herbs))
    atomic_write(out / "world.json", json.dumps({"seed": seed, "documents": len(world.documents)}) + "\n")
    return out
