"""From the shell to the answer: ``s3mini ask``, and ``s3mini --help``, each a process of its own.

    python benchmarks/bench_ask.py [--profile mini] [--record]

Told are seconds by the clock, and the processor's (user and system), which other load on the machine moves less. The limit
is a process that imports torch and ends. The indexes are built first where there are none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from common import REPEATS, Row, options, row, tell

QUESTION = "Who is the rector of the school where Modus Fugold studied?"


def spent(*command: str) -> tuple[float, float]:
    """Seconds by the clock and of the processor that Python spends on a command."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, processor


def measure(profile: str) -> dict[str, Row]:
    """The rows of the record; the commands take turns."""
    cli = ("-m", "s3mini.cli")
    ways = {
        "ask": (*cli, "ask", QUESTION, "--profile", profile),
        "torch": ("-c", "import torch"),
        "help": (*cli, "--help"),
        "python": ("-c", "pass"),
    }
    spent(*ways["ask"])  # builds what is missing
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, command in ways.items():
            took[name].append(spent(*command))
    clock, processor = ({name: [run[i] for run in runs] for name, runs in took.items()} for i in (0, 1))
    return {
        "ask, from shell to answer": row("s", "≤ 4", clock["ask"], clock["torch"], True),
        "ask, processor time": row("s", "≤ 4", processor["ask"], processor["torch"], True),
        "--help": row("s", "≤ 0.8", clock["help"], clock["python"], True),
        "--help, processor time": row("s", "≤ 0.8", processor["help"], processor["python"], True),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--profile", default="mini")
    given = parser.parse_args()
    tell(__file__, measure(given.profile), given.record)


if __name__ == "__main__":
    main()
