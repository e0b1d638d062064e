"""A toy world for evaluation: naive RAG's toys, and a searcher that finds the right document once trained.

Run as a script it evaluates with a slow generator, so that a test can kill it half-way::

    S3MINI_ROOT=DIR python tests/toys/evaluation_toys.py DIR SECONDS_PER_BATCH
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rag_toys import TOWNS, ToyBench, ToyGenerator, make_world, toy_profile

from s3mini.profile import Profile
from s3mini.records import Document, Episode, Hit, Question, Turn

METHODS = ("direct", "rag-dense", "s3-untrained", "s3", "oracle")


class ToyEvaluation(ToyBench):
    """Counts tokens by white space; its episodes search once and keep one document of two.

    The trained searcher keeps the town's own document, the untrained one the other.
    """

    def __init__(self, profile: Profile, generator: ToyGenerator, seed: int = 0) -> None:
        super().__init__(profile, generator)
        self.seed = seed

    def count_tokens(self, documents: Sequence[Document]) -> int:
        return sum(len(document.text.split()) for document in documents)

    def prompt_tokens(self, question: Question, documents: Sequence[Document]) -> int:
        return self.count_tokens(documents) + len(question.question.split())

    def episodes(self, protocol: str, trained: bool, questions: Sequence[Question]) -> list[Episode]:
        self.checkpoint(protocol, trained)
        return [self._episode(question, trained) for question in questions]

    def _episode(self, question: Question, trained: bool) -> Episode:
        town = TOWNS.index(question.question.rstrip("?").split()[-1])
        right, wrong = (self.documents[f"d{i % len(TOWNS):02}"] for i in (town, town + 1))
        kept = right if trained else wrong
        query = f"the river at {TOWNS[town]}"
        turns = (
            Turn(f"<query>{query}</query>", query, False, (), (Hit(right, 2.0), Hit(wrong, 1.0)), True),
            Turn("<important_info>[1]</important_info>", None, True, (kept.id,), (), True),
        )
        return Episode(
            question, (1, 2), (3, 4, 5, 6), (1, 1, 0, 1), (-0.1, -0.1, 0.0, -0.1), turns,
            (Hit(wrong, 1.0),), (kept,), "complete",
        )  # fmt: skip


def make_evaluation(root: Path) -> Profile:
    """The toy world with a "trained searcher" of seed 0 in the place where training leaves it."""
    make_world(root)
    return evaluation_profile()


def evaluation_profile() -> Profile:
    return toy_profile(
        **{"data.train_sets": ["nq"], "evaluation.methods": list(METHODS), "searcher.path": "model"}
    )


def main() -> None:
    from s3mini.evaluation import evaluate

    root, pause = Path(sys.argv[1]), float(sys.argv[2])
    profile = evaluation_profile()
    bench = ToyEvaluation(profile, ToyGenerator(root / "asked.log", pause))
    bench._searcher = {"s3": root / "model"}
    evaluate(profile, bench=bench, progress=False)


if __name__ == "__main__":
    main()
