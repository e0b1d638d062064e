"""What survives: kills at random moments, fuzzed model outputs, fuzzed import files, fuzzed requests to the retrieval server.

    make torture                                            all of it: 22 minutes of CPU, two processes side by side
    make torture TORTURE="--kills 5 --stages import --outputs 200 --imports 0 --requests 0"    some of it; 0 leaves a part out

Resumable: each part that is done is found, and the kills go on behind the last one. The same seed draws the same inputs and the
same moments (as shares of what a stage takes here). Every finding is printed; exit code 1 if there is any. ``--record`` writes the record.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "toys")]

import blocks  # noqa: E402
import fuzz_imports  # noqa: E402
import fuzz_outputs  # noqa: E402
import fuzz_requests  # noqa: E402
import kills  # noqa: E402
from forked import WORKERS  # noqa: E402
from noise import Outcome  # noqa: E402

import s3mini  # noqa: E402
from s3mini.corpus import fingerprint  # noqa: E402
from s3mini.profile import load_profile  # noqa: E402
from s3mini.runs.machine import THREAD_VARIABLES, cores, machine, versions  # noqa: E402
from s3mini.runs.stages import Stage, atomic_write  # noqa: E402

COUNTS = {"outputs": 10_000, "imports": 5_000, "requests": 5_000, "kills": 200}


def done(
    part: str, count: int, seed: int, work: Callable[[int, int, Path], Outcome], more: Any = None
) -> dict[str, Any]:
    """A part's row of the record: found, or made now."""
    code = [path for folder in (HERE, Path(s3mini.__file__).parent) for path in sorted(folder.rglob("*.py"))]
    settings = {"count": count, "seed": seed, "more": more}
    with Stage(load_profile("smoke", name="torture"), part, {"code": fingerprint(code)}, settings) as stage:
        if not stage.done:
            outcome = work(count, seed, stage.dir / "work")
            counts = dict(sorted(outcome.counts.items()))
            stage.finish(cpu_seconds=round(outcome.cpu), counts=counts, findings=outcome.findings)
    kept = stage.manifest
    return {"count": count, "seconds": round(kept["seconds"]), **kept["facts"]}


def main(given: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part, count in COUNTS.items():
        parser.add_argument(f"--{part}", type=int, default=count)
    parser.add_argument(
        "--stages", nargs="+", choices=kills.PLANS, default=list(kills.PLANS), help="what is killed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=None)
    asked = parser.parse_args(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(max(1, cores() // WORKERS)))
    fuzz = {"outputs": fuzz_outputs.run, "imports": fuzz_imports.run, "requests": fuzz_requests.run}
    work = {part: partial(blocks.run, part=part, work=one) for part, one in fuzz.items()}
    work["kills"] = partial(kills.run, stages=asked.stages)
    record: dict[str, Any] = {
        "command": " ".join(["make torture", *([f'TORTURE="{" ".join(given)}"'] if given else [])]),
        "seed": asked.seed, "versions": versions(), "machine": machine(), "parts": {},
    }  # fmt: skip
    for part, count in ((part, getattr(asked, part)) for part in COUNTS):
        if count:
            more = asked.stages if part == "kills" else None
            record["parts"][part] = row = done(part, count, asked.seed, work[part], more)
            print(
                f"{part}: {count} in {row['seconds']} s ({row['cpu_seconds']} s of CPU); {', '.join(f'{v} {k}' for k, v in row['counts'].items())}"
            )
            for found in row["findings"]:
                print(f"  {found['kind']}: {found['where']}: {found['what']}")
    total = sum(len(row["findings"]) for row in record["parts"].values())
    print(
        f"{total} lost, doubled, mis-scored, misread or crashed"
        if total
        else "nothing lost, doubled, mis-scored, misread or crashed"
    )
    if asked.record is not None:
        atomic_write(asked.record, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
