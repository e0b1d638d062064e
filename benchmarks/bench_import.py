"""How fast one's own documents come in: 10,000 JSON lines of 600 characters, cut into passages (``s3mini own``).

    python benchmarks/bench_import.py [--documents 10000] [--record]

The limit is what cannot be left out: the tokenizer alone over the same texts, as it measures how long a passage may be.
The first import of a fresh process is told as well, its imports of libraries included, and how its memory grows with
four times the documents.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import REPEATS, Row, options, row, tell, timed

from s3mini.corpus import read_corpus
from s3mini.owndata import import_data
from s3mini.owndata.passages import Cutter
from s3mini.profile import Profile, load_profile

CHARACTERS = 600
FRESH = """
import re, sys, time
begun = time.perf_counter()
from s3mini.owndata import import_data
from s3mini.profile import load_profile
import_data(load_profile("mini", name=sys.argv[2]), sys.argv[1], progress=False)
seconds = time.perf_counter() - begun
# not ru_maxrss: that begins with what the parent had
print(seconds, int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def made_up(path: Path, documents: int) -> list[str]:
    """Write documents of sentences of the mini world, and return their texts."""
    draw = random.Random(0)
    world = [d.text for d in read_corpus(load_profile("mini").resolve("data/mini/corpus.jsonl"))]
    texts = [" ".join(draw.choices(world, k=CHARACTERS // 50))[:CHARACTERS] for _ in range(documents)]
    lines = [json.dumps({"id": f"d{i}", "title": f"Title {i}", "text": text}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return texts


def fresh(path: Path, name: str) -> tuple[float, float]:
    """Seconds and MiB of a process that imports the file."""
    told = subprocess.run(
        [sys.executable, "-c", FRESH, str(path), name], check=True, capture_output=True, text=True
    )
    seconds, mib = map(float, told.stdout.split())
    return seconds, mib


def measure(documents: int, folder: Path) -> dict[str, Row]:
    """The rows of the record."""
    profile = load_profile("mini", name="bench-import")
    path = folder / "documents.jsonl"
    texts = made_up(path, documents)
    begins = Cutter.of(profile).begins
    assert begins is not None

    def again(profile: Profile = profile) -> None:
        shutil.rmtree(profile.build, ignore_errors=True)
        import_data(profile, path, progress=False)

    def tokenizer_alone() -> None:
        for at in range(0, len(texts), 256):
            begins(texts[at : at + 256])

    again()  # warm up
    ours = [documents / seconds for seconds in timed(again)]
    processor = [documents / seconds for seconds in timed(again, clock=time.process_time)]
    limit = [documents / seconds for seconds in timed(tokenizer_alone)]
    first, small = [], []
    for _ in range(REPEATS):
        shutil.rmtree(profile.build, ignore_errors=True)
        seconds, mib = fresh(path, profile.name)
        first.append(documents / seconds)
        small.append(mib)
    long = folder / "long.jsonl"
    made_up(long, 4 * documents)
    shutil.rmtree(profile.build, ignore_errors=True)
    _, large = fresh(long, profile.name)
    shutil.rmtree(profile.build, ignore_errors=True)
    return {
        "importing": row("documents/s", "≥ 4,000", ours, limit),
        "importing, per second of processor": row("documents/s", "≥ 4,000", processor),
        "importing, in a fresh process": row("documents/s", "≥ 2,000", first),
        "memory, four times the documents": row("MiB more", "≤ 20", [large - mib for mib in small]),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--documents", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tell(__file__, measure(given.documents, Path(folder)), given.record)


if __name__ == "__main__":
    main()
