"""What all parts share: seeded draws, damage to texts, findings, a limit on the time that one input may take."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

At = Callable[[int], None]
"""Told the number of each input before it is tried."""
LONGEST = 60  # seconds for one input; a clear error takes none


@dataclass
class Outcome:
    """What a part counted, the CPU seconds it took, and what it found: ``kind`` (lost, doubled, mis-scored, misread, crashed: no
    clear error, or missed: it tried too little), ``where`` (how to get it again) and ``what``."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, str]] = field(default_factory=list)
    cpu: float = 0.0

    def found(self, kind: str, where: str, what: str) -> None:
        self.findings.append({"kind": kind, "where": where, "what": what[:300]})

    def add(self, other: Outcome) -> None:
        self.counts += other.counts
        self.findings += other.findings
        self.cpu += other.cpu

    def crashed(self, where: str, error: BaseException) -> None:
        self.found("crashed", where, f"{type(error).__name__}: {error}")


def nowhere(number: int) -> None:
    """Nobody wants to know."""


def drawn(seed: int, part: str, number: int) -> random.Random:
    """The random stream of one input: it hangs on nothing else."""
    return random.Random(f"{seed} {part} {number}")


STRANGE = [
    "\x00", "\n", "\r\n", "\t", "\u2028", "\ufeff", "\u200b", "\u0301", "é", "東京", "🍵", "‏שלום", "\\", "\\n", '"', "'",
    "“", "<", ">", "</", "[", "]", "{", "}", "(", ")", ",", ";", "|", ":", "=", "#", "&amp;", "%s", "-1", "1e400", "NaN",
    "None", "null", "...", "\ud800", "<|im_end|>", "<|endoftext|>", "[INST]", "<s>",
]  # fmt: skip
LONG = [" " * 50, "a" * 300, "[" * 60, "<think>" * 50, "1" * 5000]
WORDS = (
    "the river Sool passes Karst and Tarn before it meets sea a film directed by Orsa Velin in 1931".split()
)


def words(rng: random.Random, most: int = 9) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def mixed(rng: random.Random, pieces: Sequence[str], most: int = 12) -> str:
    """Pieces of a format, words and strange characters, in no order."""
    kinds = rng.choices((pieces, [words(rng, 3)], STRANGE, LONG), (60, 30, 20, 1), k=rng.randint(0, most))
    return "".join(rng.choice(kind) for kind in kinds)


def damaged(rng: random.Random, given: Any, pieces: Sequence[Any]) -> Any:
    """A text or bytes with one to four cuts, repeats, insertions or swaps."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted((rng.randint(0, len(given)), rng.randint(0, len(given))))
        b = min(b, a + 40)
        middle = {
            "cut": given[:0], "twice": given[a:b] * 2, "insert": rng.choice(pieces) + given[a:b], "swap": given[a:b][::-1],
        }[rng.choice(("cut", "twice", "insert", "insert", "swap"))]  # fmt: skip
        given = given[:a] + middle + given[b:]
    return given[: rng.randint(0, len(given))] if rng.random() < 0.1 else given


@contextmanager
def timed() -> Iterator[None]:
    """Raise TimeoutError in a block that takes too long."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
