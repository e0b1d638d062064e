"""Fuzzed inputs in blocks, each in a process of its own, two at a time: a block that is done is found again, and one whose
process dies (a library that reads past its memory) is a finding, by its number, and not the end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from threading import Lock

from forked import forks, kill, own_seconds, side_by_side, start, wait
from noise import At, Outcome
from tqdm.auto import tqdm

from s3mini.runs.stages import JsonlLog

Run = Callable[[range, int, Path, At], Outcome]
SIZE = 500


def run(count: int, seed: int, folder: Path, *, part: str, work: Run) -> Outcome:
    """``count`` inputs of a part, block by block."""
    blocks = [range(begin, min(count, begin + SIZE)) for begin in range(0, count, SIZE)]
    lock = Lock()

    def tried(numbers: range) -> None:
        made = block(part, work, numbers, seed, folder / f"from-{numbers.start}")
        made.cpu += own_seconds()
        with lock:
            log.append({"begin": numbers.start, **vars(made)})
            bar.update(len(numbers))

    with JsonlLog(folder / "blocks.jsonl") as log, tqdm(total=count, desc=part, unit="input") as bar:
        known = {record["begin"] for record in log.records}
        bar.update(sum(len(numbers) for numbers in blocks if numbers.start in known))
        side_by_side(tried, [numbers for numbers in blocks if numbers.start not in known])
        outcome = Outcome()
        for kept in sorted(log.records, key=lambda record: record["begin"]):
            outcome.add(Outcome(Counter(kept["counts"]), kept["findings"], kept["cpu"]))
    return outcome


def block(part: str, work: Run, numbers: range, seed: int, folder: Path) -> Outcome:
    """What came of the numbers; one that its process did not survive is left out, and told."""
    processes = forks()
    receiver, sender = processes.Pipe(duplex=False)
    at = processes.Value("q", numbers.start)
    process = start(_work, sender, at, work, numbers, seed, folder)
    sender.close()
    outcome: Outcome | None = None
    try:
        wait(process, receiver.poll)
        with suppress(EOFError):
            outcome = receiver.recv()
        wait(process)  # to its own end
    finally:
        kill(process)
    if outcome is not None:
        return outcome
    died, outcome = at.value, Outcome()
    outcome.found("crashed", f"{part} {died}", f"the process died (exit code {process.exitcode})")
    for rest in (range(numbers.start, died), range(died + 1, numbers.stop)):
        if rest:
            outcome.add(block(part, work, rest, seed, folder))
    return outcome


def _work(
    sender: Connection, at: Synchronized[int], work: Run, numbers: range, seed: int, folder: Path
) -> None:
    def tell(number: int) -> None:
        at.value = number

    logging.disable(logging.WARNING)  # each odd input is one
    outcome = work(numbers, seed, folder, tell)
    outcome.cpu = time.process_time()
    sender.send(outcome)
