"""Methods x question sets -> answers, GenAcc and intervals (paper, table 1), resumable to the question.

    evaluate(profile) = for each method and set: collect contexts -> frozen generator -> score -> log
                        then summarise: means, bootstrap intervals, paired differences, selection's effect

Each method and set is a stage, ``build/<profile>/evaluation/<method>/<set>/`` (``<method>-seed<N>`` for
trained ones), whose ``answers.jsonl`` holds one line per question: killed half-way, it goes on behind
the last line. A retriever, generator or judge that fails stops the evaluation; it is never an answer.

Departures from the paper: every figure has an interval; there is a row for the *untrained* searcher in the same
loop (what reinforcement learning adds is the paired difference to it); episodes are greedy; and selection
is judged on the same episodes, read once as selected and once with everything they retrieved.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .bench import Bench
from .corpus import load_questions
from .errors import DataError
from .methods import METHODS, Method
from .models.base import is_cut
from .profile import Profile, changed, load_profile
from .protocols.base import everything
from .records import Collected, Question, episode_as_json, episode_from_json
from .results import WITHOUT_SELECTION, Answer, Results, by_id, summarise
from .runs.answering import ANSWERS, Executor, answer_missing, in_process
from .runs.omissions import omissions
from .runs.progress import tqdm
from .runs.stages import JsonlLog, Stage, atomic_write

log = logging.getLogger("s3mini")


def evaluate(
    profile: Profile,
    methods: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    seed: int = 0,
    searcher: Path | str | None = None,
    bench: Bench | None = None,
    progress: bool = True,
    executor: Executor = in_process,
) -> Results:
    """Evaluate methods on the test splits and write ``results.json``; finished answers are reused.

    Args:
        methods: names from `METHODS`; None takes the profile's.
        sets: question sets; None takes the profile's.
        seed: of training (which searcher) and of the bootstrap.
        searcher: folder of a trained searcher, instead of the one training left for ``seed``.
        bench: opened parts to use, for tests and for models already in memory.
        executor: answers the blocks of questions, in this process or in many.

    Returns:
        The content of ``results.json``; accuracies in [0, 1], lengths in the generator's tokens, times in
        seconds of this machine.

    Raises:
        DataError: unknown method or set, malformed data. StageError: nothing trained yet, a full disk.
        RetrievalError, ModelError: a part failed; what was answered before is kept.
    """
    names = check_methods(methods if methods is not None else profile.evaluation.methods)
    chosen = tuple(sets if sets is not None else profile.data.sets)
    if not chosen:
        raise DataError(f"profile {profile.name}: no question set to evaluate on (data.sets, or --sets)")
    bench = bench or Bench(profile, seed, searcher)
    questions = {name: load_questions(profile, name, "test") for name in chosen}
    # What is not there is told before hours of answering, not after.
    inputs = {name: METHODS[name].inputs(bench) for name in names}
    answers: dict[str, dict[str, list[Answer]]] = {}
    total = (len(names) + ("s3" in names)) * sum(map(len, questions.values()))
    with tqdm(total=total, unit="answer", disable=not progress) as bar:

        def answer(method: Method) -> None:
            if method.replays and method.replays in answers:
                method = replayed(method, answers[method.replays])
            answers[method.name] = {}
            for name in chosen:
                bar.set_description(f"{method.name} {name}")
                answers[method.name][name] = answer_set(bench, method, name, questions[name], bar, executor)

        for name in names:
            answer(METHODS[name])
        if "s3" in names:
            answer(without_selection(METHODS["s3"], answers["s3"]))
    results = summarise(profile, answers, seed)
    results["searchers"] = {name: inputs[name]["searcher"] for name in names if METHODS[name].seeded}
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    for path in (profile.build / "evaluation" / f"results-seed{seed}.json", profile.build / "results.json"):
        _keep_fuller(path, results)
        atomic_write(path, text)
    return results


def _keep_fuller(path: Path, results: Results) -> None:
    """Move aside results of methods or sets that the new ones lack: it took hours to make them."""
    aside = path.with_suffix(".json.old")
    before = _rows_at(path)
    if lost := sorted(before - _rows(results)):
        if not before <= _rows_at(aside):
            path.replace(aside)
        told = ", ".join(f"{method} on {name}" for method, name in lost[:3]) + ", …" * (len(lost) > 3)
        log.warning("%s now lacks %s; they stand in %s", path, told, aside)


def _rows(results: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(method, name) for method, its in results["methods"].items() for name in its["sets"]}


def _rows_at(path: Path) -> set[tuple[str, str]]:
    try:
        return _rows(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()  # no file, or no results


def evaluate_choice(
    profile: Profile, seed: int = 0, methods: Sequence[str] | None = None, progress: bool = True
) -> Results | None:
    """The multiple-choice set over its own corpus, with what ``profile`` trained; zero-shot (paper, table 3).

    Builds the indexes of that corpus first. None where the profile names no such set.

    Raises:
        As `evaluate`.
    """
    from .retrieval import build_index

    if profile.evaluation.choice_profile is None:
        return None
    limits = {"data.test_limit": profile.data.test_limit}
    other = changed(load_profile(profile.evaluation.choice_profile), limits)
    for kind in ("lexical", "dense"):
        build_index(other, kind, progress)
    folder = profile.build / "train" / f"s3-seed{seed}"
    published = (s3 := other.protocols.get("s3")) is not None and s3.checkpoint is not None
    trained = None if published and not folder.is_dir() else folder
    return evaluate(other, methods, None, seed, trained, progress=progress)


def check_methods(names: Sequence[str]) -> list[str]:
    """The names, once each.

    Raises:
        DataError: a name that is no method.
    """
    for name in names:
        if name not in METHODS:
            raise DataError(f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    if not names:
        raise DataError(f"no method to evaluate: choose from {', '.join(METHODS)}")
    return list(dict.fromkeys(names))


# ------------------------------------------------------------------------------- answering


def answer_set(
    bench: Bench,
    method: Method,
    set_name: str,
    questions: Sequence[Question],
    bar: tqdm | None = None,
    executor: Executor = in_process,
) -> list[Answer]:
    """One record per question, in the questions' order: those in the log, and the missing ones made now."""
    name = stage_name(method, set_name, bench.seed)
    work = partial(_answer_batch, method=method, set_name=set_name)
    inputs, settings = bench.depends_on(questions)
    inputs |= method.inputs(bench)
    settings["record"] = 3  # counts up when a record gets a field that summaries need
    with Stage(bench.profile, name, inputs, settings) as stage:
        if not stage.done:
            method.first(bench, set_name, executor)
        size = bench.profile.generator.batch_size
        records = answer_missing(stage, questions, size, work, bench, executor, bar)
        if not stage.done:
            stage.finish(questions=len(questions), omitted=omissions(records))
    return records


def answer_sets(bench: Bench, method: Method, progress: bool = True) -> dict[str, list[Answer]]:
    """`answer_set` of every test set of the profile, under one bar."""
    questions = {name: load_questions(bench.profile, name, "test") for name in bench.profile.data.sets}
    total = sum(map(len, questions.values()))
    with tqdm(total=total, unit="answer", desc=method.name, disable=not progress) as bar:
        return {name: answer_set(bench, method, name, asked, bar) for name, asked in questions.items()}


def stage_name(method: Method, set_name: str, seed: int) -> str:
    """Where the answers lie: only methods that depend on training carry its seed."""
    return f"evaluation/{method.name}{f'-seed{seed}' if method.seeded else ''}/{set_name}"


def _answer_batch(bench: Bench, questions: Sequence[Question], method: Method, set_name: str) -> list[Answer]:
    started = time.perf_counter()
    collected = method.collect(bench, set_name, questions)
    collecting = (time.perf_counter() - started) / len(questions)
    open_ones = [i for i, found in enumerate(collected) if found.score is None]
    asked = [questions[i] for i in open_ones]
    answers = bench.answer(asked, [collected[i] for i in open_ones])
    for i, score in zip(open_ones, bench.score(answers, asked), strict=True):
        collected[i] = replace(collected[i], score=score)
    seconds = (time.perf_counter() - started) / len(questions)
    records = [
        _record(bench, question, found, found.seconds or seconds, found.seconds or collecting)
        for question, found in zip(questions, collected, strict=True)
    ]
    for i, answer in zip(open_ones, answers, strict=True):
        if is_cut(answer):
            records[i]["cut"] = True
    return records


def _record(bench: Bench, question: Question, found: Collected, seconds: float, collecting: float) -> Answer:
    episode, score = found.episode, found.score
    assert score is not None  # _answer_batch scores what came unscored
    written = sum(episode.env_mask) if episode else 0
    return {
        "id": question.id,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "context": [d.id for d in found.context],
        "answer": score.answer,
        "gen_acc": score.gen_acc,
        "em": score.em,
        "f1": round(score.f1, 6),
        "span": score.span,
        "judge": score.judge,
        "searches": episode.searches if episode else 0,
        "searcher_tokens": written if found.written is None else found.written,
        "generator_tokens": 0 if found.answer is not None else bench.prompt_tokens(question, found.context),
        "context_tokens": bench.count_tokens(found.context),
        "seconds": round(seconds, 4),
        "seconds_collecting": round(collecting, 4),
        "episode": episode_as_json(episode) if episode else None,
    }


def without_selection(method: Method, answers: Mapping[str, Sequence[Answer]]) -> Method:
    """The same episodes with selection undone: the generator reads every document they were shown."""
    stored = by_id(answers)

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        episodes = [episode_from_json(stored[question.id], bench.documents) for question in questions]
        return [Collected(tuple(everything(episode))) for episode in episodes]

    return replace(method, name=method.name + WITHOUT_SELECTION, collect=collect)


def replayed(method: Method, answers: Mapping[str, Sequence[Answer]]) -> Method:
    """A method scored on its episodes' own answers, which takes them from another's records: they are not played again."""
    stored = by_id(answers)

    def collect(bench: Bench, set_name: str, questions: Sequence[Question]) -> list[Collected]:
        records = [stored[question.id] for question in questions]
        episodes = [episode_from_json(record, bench.documents) for record in records]
        return [
            Collected(
                e.context, e, e.answer or "", None, record["seconds_collecting"], record["searcher_tokens"]
            )
            for e, record in zip(episodes, records, strict=True)
        ]

    return replace(method, collect=collect)


def load_answers(profile: Profile, method: str, set_name: str, seed: int = 0) -> list[Answer]:
    """The stored records of a method on a set, in the order they were made.

    Raises:
        DataError: nothing was evaluated there.
    """
    path = profile.build / stage_name(METHODS[check_methods([method])[0]], set_name, seed) / ANSWERS
    if not path.is_file():
        raise DataError(f"{path}: not evaluated yet; run `s3mini evaluate {profile.option}`")
    with JsonlLog(path) as log:
        return list(log.records)
