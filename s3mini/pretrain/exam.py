"""The mini model's examination on a world it never saw; its figures stand on the model's card."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ..models.local import LocalModel
from ..profile import ModelSpec
from ..protocols.wordings import judge_messages
from ..rag import answer_questions
from ..records import Document, Question
from ..reward import Judge, read_verdict, score_answers
from ..statistics import bootstrap_mean
from ..world.build import World, build_world, distractors
from ..world.write import SETS, question_sets
from .roles import judge as judge_case
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
    local = LocalModel(spec)
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


def judge_errors(local: LocalModel, world: World, rng: random.Random, n: int = 1000) -> dict[str, float]:
    """How often the judge accepts what it should not, and refuses what it should accept."""
    cases = [judge_case(world, rng) for _ in range(n)]
    prompts = [case[0][0] for case in cases]
    truth = [" yes" in case[1][0] for case in cases]
    conversations = []
    for prompt in prompts:
        said = prompt.split("Response: ")[1].split("<|im_end|>")[0]
        golds = prompt.split("Answers: ")[1].split("\n")[0].split("; ")
        conversations.append(judge_messages("brief", said, golds))
    verdicts = [read_verdict(reply) for reply in local.reply(conversations, max_new_tokens=4)]
    wrong_yes = sum(v is True and not t for v, t in zip(verdicts, truth, strict=True))
    wrong_no = sum(v is not True and t for v, t in zip(verdicts, truth, strict=True))
    return {
        "false_positive_rate": wrong_yes / max(1, truth.count(False)),
        "false_negative_rate": wrong_no / max(1, truth.count(True)),
        "n": n,
    }
