"""Naive RAG and evaluation of the toy world by Ray's actors, in a root where `evaluation_toys.make_evaluation` has been::

    S3MINI_ROOT=DIR python tests/toys/ray_toys.py DIR precompute|evaluate SECONDS_PER_BATCH [fail]

Each actor writes its process id below DIR/workers when it opens its bench; with "fail" its generator dies of a typed error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evaluation_toys import ToyEvaluation, evaluation_profile
from rag_toys import ToyGenerator

from s3mini.evaluation import evaluate
from s3mini.rag import precompute
from s3mini.runs.ray import open_executor


def open_bench(root: Path, pause: float, fail_after: int | None = None) -> ToyEvaluation:
    """An actor's bench; its prompts go to a log of its own process."""
    import torch

    (root / "workers").mkdir(exist_ok=True)
    (root / "workers" / str(os.getpid())).write_text(
        f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}"
    )
    generator = ToyGenerator(root / f"asked-{os.getpid()}.log", pause, fail_after)
    bench = ToyEvaluation(evaluation_profile(), generator)
    bench._searcher = {"s3": root / "model"}
    return bench


def main(arguments: Sequence[str]) -> None:
    root, command, pause = Path(arguments[0]), arguments[1], float(arguments[2])
    opened = partial(open_bench, root, pause, 1 if "fail" in arguments else None)
    home = ToyEvaluation(evaluation_profile(), ToyGenerator(root / "home.log", fail_after=0))
    home._searcher = {"s3": root / "model"}
    with open_executor("ray", opened, 2) as executor:
        if command == "precompute":
            precompute(home.profile, bench=home, progress=False, executor=executor)
        else:
            evaluate(home.profile, bench=home, progress=False, executor=executor)


if __name__ == "__main__":
    main(sys.argv[1:])
