"""What a GRPO step is made of, at ``mini``, beside a program that keeps one core busy, and alone.

    python benchmarks/bench_neighbour.py [--record]

Each way is a process of its own, which does the work several times: episodes of test questions, and gradients. As a limit serve,
beside the other program, the same alone, and alone, threads that never sleep while they wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common import REPEATS, Row, options, row, tell

QUESTIONS, BATCH, TOKENS, UPDATES = 64, 16, 400, 2
AWAKE = {"GOMP_SPINCOUNT": "300000"}  # libgomp's own, where nothing is said


def work() -> list[float]:
    """Seconds of each time."""
    from s3mini.profile import load_profile
    from s3mini.runs.machine import cap_threads

    profile = load_profile("mini")
    cap_threads()
    import torch

    from s3mini.bench import Bench
    from s3mini.corpus import load_questions
    from s3mini.models.local import load_model

    bench, questions = Bench(profile), load_questions(profile, "hotpotqa", "test")[:QUESTIONS]
    model = load_model(bench.profile.searcher, shared=False).model
    tokens = torch.randint(10, 1000, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))

    def once() -> float:
        began = time.perf_counter()
        bench.episodes("s3", False, questions)
        for _ in range(UPDATES):
            model.zero_grad()
            model(input_ids=tokens, labels=tokens).loss.backward()
        return time.perf_counter() - began

    once()
    return [once() for _ in range(REPEATS)]


def measured(**environment: str) -> list[float]:
    """`work` in a process of its own."""
    told = subprocess.run(
        [sys.executable, __file__, "--work"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    seconds: list[float] = json.loads(told.stdout.splitlines()[-1])
    return seconds


@contextmanager
def neighbour() -> Iterator[None]:
    """A program that uses one core."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--work", action="store_true", help="what each of the processes does")
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work()))
        return
    awake, alone = measured(**AWAKE), measured()
    with neighbour():
        beside, beside_awake = measured(), measured(**AWAKE)
    rows: dict[str, Row] = {
        "a step's work, alone": row("s", "ratio ≥ 0.97", alone, awake, less_is_more=True),
        "a step's work, beside a busy program": row("s", "ratio ≥ 0.48", beside, alone, less_is_more=True),
        "the same, threads that do not sleep": row("s", "–", beside_awake, alone, less_is_more=True),
    }
    tell(__file__, rows, given.record)


if __name__ == "__main__":
    main()
