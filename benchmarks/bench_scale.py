"""Record how indexes grow from 1,000 to 1,000,000 documents, for notebook 08; takes some minutes and 6 GB of disk.

    python benchmarks/bench_scale.py [--profile mini] [--sizes 1000 10000 100000 1000000] [--out FILE]

Nothing else should run on the machine: the record says how busy it was ("load"). Written to
``data/mini/results/scaling.json`` unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from s3mini.classroom.scale import PARTS, RECORD, SIZES, measure_scale, projection_rows
from s3mini.profile import ROOT, load_profile
from s3mini.report.tables import rows_table
from s3mini.retrieval import DenseRetriever, open_retriever
from s3mini.runs.machine import cap_threads
from s3mini.runs.stages import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / RECORD)
    given = parser.parse_args()
    profile = load_profile(given.profile)
    cap_threads(profile.threads)
    dense = open_retriever(profile, "dense", cache=False)
    assert isinstance(dense, DenseRetriever)
    result = measure_scale(profile, dense, given.sizes, given.parts, given.seed, tell=print)
    sizes = " ".join(map(str, given.sizes))
    result = {
        "command": f"python benchmarks/bench_scale.py --profile {profile.name} --sizes {sizes}",
        **result,
    }
    atomic_write(given.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(rows_table(projection_rows(result)).text)
    print(given.out)


if __name__ == "__main__":
    main()
