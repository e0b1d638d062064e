"""Fuzzed inputs in blocks, each in a process of its own: a block that is done is found again, and one whose process
dies (a library that reads past its memory) is a finding, by its number, and not the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from noise import At, Outcome, forks
from tqdm.auto import tqdm

from s3mini.runs.stages import JsonlLog

Run = Callable[[range, int, Path, At], Outcome]
SIZE = 500


def run(count: int, seed: int, folder: Path, *, part: str, work: Run) -> Outcome:
    """``count`` inputs of a part, block by block."""
    outcome = Outcome()
    with JsonlLog(folder / "blocks.jsonl") as log, tqdm(total=count, desc=part, unit="input") as bar:
        begin = 0
        while begin < count:
            numbers = range(begin, min(count, begin + SIZE))
            kept = next((record for record in log.records if record["begin"] == begin), None)
            if kept is None:
                made, end = block(part, work, numbers, seed, folder)
                kept = {"begin": begin, "end": end, "counts": made.counts, "findings": made.findings}
                log.append(kept)
            outcome.counts.update(kept["counts"])
            outcome.findings += kept["findings"]
            bar.update(kept["end"] - begin)
            begin = kept["end"]
    return outcome


def block(part: str, work: Run, numbers: range, seed: int, folder: Path) -> tuple[Outcome, int]:
    """What came of the numbers, and where to go on: behind them, or behind the one that its process did not survive."""
    processes = forks()
    receiver, sender = processes.Pipe(duplex=False)
    at = processes.Value("q", numbers.start)
    process = processes.Process(target=_work, args=(sender, at, work, numbers, seed, folder), daemon=True)
    process.start()
    sender.close()
    outcome = None
    with suppress(EOFError):
        outcome = receiver.recv()
    process.join()
    if outcome is not None:
        return outcome, numbers.stop
    died = at.value
    outcome, _ = (
        block(part, work, range(numbers.start, died), seed, folder)
        if died > numbers.start
        else (Outcome(), 0)
    )
    outcome.found("crashed", f"{part} {died}", f"the process died (exit code {process.exitcode})")
    return outcome, died + 1


def _work(
    sender: Connection, at: Synchronized[int], work: Run, numbers: range, seed: int, folder: Path
) -> None:
    def tell(number: int) -> None:
        at.value = number

    sender.send(work(numbers, seed, folder, tell))
