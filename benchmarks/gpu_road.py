"""The road on a graphics card, beside the same road on a CPU: GRPO at mini, adapters in bfloat16, flat search, memory.

    python benchmarks/gpu_road.py [--steps 20] [--questions 200] [--record benchmarks/gpu_road.json]

Needs no network and nothing but the repository. It runs on a machine without a card, too, slower. Four parts:

mini     trains s3 as `s3mini train` does, in the precision of the recorded run; its curve, GenAcc and seconds stand beside those
         of ``data/mini/results/seed0.json``, which a CPU made
adapters two GRPO steps of LoRA in bfloat16: on the profile wiki's real model where ``s3mini download --profile wiki`` has put
         one, else on mini's. Tokens of the episodes a second, and the most memory taken beside `doctor`'s estimate
search   1,000,000 vectors of 384 numbers: FAISS on the card, where faiss-gpu is installed, against the CPU
machine  what it ran on
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3mini.bench import Bench
from s3mini.doctor.footprint import gpu_parts, total
from s3mini.evaluation import answer_sets
from s3mini.grpo import train
from s3mini.methods import METHODS
from s3mini.profile import ROOT, Profile, changed, load_profile
from s3mini.retrieval import build_index
from s3mini.runs.machine import cap_threads, machine
from s3mini.runs.stages import JsonlLog

RECORD = ROOT / "data/mini/results/seed0.json"
PARTS = ("seconds_rollout", "seconds_score", "seconds_update")


def curve(folder: Path) -> list[dict[str, Any]]:
    """The curve of a run."""
    with JsonlLog(folder / "curve.jsonl") as log:
        return list(log.records)


def seconds(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Median seconds a step of each part; the first step, which warms up, is left out where there are others."""
    return {part: round(float(np.median([s[part] for s in steps[1:] or steps])), 3) for part in PARTS}


def mini(steps: int, questions: int) -> dict[str, Any]:
    """s3 at `mini`, trained and evaluated here, beside the recorded run."""
    profile = changed(load_profile("mini"), {"name": "gpu-road", "data.test_limit": questions})
    build_index(profile, "dense")
    folder = train(changed(profile, {"grpo.steps": steps}), 0)
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    ours, theirs = curve(folder), recorded["training"]["s3-seed0"]["curve"][:steps]
    report: dict[str, Any] = {
        "seconds_a_step": seconds(ours),
        "seconds_a_step_recorded": seconds(theirs),
        "machine_recorded": recorded["machine"],
        "reward": [step["reward"] for step in ours],
        "reward_recorded": [step["reward"] for step in theirs],
    }
    bench, started = Bench(profile, 0, folder), time.perf_counter()
    for name, answers in answer_sets(bench, METHODS["s3"]).items():
        gen_acc = sum(answer["gen_acc"] for answer in answers) / len(answers)
        known = recorded["methods"]["s3"]["sets"][name]["gen_acc"]
        report.setdefault("gen_acc", {})[name] = {
            "here": round(gen_acc, 4),
            "recorded": known,
            "n": len(answers),
        }
    report["seconds_evaluation"] = round(time.perf_counter() - started, 1)
    return report


def real_model() -> Profile:
    """The profile `wiki` if its model is here, else `mini`; two steps of adapters, in bfloat16 on a card."""
    wiki = load_profile("wiki")
    here = Path(wiki.resolve(wiki.searcher.path)).is_dir()
    settings = {
        "grpo.steps": 2,
        "grpo.lora_rank": 8,
        "grpo.precision": "auto",
        "grpo.resample": 0,
        "grpo.filtered": False,
    }
    sizes = {"searcher.batch_size": 128, "generator.batch_size": 128}
    few = {"data.train_limit": 24, "grpo.questions_per_step": 6}
    return changed(
        wiki if here else load_profile("mini"), {"name": "gpu-road-adapters", **settings, **sizes, **few}
    )


def adapters() -> dict[str, Any]:
    """Two steps of LoRA, how fast, and how much memory they took."""
    profile = real_model()
    build_index(profile, "dense")
    card = torch.cuda.is_available()
    if card:
        torch.cuda.reset_peak_memory_stats()
    folder = train(profile, 0)
    last = curve(folder)[-1]
    estimate = gpu_parts(profile, training=True)
    return {
        "model": Path(profile.searcher.path).parts[-2],
        "seconds_a_step": seconds(curve(folder)),
        "own_tokens_a_second": round(
            last["episodes"] * last["completion_tokens"] / last["seconds_rollout"], 1
        ),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if card else None,
        "estimate_gb": round(total({k: v for k, v in estimate.items() if k != "CUDA"}) / 1e9, 2)
        if estimate
        else None,
    }


def search(count: int = 1_000_000, width: int = 384) -> dict[str, Any]:
    """Milliseconds of one exact search over random vectors, by number of queries, on CPU and card."""
    import faiss

    vectors = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)
    index = faiss.IndexFlatIP(width)
    index.add(vectors)
    places = {"cpu": index}
    if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus():
        places["card"] = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    took: dict[str, Any] = {place: {} for place in places}
    for place, one in places.items():
        for queries in (1, 16, 64):
            runs = []
            for _ in range(5):
                started = time.perf_counter()
                one.search(vectors[:queries], 10)
                runs.append(1000 * (time.perf_counter() - started))
            took[place][str(queries)] = round(float(np.median(runs)), 1)
    if "card" not in places:
        took["card"] = "not measured: faiss-gpu is not installed"
    return took


def main() -> None:
    """Run all parts, print and record them."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--steps", type=int, default=20, help="of GRPO at mini")
    options.add_argument("--questions", type=int, default=200, help="of each test set")
    options.add_argument("--vectors", type=int, default=1_000_000, help="to search")
    options.add_argument("--record", type=Path, default=None, help="JSON file to write")
    asked = options.parse_args()
    cap_threads()
    report: dict[str, Any] = {"machine": machine()}
    for name, part in {
        "mini": lambda: mini(asked.steps, asked.questions),
        "adapters": adapters,
        "search": lambda: search(asked.vectors),
    }.items():
        started = time.perf_counter()
        report[name] = part()
        report[name]["seconds"] = round(time.perf_counter() - started, 1)
        print(name, json.dumps(report[name], indent=1), flush=True)
        if asked.record:
            asked.record.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
