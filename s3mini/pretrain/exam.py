"""The mini model's examination on a world it never saw; its figures stand on the model's card."""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..generator import answer_questions
from ..models.local import load_model
from ..profile import ModelSpec
from ..records import Document, Question
from ..reward import Judge, score_answers
from ..runs.stages import atomic_write
from ..statistics import bootstrap_mean
from ..world.build import World, build_world, distractors
from ..world.write import SETS, question_sets
from .examples import documents
from .roles import judge_cases


def shelves(world: World, questions: list[Question], count: int, rng: random.Random) -> list[list[Document]]:
    """For each question its gold documents among hard distractors, ``count`` in all, shuffled."""
    by_id = {entity.id: entity for entity in world.entities}
    shelved = []
    for question in questions:
        golds = [by_id[i] for i in question.gold_ids]
        shown = golds + distractors(world, golds, count - len(golds), rng)
        rng.shuffle(shown)
        shelved.append(documents(shown))
    return shelved


def examine(model: Path, seed: int = 1000, n: int = 200, count: int = 6) -> dict[str, Any]:
    """GenAcc with the gold documents among distractors, and with none, by set; the judge's error rates.

    Args:
        model: folder of the model.
        seed: the world's seed; pretraining worlds have other seeds by construction.
        n: questions per set.
        count: documents per question, gold ones included.
    """
    spec = ModelSpec(path=str(model.resolve()), wordings="brief", max_length=4096, batch_size=128)
    local = load_model(spec)
    rng = random.Random(f"exam {seed}")
    world = build_world(seed)
    sets = question_sets(world, {"test": n})
    judge = Judge(local, "brief")
    report: dict[str, Any] = {"seed": seed, "n": n, "documents": count, "sets": {}}
    for name in SETS:
        questions, result = sets[name]["test"], {}
        shown = shelves(world, questions, count, rng)
        for label, contexts in (("gold", shown), ("none", [[]] * n)):
            scores = score_answers(answer_questions(local, questions, contexts), questions, judge)
            accuracy = bootstrap_mean([score.gen_acc for score in scores])
            em = sum(score.em for score in scores) / n
            result[label] = {"gen_acc": accuracy.mean, "ci95": [accuracy.low, accuracy.high], "em": em}
        report["sets"][name] = result
    for label in ("gold", "none"):
        report[label] = sum(s[label]["gen_acc"] for s in report["sets"].values()) / len(SETS)
    report["judge"] = judge_errors(judge, world, rng)
    return report


def judge_errors(judge: Judge, world: World, rng: random.Random, n: int = 1000) -> dict[str, float]:
    """How often the judge accepts what it should not, and refuses what it should accept."""
    responses: list[str] = []
    accepted: list[Sequence[str]] = []
    truth: list[bool] = []
    for _ in range(n // 8):
        golds, cases = judge_cases(world, rng, 8)
        responses += [said for said, _ in cases]
        accepted += [golds] * len(cases)
        truth += [right for _, right in cases]
    return error_rates(judge, responses, accepted, truth)


def error_rates(
    judge: Judge, responses: Sequence[str], accepted: Sequence[Sequence[str]], truth: Sequence[bool]
) -> dict[str, float]:
    """Of ``n`` responses: the share of the wrong ones that the judge accepts, and of the right ones that it refuses."""
    verdicts = judge(responses, accepted)
    wrong_yes = sum(v and not t for v, t in zip(verdicts, truth, strict=True))
    wrong_no = sum(t and not v for v, t in zip(verdicts, truth, strict=True))
    return {
        "false_positive_rate": wrong_yes / max(1, truth.count(False)),
        "false_negative_rate": wrong_no / max(1, truth.count(True)),
        "n": len(truth),
    }


def write_card(model: Path, record: Path, report: dict[str, Any]) -> Path:
    """Write ``exam.json``, the training record and the card beside the model; every figure is read from them."""
    atomic_write(model / "exam.json", json.dumps(report, indent=1) + "\n")
    atomic_write(model / "record.csv", record.read_text(encoding="utf-8"))
    with record.open(encoding="utf-8", newline="") as lines:
        last = list(csv.DictReader(lines))[-1]
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    weights = (model / "model.safetensors").stat().st_size
    rows = []
    for name, by_context in report["sets"].items():
        gold, (low, high) = by_context["gold"]["gen_acc"], by_context["gold"]["ci95"]
        rows.append(f"| {name} | {gold:.3f} [{low:.3f}, {high:.3f}] | {by_context['none']['gen_acc']:.3f} |")
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8").format_map(
        config | report | {
            "megabytes": weights / 1e6, "parameters": weights / 4e6, "sets": "\n".join(rows),
            "tokens": int(last["tokens"]) / 1e6, "hours": float(last["seconds"]) / 3600,
        }
    )  # fmt: skip
    return atomic_write(model / "README.md", text)
