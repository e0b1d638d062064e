"""A retrieval server killed in the middle of naive RAG, evaluation and training: nothing is lost, doubled or wrong."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation_toys import ToyEvaluation, evaluation_profile, make_evaluation
from rag_toys import TOWNS, ToyBench, ToyGenerator
from server_toys import (
    IMPATIENT,
    PATIENCE,
    Process,
    remote_profile,
)

from s3mini.bench import Bench
from s3mini.errors import RetrievalError
from s3mini.evaluation import evaluate
from s3mini.profile import Profile
from s3mini.rag import precompute
from s3mini.records import Episode, Hit, Question
from s3mini.retrieval import RemoteRetriever


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    make_evaluation(tmp_path)
    found = Process(tmp_path)
    found.start()
    yield found
    found.kill()


class HookedGenerator(ToyGenerator):
    """Calls ``hook`` before its ``at``-th batch."""

    def __init__(self, log: Path, at: int = -1, hook: Callable[[], None] = lambda: None) -> None:
        super().__init__(log)
        self.at, self.hook = at, hook

    def reply(
        self, conversations: Any, max_new_tokens: Any = None, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        if self.calls + 1 == self.at:
            self.hook()
        return super().reply(conversations, max_new_tokens, temperature, seed)


class RemoteBench(ToyBench):
    """The toy world, its retriever at the server."""

    retriever = Bench.retriever  # type: ignore[assignment]


class RemoteEvaluation(ToyEvaluation):
    """Toy episodes that really search."""

    retriever = Bench.retriever  # type: ignore[assignment]

    def episodes(self, protocol: str, trained: bool, questions: Sequence[Question]) -> list[Episode]:
        found = self.retriever().search([question.question for question in questions], 2)
        for question, hits in zip(questions, found, strict=True):
            assert hits[0].document.title == question.question.rstrip("?").split()[-1]
        return super().episodes(protocol, trained, questions)


def asked(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines()


def restart(server: Process) -> Callable[[], None]:
    """Kill the server now; a moment later it is back."""

    def hook() -> None:
        server.kill()
        threading.Timer(0.5, server.start, kwargs={"wait": False}).start()

    return hook


def answers(folder: Path) -> dict[str, Any]:
    """Everything that was answered below a folder, without its seconds; asserts that nothing is there twice."""
    found: dict[str, Any] = {}
    for log in sorted(folder.rglob("answers.jsonl")):
        for line in log.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            key = f"{log.parent.relative_to(folder)} {record['id']}"
            assert key not in found, f"{key} is there twice"
            found[key] = {name: value for name, value in record.items() if not name.startswith("seconds")}
    return found


def test_killed_under_naive_rag(server: Process, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "asked.log"
    local = precompute(
        evaluation_profile(),
        bench=ToyBench(evaluation_profile(), ToyGenerator(tmp_path / "l")),
        progress=False,
    )
    expected = answers(tmp_path / "build" / "toy" / "rag" / "dense")
    profile = remote_profile(server.url)
    with pytest.raises(RetrievalError, match="no answer within 1 s.*Start it"):
        precompute(profile, bench=RemoteBench(profile, HookedGenerator(log, 3, server.kill)), progress=False)
    done = len(asked(log))
    assert 0 < done < len(local)
    with pytest.raises(RetrievalError, match="no answer within"):  # still dead: nothing more happens
        precompute(profile, bench=RemoteBench(profile, ToyGenerator(log)), progress=False)
    assert len(asked(log)) == done
    server.start()
    patient = remote_profile(server.url, PATIENCE)
    caplog.clear()
    bench = RemoteBench(patient, HookedGenerator(log, 3, restart(server)))
    cache = precompute(patient, bench=bench, progress=False)  # killed again, and back in time
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2 and "trying again" in told[0] and "answers again" in told[1]
    assert answers(tmp_path / "build" / "toy" / "rag" / "remote") == expected
    assert len(cache) == len(local) == len(asked(log)), "something was asked twice, or not at all"


def test_killed_under_evaluation(server: Process, tmp_path: Path) -> None:
    methods = ["rag-dense", "s3-untrained", "s3"]
    log = tmp_path / "asked.log"

    def bench(profile: Profile, generator: ToyGenerator) -> RemoteEvaluation:
        found = RemoteEvaluation(profile, generator)
        found._searcher = {"s3": tmp_path / "model"}
        return found

    there = ToyEvaluation(evaluation_profile(), ToyGenerator(tmp_path / "l"))
    there._searcher = {"s3": tmp_path / "model"}
    wanted = evaluate(evaluation_profile(), methods, bench=there, progress=False)
    build = tmp_path / "build" / "toy"
    expected = answers(build / "evaluation")
    build.rename(tmp_path / "local")

    profile = remote_profile(server.url)
    with pytest.raises(RetrievalError, match="no answer within"):
        evaluate(profile, methods, bench=bench(profile, HookedGenerator(log, 8, server.kill)), progress=False)
    assert 0 < len(answers(build / "evaluation")) < len(expected)
    assert not (build / "results.json").exists()
    server.start()
    patient = remote_profile(server.url, PATIENCE)
    once = HookedGenerator(log, 3, restart(server))
    results = evaluate(patient, methods, bench=bench(patient, once), progress=False)
    assert answers(build / "evaluation") == expected
    for method in methods:
        assert results["methods"][method]["average"] == wanted["methods"][method]["average"]
    assert len(asked(log)) == len(asked(tmp_path / "l")), "something was asked twice, or not at all"


class Through:
    """A retriever in front of the server; calls ``hook`` before the ``at``-th search."""

    name = "fixed"
    fingerprint = "fixed"

    def __init__(
        self, url: str, patience: float, at: int = -1, hook: Callable[[], None] = lambda: None
    ) -> None:
        self.inner = RemoteRetriever(url, patience=patience)
        self.at, self.hook, self.searches = at, hook, 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.searches += 1
        if self.searches == self.at:
            self.hook()
        return self.inner.search([f"the river at {TOWNS[len(query) % len(TOWNS)]}" for query in queries], k)


def test_killed_under_training(server: Process, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from grpo_toys import grpo_parts, grpo_profile

    from s3mini.grpo import train

    profile = grpo_profile(**{"grpo.steps": 4, "grpo.save_steps": 1})

    def run(name: str, retriever: Any) -> Path:
        parts = grpo_parts(profile)
        parts.engine.retriever = retriever  # type: ignore[attr-defined]
        return train(profile, 0, name, progress=False, parts=parts)

    def curve(folder: Path) -> list[dict[str, Any]]:
        lines = (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
        return [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in lines]

    counting = Through(server.url, PATIENCE)
    whole = run("whole", counting)
    with pytest.raises(RetrievalError, match="no answer within 1 s"):
        run("cut", Through(server.url, IMPATIENT, counting.searches // 2 + 1, server.kill))
    server.start()
    cut = run("cut", Through(server.url, PATIENCE, 2, restart(server)))
    assert any("answers again" in record.getMessage() for record in caplog.records)
    assert curve(cut) == curve(whole) and len(curve(cut)) == 4
