"""The mini model's examination on a world it never saw; its figures stand on the model's card."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

from ..generator import answer_questions
from ..models.base import ChatModel
from ..models.local import load_model
from ..profile import ModelSpec
from ..protocols.wordings import judge_messages
from ..records import Document, Question
from ..reward import Judge, read_verdict, score_answers
from ..runs.stages import atomic_write
from ..statistics import bootstrap_mean
from ..world.build import World, build_world, distractors
from ..world.write import SETS, question_sets
from .roles import judge_cases
from .samples import documents


def shelves(world: World, questions: list[Question], count: int, rng: random.Random) -> list[list[Document]]:
    """For each question its gold documents among hard distractors, ``count`` in all, shuffled."""
    by_id = {entity.id: entity for entity in world.entities}
    found = []
    for question in questions:
        golds = [by_id[i] for i in question.gold_ids]
        shown = golds + distractors(world, golds, count - len(golds), rng)
        rng.shuffle(shown)
        found.append(documents(shown))
    return found


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
        questions = sets[name]["test"]
        result = {}
        shown = shelves(world, questions, count, rng)
        for label, contexts in (("gold", shown), ("none", [[] for _ in questions])):
            scores = score_answers(answer_questions(local, questions, contexts), questions, judge)
            accuracy = bootstrap_mean([score.gen_acc for score in scores])
            result[label] = {"gen_acc": accuracy.mean, "ci95": [accuracy.low, accuracy.high]}
            result[label]["em"] = sum(score.em for score in scores) / len(scores)
        report["sets"][name] = result
    for label in ("gold", "none"):
        report[label] = sum(s[label]["gen_acc"] for s in report["sets"].values()) / len(SETS)
    report["judge"] = judge_errors(local, world, rng)
    return report


def judge_errors(local: ChatModel, world: World, rng: random.Random, n: int = 1000) -> dict[str, float]:
    """How often the judge accepts what it should not, and refuses what it should accept."""
    conversations, truth = [], []
    for _ in range(n // 8):
        golds, cases = judge_cases(world, rng, 8)
        conversations += [judge_messages("brief", said, golds) for said, _ in cases]
        truth += [right for _, right in cases]
    verdicts = [read_verdict(reply) for reply in local.reply(conversations, max_new_tokens=4)]
    wrong_yes = sum(v is True and not t for v, t in zip(verdicts, truth, strict=True))
    wrong_no = sum(v is not True and t for v, t in zip(verdicts, truth, strict=True))
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
        rows = list(csv.DictReader(lines))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    weights = (model / "model.safetensors").stat().st_size
    sets = "\n".join(
        f"| {name} | {found['gold']['gen_acc']:.3f} [{found['gold']['ci95'][0]:.3f}, {found['gold']['ci95'][1]:.3f}] "
        f"| {found['none']['gen_acc']:.3f} |"
        for name, found in report["sets"].items()
    )
    last = rows[-1]
    text = CARD.format(
        width=config["hidden_size"], layers=config["num_hidden_layers"], heads=config["num_attention_heads"],
        vocabulary=config["vocab_size"], megabytes=weights / 1e6, parameters=weights / 4e6, sets=sets,
        tokens=int(last["tokens"]) / 1e6, hours=float(last["seconds"]) / 3600, **{k: v for k, v in report.items() if k != "sets"},
    )  # fmt: skip
    atomic_write(model / "README.md", text)
    return model / "README.md"


CARD = """# The mini model

A decoder of the Qwen3 architecture ({layers} layers, width {width}, {heads} heads, vocabulary {vocabulary}: {parameters:.2f} M
parameters, {megabytes:.1f} MB in float32) that knows nothing but how to read: it was pretrained from scratch on
fictional encyclopedias of other seeds than the one shipped, and never saw a text of this world or any other corpus.
It plays every role of the pipeline, each asked for by a one-word system prompt: generator, judge, s3 searcher, and the
formats of CoT, IRCoT, Search-o1, Search-R1 and DeepRetrieval.

As a generator it reads carefully. As a searcher it starts like an instruct model before reinforcement learning: it
was taught the format, while its decisions are mostly drawn by dice (restate the question, pick documents at
random, stop at a whim) and only sometimes sensible. What it knows about searching after training, GRPO taught it.

## Examination

On the world of seed {seed}, never seen: {n} questions per set, the gold documents among {documents} (the others are
look-alikes, shuffled), greedy decoding, GenAcc with 95 % bootstrap intervals.

| Set | gold documents among {documents} | no documents |
|---|---|---|
{sets}
| **average** | **{gold:.3f}** | **{none:.3f}** |

As a judge ({judge[n]} cases, near misses included): {judge[false_positive_rate]:.3f} of the wrong answers accepted,
{judge[false_negative_rate]:.3f} of the right ones refused.

## Training

{tokens:.1f} M tokens in {hours:.1f} hours of wall time on two CPU cores; `record.csv` holds the record (tokens, seconds,
curriculum level, loss, share of replies right to the last token, by kind). Made, and examined, by

    s3mini pretrain --out DIR

Licence Apache-2.0, as the project's. Not for use outside the mini world.
"""
