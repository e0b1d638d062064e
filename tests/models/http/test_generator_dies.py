"""A generator that is killed in the middle of precompute, evaluation and training: nothing is lost, doubled or scored wrong."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation_toys import METHODS, ToyEvaluation, make_evaluation
from grpo_toys import grpo_parts, grpo_profile, low_ids
from rag_toys import ToyBench, ToyGenerator, make_world, question, river, toy_profile
from served_toys import Mortal
from test_grpo import curve

from s3mini.errors import ModelError
from s3mini.evaluation import evaluate
from s3mini.grpo import train
from s3mini.models import open_model
from s3mini.profile import Profile
from s3mini.rag import RagAnswer, RagCache, precompute
from s3mini.records import Episode, Score
from s3mini.reward import Judge, Reward
from s3mini.training.parts import AnswerScorer, Outcome, Parts


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mortal]:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    monkeypatch.setattr("s3mini.runs.http_client.BACKOFF", 0.05)
    made = Mortal(tmp_path / "answered.log")
    yield made
    made.stop()


def served(server: Mortal, patience: float) -> dict[str, object]:
    """Profile keys: generator and judge are black boxes at the server."""
    roles = {"generator": "toy", "judge": "judge"}
    keys = {"engine": "served", "api": "chat", "url": server.url, "patience": patience, "timeout": 60.0}
    named = {f"{role}.path": path for role, path in roles.items()}
    return {**named, **{f"{role}.{key}": value for role in roles for key, value in keys.items()}}


def with_served_models(bench: ToyBench, profile: Profile) -> ToyBench:
    bench.generator = open_model(profile.generator)
    bench.judge = Judge(open_model(profile.judge), "brief")
    return bench


def test_precompute_stops_and_goes_on(server: Mortal, tmp_path: Path) -> None:
    make_world(tmp_path)
    profile = toy_profile(**served(server, patience=0.5))

    def run() -> RagCache:
        bench = with_served_models(ToyBench(profile, ToyGenerator(tmp_path / "unused")), profile)
        return precompute(profile, bench=bench, progress=False)

    server.start(answers=40)
    server.wait()
    with pytest.raises(
        ModelError, match=f"{server.url}/chat/completions: no answer in .*goes on where it stopped"
    ):
        run()
    files = (profile.build / "rag").rglob("answers.jsonl")
    kept = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert 8 <= len(kept) < 80
    first = server.answered()
    server.start()
    server.wait()
    cache = run()
    assert len(cache) == 80
    for name in ("nq", "hotpotqa"):
        for i in range(40):
            found = cache[question(name, "train" if i < 30 else "test", i)]
            assert found.score.answer == (river(i) if i % 2 == 0 else "unknown")
            assert found.score.gen_acc == float(i % 2 == 0)
    for record in kept:  # what was answered before the kill was right, and stayed
        assert json.loads(json.dumps(cache[question_of(record)].as_json())) == record
    lines = [
        line
        for path in (profile.build / "rag").rglob("answers.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert max(Counter(json.loads(line)["id"] for line in lines).values()) == 1 and len(lines) == 80
    asked = Counter(line for line in server.answered() if '"toy"' in line)
    assert len(asked) == 80 and sum(asked.values()) <= 80 + 8  # only the batch in flight was asked again
    assert len(first) <= 40


def question_of(record: dict):
    name, split, i = record["id"].split("-")
    return question(name, split, int(i))


def test_evaluation_waits_until_it_is_back(server: Mortal, tmp_path: Path) -> None:
    make_evaluation(tmp_path)
    settings = {"data.train_sets": ["nq"], "evaluation.methods": list(METHODS), "searcher.path": "model"}

    def run(profile: Profile) -> dict:
        bench = with_served_models(ToyEvaluation(profile, ToyGenerator(tmp_path / "unused")), profile)
        bench._searcher = {"s3": tmp_path / "model"}
        return evaluate(profile, bench=bench, progress=False)

    server.start(answers=30)
    server.wait()
    first = server.child
    assert first is not None

    def bring_back() -> None:
        assert first.wait() != 0
        server.start()

    guard = threading.Thread(target=bring_back)
    guard.start()
    profile = toy_profile(**settings, **served(server, patience=120.0))
    interrupted = run(profile)
    guard.join()
    straight = run(toy_profile(**settings, **served(server, patience=120.0), name="straight"))
    for name in straight["methods"]:
        mine, expected = interrupted["methods"][name]["sets"], straight["methods"][name]["sets"]
        assert {s: (v["n"], v["gen_acc"]) for s, v in mine.items()} == {
            s: (v["n"], v["gen_acc"]) for s, v in expected.items()
        }
    assert interrupted["methods"]["s3"]["average"]["gen_acc"] == 0.5
    for path in (profile.build / "evaluation").rglob("answers.jsonl"):
        ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
        assert len(ids) == len(set(ids)) == 10


def test_training_stops_and_ends_as_if_it_had_not(server: Mortal, tmp_path: Path) -> None:
    make_world(tmp_path)
    profile = grpo_profile(**{"grpo.steps": 4, "grpo.save_steps": 1}, **served(server, patience=0.5))

    def parts() -> Parts:
        """Every step the served generator answers and the served judge judges; the reward is one that can be learned."""
        made = grpo_parts(profile)
        bench = with_served_models(ToyEvaluation(profile, ToyGenerator(tmp_path / "unused")), profile)
        wrong = Score("", 0.0, 0.0, False, None)
        cache = RagCache(RagAnswer(q.id, q.question, (), wrong) for q in made.questions)
        scorer = AnswerScorer(bench, Reward("gen_acc"), cache)

        def score(episodes: list[Episode]) -> list[Outcome]:
            outcomes = scorer(episodes)
            return [replace(o, reward=low_ids(e)) for e, o in zip(episodes, outcomes, strict=True)]

        made.score = score  # type: ignore[assignment]
        return made

    server.start()
    server.wait()
    whole = parts()
    straight = train(profile, 0, "straight", progress=False, parts=whole)
    needed = len(server.answered())
    assert needed >= 8
    server.stop()

    server.start(answers=needed * 2 // 3)
    server.wait()
    with pytest.raises(ModelError, match=server.url):
        train(profile, 0, "toy", progress=False, parts=parts())
    folder = profile.build / "train" / "toy-seed0"
    assert 1 <= len(curve(folder)) < 4 and not (folder / "model").exists()
    server.start()
    server.wait()
    resumed = parts()
    assert train(profile, 0, "toy", progress=False, parts=resumed) == folder
    assert [line["step"] for line in curve(folder)] == [1, 2, 3, 4]
    for line, expected in zip(curve(folder), curve(straight), strict=True):
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-4)
    ends = [torch.cat([p.detach().flatten() for p in made.model.parameters()]) for made in (resumed, whole)]
    assert torch.allclose(*ends, atol=1e-4)
