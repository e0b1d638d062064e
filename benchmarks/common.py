"""What the benchmarks share: a median of five with its best and worst, and the record that ``make bench`` gathers.

    python benchmarks/common.py        # writes the table of benchmarks/README.md from benchmarks/record.json

A benchmark makes rows with `row`, prints them and, where it was given ``--record``, puts them into the record. A row holds
its unit, the goal, ours, the machine's limit measured in the same run (None where there is none) and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from s3mini.runs.machine import machine, versions
from s3mini.runs.stages import atomic_write

HERE = Path(__file__).parent
RECORD, TABLE = HERE / "record.json", HERE / "README.md"
REPEATS = 5

Row = dict[str, Any]


def timed(
    run: Callable[[], object], repeats: int = REPEATS, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of each of ``repeats`` runs, by the clock, or of the processor by ``time.process_time``."""
    seconds = []
    for _ in range(repeats):
        begun = clock()
        run()
        seconds.append(clock() - begun)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of the values, the least and the most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def row(
    unit: str,
    goal: str,
    ours: Sequence[float],
    limit: Sequence[float] | None = None,
    less_is_more: bool = False,
) -> Row:
    """One line of the record: ``goal``, repeated measurements of ours and of the machine's limit, in the same ``unit``.

    ``ratio``: ours by the limit, round by round, the median; of what should be small (``less_is_more``) the limit by ours.
    """
    made: Row = {"unit": unit, "goal": goal, "ours": spread(ours), "limit": None, "ratio": None}
    if limit is not None:
        pairs = zip(*((limit, ours) if less_is_more else (ours, limit)), strict=True)
        made |= {"limit": spread(limit), "ratio": statistics.median(one / other for one, other in pairs)}
    return made


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help=f"put the rows into {RECORD.name}")
    return parser


def tell(script: str, rows: Mapping[str, Row], record: bool = False) -> None:
    """Print the rows; ``record``: put them into the record in place of the script's earlier ones."""
    for name, made in rows.items():
        limit = ""
        if made["limit"]:
            limit = f", the machine's limit {_shown(made['limit'])} (ratio {made['ratio']:.2f})"
        print(f"{name}: {_shown(made['ours'])} {made['unit']}, goal {made['goal']}{limit}", flush=True)
    if record:
        kept = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        about = {"machine": machine(), "load": load, "versions": versions()}
        kept[Path(script).stem] = {**about, "rows": dict(rows)}
        atomic_write(RECORD, json.dumps(kept, indent=1, sort_keys=True) + "\n")


def table(record: Mapping[str, Any]) -> str:
    """The record in Markdown: a row per figure."""
    head = "| Benchmark | Unit | Goal | Ours: median (least – most) | The machine's limit | Ratio |"
    lines = [head, "|---|---|---|---|---|---|"]
    for script, kept in sorted(record.items()):
        for name, made in kept["rows"].items():
            limit = _shown(made["limit"]) if made["limit"] else "–"
            ratio = f"{made['ratio']:.2f}" if made["ratio"] is not None else "–"
            cells = (
                f"`{script}`: {name}",
                made["unit"],
                made["goal"],
                _shown(made["ours"]),
                limit,
                ratio,
            )
            lines.append(f"| {' | '.join(cells)} |")
    for machine_ in dict.fromkeys(_machine(kept) for kept in record.values()):
        lines += ["", machine_]
    return "\n".join(lines)


def _shown(values: Mapping[str, float]) -> str:
    return f"{values['median']:,.4g} ({values['least']:,.4g} – {values['most']:,.4g})"


def _machine(kept: Mapping[str, Any]) -> str:
    about = kept["machine"]
    return f"Measured on: {about['processor']}, {about['cores']} cores, {about['memory_gib']:g} GiB."


def main() -> None:
    """Write the table."""
    about = "# Speed\n\nWritten by `python benchmarks/common.py` from `record.json`, which `make bench` measures.\n\n"
    atomic_write(TABLE, about + table(json.loads(RECORD.read_text(encoding="utf-8"))) + "\n")
    print(TABLE)


if __name__ == "__main__":
    main()
