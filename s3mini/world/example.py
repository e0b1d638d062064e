"""Somebody's data: a small fresh world as a folder of text files and a table of questions (notebook 06)."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

from ..runs.stages import atomic_dir, atomic_write
from .build import SIZES, build_world
from .questions import ask

SHARE = 12  # of the mini world's size
KINDS = ("nq", "hotpotqa", "2wiki", "musique")


def write_example(seed: int, folder: str | Path, questions: int = 200) -> tuple[Path, Path]:
    """Write ``documents/<title>.txt`` and ``questions.csv`` below ``folder``; returns both. The same bytes everywhere.

    Raises:
        ValueError: the small world holds too few different questions.
    """
    folder = Path(folder)
    world = build_world(f"example {seed}", {kind: size // SHARE for kind, size in SIZES.items()})
    with atomic_dir(folder / "documents") as documents:
        for document in world.documents:
            (documents / f"{document.title}.txt").write_text(document.text + "\n", encoding="utf-8")
    rng = random.Random(f"example {seed}")
    asked: dict[str, str] = {}
    for _ in range(500 * questions):
        if len(asked) == questions:
            break
        found = ask(KINDS[len(asked) % len(KINDS)], world, rng.choice(world.entities), rng)
        if found is not None:
            asked.setdefault(found.text, found.answer)
    if len(asked) < questions:
        raise ValueError(f"this world holds only {len(asked)} questions of {questions}: ask for fewer")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["question", "answer"])
    writer.writerows(asked.items())
    return folder / "documents", atomic_write(folder / "questions.csv", table.getvalue())
