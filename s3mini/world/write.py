"""What a world is written as: question sets without overlap, in the formats of wiki-18 and FlashRAG; or somebody's data."""

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

from ..corpus import write_corpus, write_questions
from ..records import Question
from ..runs.stages import atomic_dir, atomic_write
from .build import SIZES, World, build_world
from .herbal import build_herbal, herbal_sets
from .questions import Asked, ask

SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wiki", "musique")
TRAIN_SETS = ("nq", "hotpotqa")
SPLITS = {"train": 700, "dev": 100, "test": 200}
COMPARISONS = 0.05  # share of yes/no questions in hotpotqa


def _record(asked: Asked, name: str, split: str, number: int) -> Question:
    metadata = {
        "set": name,
        "split": split,
        "type": asked.kind,
        "hops": len(asked.proof),
        "gold_ids": [entity.id for entity in asked.golds],
        "evidence": [fact.sentence for fact in asked.proof],
    }
    if asked.options:
        metadata |= {"options": list(asked.options), "stem": asked.text.split(" Options: ")[0]}
    return Question(f"{name}-{split}-{number}", asked.text, (asked.answer,), metadata)


def _different(
    world: World, count: int, kind: Callable[[int], str], rng: random.Random, seen: set[str]
) -> list[Asked]:
    """``count`` questions, none of a text in ``seen``; ``kind(i)`` is called at each try for the i-th."""
    drawn: list[Asked] = []
    for _ in range(500 * count):
        if len(drawn) == count:
            break
        name = kind(len(drawn))
        asked = ask(name, world, rng.choice(world.entities), rng)
        if asked is not None and asked.text not in seen:
            seen.add(asked.text)
            drawn.append(asked)
    if len(drawn) < count:
        raise ValueError(
            f"this world holds only {len(drawn)} {name} questions of {count}: make it larger, or ask for fewer"
        )
    return drawn


def _question_set(world: World, name: str, splits: dict[str, int]) -> dict[str, list[Question]]:
    rng, seen = random.Random(f"questions {name} {world.seed}"), set[str]()

    def kind(_: int) -> str:
        return "comparison" if name == "hotpotqa" and rng.random() < COMPARISONS else name

    by_split = {}
    for split, count in splits.items():
        if split != "train" or name in TRAIN_SETS:
            drawn = _different(world, count, kind, rng, seen)
            by_split[split] = [_record(asked, name, split, i) for i, asked in enumerate(drawn)]
    return by_split


def question_sets(world: World, splits: dict[str, int] | None = None) -> dict[str, dict[str, list[Question]]]:
    """``{set: {split: questions}}``; no question text occurs twice in a set, train only for `TRAIN_SETS`.

    Raises:
        ValueError: the world is too small for that many different questions.
    """
    return {name: _question_set(world, name, SPLITS if splits is None else splits) for name in SETS}


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
    herbs = build_herbal(seed)
    write_corpus(out / "herbal" / "corpus.jsonl", herbs.documents)
    for name, choices in herbal_sets(herbs).items():
        records = [_record(asked, name, "test", number) for number, asked in enumerate(choices)]
        write_questions(out / "herbal" / "questions" / name / "test.jsonl", records)
    atomic_write(out / "world.json", json.dumps({"seed": seed, "documents": len(world.documents)}) + "\n")
    return out


def write_example(seed: int, folder: str | Path, questions: int = 200) -> tuple[Path, Path]:
    """Somebody's data: a small fresh world as ``documents/<title>.txt`` and ``questions.csv`` below ``folder``.

    Returns both paths; the same bytes everywhere.

    Raises:
        ValueError: the small world holds too few different questions.
    """
    folder = Path(folder)
    world = build_world(f"example {seed}", {kind: size // 12 for kind, size in SIZES.items()})
    with atomic_dir(folder / "documents") as documents:
        for document in world.documents:
            (documents / f"{document.title}.txt").write_text(document.text + "\n", encoding="utf-8")
    kinds = ("nq", "hotpotqa", "2wiki", "musique")
    rng = random.Random(f"example {seed}")
    asked = _different(world, questions, lambda number: kinds[number % len(kinds)], rng, set())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["question", "answer"])
    writer.writerows((one.text, one.answer) for one in asked)
    return folder / "documents", atomic_write(folder / "questions.csv", table.getvalue())
