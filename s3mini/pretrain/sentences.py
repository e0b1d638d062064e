"""The mini model taught to answer in whole sentences: the frozen generator that is not yours, and whom exact match never pays.

The mini model answers in bare names, so that every reward pays the same. Of a copy, nothing but the wording of the answer
is changed: after the same evidence it repeats the last fact, "The spouse of Mira Velt is Ran Tuld." It is taught on fresh
worlds, by adapters that are added to its weights (`wiki.teach`).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..generator import answer_questions
from ..models.local import load_model
from ..profile import ModelSpec
from ..reward import Judge, score_answers
from ..runs.stages import atomic_write
from ..statistics import bootstrap_mean
from ..training.adapters import ADAPTERS
from ..wiki.teach import CURVE, Sequences, merge, teach
from ..world.build import Entity, World, build_world
from ..world.questions import Asked, ask
from ..world.write import SETS, question_sets
from .batches import LEVELS, encode, fresh_worlds
from .exam import error_rates, shelves
from .examples import UNKNOWN, Example, thought
from .roles import generator

SHOWN = 1280
"""Sequences that it is taught on."""
MEASURES = ("sentences", "em", "span", "gen_acc")
_WHOLE = re.compile(r"[A-Z].* is .+\.")


def whole(reply: str) -> bool:
    """Whether a reply is one whole sentence: a capital, a verb, something said of it, a full stop."""
    return _WHOLE.fullmatch(reply) is not None


def in_sentence(asked: Asked, shown: Sequence[Entity]) -> str:
    """The generator's reply: evidence as reasoning, then the last fact, or the first that is missing, as a sentence."""
    known = [fact.subject in shown for fact in asked.proof]
    step = known.index(False) if False in known else len(known) - 1
    if asked.kind == "comparison":
        said = f"The answer is {asked.answer if all(known) else UNKNOWN}."
    else:
        said = asked.restated(step, known[step])
        said = said if known[step] else f"{said.removesuffix('missing.')}{UNKNOWN}."
    return f"{thought(asked, shown)} {said}"


def sentence_sequences(tokenizer: PreTrainedTokenizerBase, count: int, seed: int = 0) -> list[Sequences]:
    """``count`` prompts of a generator with what it is to reply, from a world of ``seed`` that is used nowhere else."""
    rng = random.Random(f"sentences {seed}")
    world, _ = next(fresh_worlds(f"sentences {seed}"))
    most, sequences = LEVELS[-1], list[Sequences]()
    while len(sequences) < count:
        example = generator(world, rng, rng.randint(1, most.documents), most.hops, 2, in_sentence)
        for branch, kind in zip(example.branches, example.kinds, strict=True):
            if len(branch) == 2 and branch[0][0].startswith("Question: "):  # none of the drills
                row = encode(Example(example.trunk, [branch], [kind]), tokenizer, rng)
                own = (row["weight"] >= 1).astype(int)
                sequences.append(Sequences(tuple(row["id"].tolist()), tuple(own.tolist())))
    return sequences[:count]


def make_sentence_generator(base: Path, folder: Path, seed: int = 0, count: int = SHOWN) -> Path:
    """Teach a copy of the model in ``base``, examine it, write its card; called again, it goes on.

    Returns the folder of the whole model, in half precision: ``folder/model``, with ``curve.csv``, ``exam.json`` and card.

    Raises:
        StageError: the folder cannot be written. ModelError: there is no model in ``base``.
    """
    adapters, model = folder / "adapters", folder / "model"
    if not (adapters / ADAPTERS).is_file():
        local = load_model(_spec(base), shared=False)
        shown = sentence_sequences(local.tokenizer, count, seed)
        teach(local.model, shown, adapters, learning_rate=2e-3, seed=seed)
    merge(base, adapters, model, torch.float16)
    atomic_write(model / CURVE, (adapters / CURVE).read_text(encoding="utf-8"))
    _write_card(model, examine_sentences(model, base), seed, count)
    return model


def _spec(folder: Path) -> ModelSpec:
    return ModelSpec(path=str(folder.resolve()), wordings="brief", max_length=4096, batch_size=128)


def examine_sentences(
    model: Path, judge: Path, seed: int = 1000, n: int = 100, count: int = 6
) -> dict[str, Any]:
    """Of the replies on the unseen world of ``seed``: how many are whole sentences, and how each measure scores them.

    The gold documents lie among ``count``. Also, of sentences with the right answer and with wrong ones, on how many the judge
    (of the folder ``judge``) is right.

    Returns:
        ``{"seed", "n": questions a set, "documents", "sets": {SET: {"sentences", "em", "span", "gen_acc"}}, "average",
        "gen_acc_ci95", "judge": {"n", "false_positive_rate", "false_negative_rate"}}``, shares in [0, 1].
    """
    local, asks = load_model(_spec(model)), Judge(load_model(_spec(judge)), "brief")
    rng, world = random.Random(f"exam {seed}"), build_world(seed)
    sets = question_sets(world, {"test": n})
    report: dict[str, Any] = {"seed": seed, "n": n, "documents": count, "sets": {}}
    accurate: list[float] = []
    for name in SETS:
        questions = sets[name]["test"]
        replies = answer_questions(local, questions, shelves(world, questions, count, rng))
        scores = score_answers(replies, questions, asks)
        accurate += [score.gen_acc for score in scores]
        measured = {key: sum(getattr(score, key) for score in scores) / n for key in MEASURES[1:]}
        report["sets"][name] = {"sentences": sum(map(whole, replies)) / n, **measured}
    rows = report["sets"].values()
    report["average"] = {key: sum(row[key] for row in rows) / len(SETS) for key in MEASURES}
    accuracy = bootstrap_mean(accurate)
    report["gen_acc_ci95"] = [accuracy.low, accuracy.high]
    report["judge"] = judge_sentences(asks, world, rng)
    return report


def judge_sentences(judge: Judge, world: World, rng: random.Random, n: int = 300) -> dict[str, float]:
    """Error rates of the judge on sentences that end in the right name, a near namesake, any other, or "unknown"."""
    responses: list[str] = []
    accepted: list[list[str]] = []
    truth: list[bool] = []
    while len(responses) < n:
        asked = ask(rng.choice(SETS), world, rng.choice(world.entities), rng)
        if asked is None:
            continue
        fact = asked.proof[-1]
        head = asked.restated(len(asked.proof) - 1).removesuffix(f"{fact.value}.")
        near = [e.name for word in (fact.target.words() if fact.target else ()) for e in world.by_word[word]]
        for value in dict.fromkeys(
            (fact.value, UNKNOWN, rng.choice(world.entities).name, rng.choice(near or [UNKNOWN]))
        ):
            responses.append(f"{head}{value}.")
            accepted.append([asked.answer])
            truth.append(value == fact.value)
    return error_rates(judge, responses, accepted, truth)


def _write_card(model: Path, report: dict[str, Any], seed: int, count: int) -> None:
    """``exam.json`` and the card beside the model; every figure of the card is read from the exam and the curve."""
    atomic_write(model / "exam.json", json.dumps(report, indent=1) + "\n")
    losses = [line.split(",")[1] for line in (model / CURVE).read_text(encoding="utf-8").splitlines()[1:]]
    cells = {name: " | ".join(f"{row[key]:.3f}" for key in MEASURES) for name, row in report["sets"].items()}
    average = " | ".join(f"**{report['average'][key]:.3f}**" for key in MEASURES)
    text = Path(__file__).with_name("sentences.md").read_text(encoding="utf-8").format_map(
        report | {
            "seed_taught": seed, "count": count, "steps": len(losses), "first": losses[0], "last": losses[-1],
            "rows": "\n".join(f"| {name} | {row} |" for name, row in cells.items()), "means": average,
            "low": report["gen_acc_ci95"][0], "high": report["gen_acc_ci95"][1],
        }
    )  # fmt: skip
    atomic_write(model / "README.md", text)
