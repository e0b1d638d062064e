"""The remote retriever: against our server and a stand-in of theirs, malformed answers, patience, and servers killed
in the middle of naive RAG, evaluation and training."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from evaluation_toys import ToyEvaluation, evaluation_profile, make_evaluation
from rag_toys import TOWNS, ToyBench, ToyGenerator, ToyRetriever, make_world
from server_toys import (
    PATIENCE,
    Process,
    TheirServer,
    WordRetriever,
    free_port,
    serving,
    wait_until,
    word_hit,
)

from s3mini.corpus import read_corpus
from s3mini.errors import ProfileError, RetrievalError
from s3mini.evaluation import evaluate
from s3mini.methods import Bench, retrieval_settings
from s3mini.profile import Profile, load_profile
from s3mini.rag import precompute
from s3mini.records import Document, Episode, Hit, Question
from s3mini.retrieval import CachedRetriever, RemoteRetriever, Retriever, connect, open_retriever
from s3mini.retrieval.server import make_app
from s3mini.retrieval.wire import Limits

CORPUS = [
    Document("0", 'The "Blue" Lantern', "A film.\nDirected by Orsa Velin."),
    Document("1", "", "No title, one line."),
    Document("2", "Café (Zürich)", "東京 🍵"),
    Document("3", "Karst", "A city."),
]
KNOWN = {document.id: document for document in CORPUS}
IMPATIENT = 1.0


# Ours and theirs


def test_our_server_gives_what_the_retriever_gives() -> None:
    words = WordRetriever()
    queries = [f"q{i}" for i in range(11)] + ["half \ud800", "q1"]
    with serving(make_app(words, limits=Limits(queries=4), cache=0)) as url:
        remote: Retriever = RemoteRetriever(f"{url}/retrieve/")
        assert isinstance(remote, Retriever)
        assert (remote.name, remote.fingerprint) == ("words", "words-1")
        direct = WordRetriever().search([*queries[:11], "half ?", "q1"], 5)
        assert remote.search(queries, 5) == direct  # in four requests, the most that this server takes
        assert remote.search([], 5) == []
        with pytest.raises(RetrievalError, match="query 1 of 2 is empty"):
            remote.search(["a", " "], 3)
        with pytest.raises(ValueError, match="k must be"):
            remote.search(["a"], 0)
        with pytest.raises(RetrievalError, match=r"answered 422: topk must be between 1 and 100, not 101"):
            remote.search(["a"], 101)
        with pytest.raises(
            RetrievalError, match="answered 500: the retriever failed: ValueError: cannot search"
        ):
            remote.search(["bad"], 3)


def test_their_server_is_served_too() -> None:
    theirs = TheirServer(CORPUS)
    with theirs.serving() as url:
        remote = RemoteRetriever(url, KNOWN)
        hits = remote.search(["a", "b"], 4)
        assert [[hit.document for hit in block] for block in hits] == [CORPUS, CORPUS]
        assert [hit.score for hit in hits[0]] == pytest.approx([0.9, 0.8, 0.7, 0.6])
        assert theirs.asked == [{"queries": ["a", "b"], "topk": 4, "return_scores": True}]
        assert remote.name == "remote"
        first = remote.fingerprint
        assert RemoteRetriever(url).fingerprint == first  # nothing of the client's own is in it
        theirs.documents = CORPUS[1:]
        assert RemoteRetriever(url).fingerprint != first
        with RemoteRetrieverClosing(url) as plain:  # their clients and stand-in agree on bare documents
            bare = httpx.post(f"{plain.url}/retrieve", json={"queries": ["a"]}).json()["result"][0]
            assert bare[0]["contents"] == CORPUS[1].contents


class RemoteRetrieverClosing(RemoteRetriever):
    def __enter__(self) -> RemoteRetriever:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_documents_without_ids_are_named_by_the_corpus_or_their_text() -> None:
    theirs = TheirServer(CORPUS)

    def without_ids(_: Any, result: Any) -> Any:
        for block in result:
            for row in block:
                del row["document"]["id"]
        return {"result": result}

    theirs.reply = without_ids
    with theirs.serving() as url:
        assert [h.document for h in RemoteRetriever(url, KNOWN).search(["a"], 4)[0]] == CORPUS
        unknown = [h.document for h in RemoteRetriever(url).search(["a"], 4)[0]]
        assert [(d.title, d.text) for d in unknown] == [(d.title, d.text) for d in CORPUS]
        assert len({d.id for d in unknown}) == 4
        assert unknown == [h.document for h in RemoteRetriever(url).search(["b"], 4)[0]]


def rows(*numbers: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"document": {"id": str(n), "contents": CORPUS[n].contents}, "score": 1.0 - 0.1 * rank} | changes
        for rank, n in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"<html>", "not an answer in the format of s3 and Search-R1"),
        ([], "Input should be an object"),
        ({"results": []}, "result: Field required"),
        ({"result": [rows(0)]}, "1 answers to 2 queries"),
        ({"result": [rows(0), rows(0), rows(0)]}, "3 answers to 2 queries"),
        ({"result": [rows(0), None]}, "result.1"),
        ({"result": [rows(0), rows(0, 1, 2)]}, "result.1: 3 documents where 2 were asked for"),
        (
            {"result": [rows(0), [{"document": {"id": "0", "contents": "x"}}]]},
            "result.1.0.score: Field required",
        ),
        ({"result": [rows(0), [{"id": "0", "contents": "x"}]]}, "result.1.0.document: Field required"),
        ({"result": [rows(0), [{"document": {"id": "0"}, "score": 1}]]}, "result.1.0.document.contents"),
        (
            {"result": [rows(0), [{"document": {"id": "0", "contents": ""}, "score": 1}]]},
            "neither title nor text",
        ),
        ({"result": [rows(0), rows(1, score="high")]}, "result.1.0.score"),
        ({"result": [rows(0), rows(1, score=float("nan"))]}, "result.1.0.score"),
        ({"result": [rows(0), rows(1, score=None)]}, "result.1.0.score"),
        ({"result": [rows(0), rows(1, 1)]}, "a document comes twice"),
        ({"result": [rows(0), rows(1, 2)[::-1]]}, "scores rise"),
        ({"result": [rows(0), rows(0, document={"id": "9", "contents": "x"})]}, "document '9'"),
        ({"result": [rows(0), rows(0, document={"id": "1", "contents": "x"})]}, "document '1'"),
        ({"result": [rows(0), rows(0, document={"contents": "unheard of"})]}, "document 'unheard of'"),
    ],
)
def test_a_malformed_answer_is_an_error_and_never_a_hit(answer: Any, told: str) -> None:
    theirs = TheirServer(CORPUS)
    theirs.reply = lambda request, result: answer
    with theirs.serving() as url, pytest.raises(RetrievalError) as raised:
        RemoteRetriever(url, KNOWN, patience=0).search(["a", "b"], 2)
    assert told in str(raised.value) and url in str(raised.value)
    assert len(theirs.asked) == 1, "asking again does not mend a malformed answer"


# Patience


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/x", "http://", "http://[::1"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(RetrievalError, match="URL"):
        RemoteRetriever(url)


def test_a_busy_server_is_asked_again_when_it_says(caplog: pytest.LogCaptureFixture) -> None:
    theirs = TheirServer(CORPUS)
    with theirs.serving() as url:
        remote = RemoteRetriever(url, KNOWN, patience=PATIENCE)
        assert remote.health is None
        theirs.statuses = [(503, {"Retry-After": "1"}), (502, {}), (504, {"Retry-After": "soon"})]
        started = time.monotonic()
        assert len(remote.search(["a"], 2)[0]) == 2
        assert time.monotonic() - started >= 1.0
        theirs.statuses = [(404, {})]
        with pytest.raises(RetrievalError, match="answered 404: a moment"):
            remote.search(["a"], 2)
    told = [record.getMessage() for record in caplog.records if record.name == "s3mini"]
    assert len(told) == 2 and "status 503: a moment; trying again" in told[0] and "answers again" in told[1]


def test_a_dead_server_is_an_error_that_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RetrievalError) as raised:
        RemoteRetriever(url, patience=0.6).search(["a"], 1)
    message = str(raised.value)
    assert url in message and "ConnectError" in message and "s3mini serve retriever" in message
    assert "tries" in message and "retrieval.patience" in message
    with pytest.raises(RetrievalError, match="1 tries"):
        RemoteRetriever(url, patience=0).search(["a"], 1)
    assert sum("trying again" in record.getMessage() for record in caplog.records) == 1


def test_a_hanging_server_is_left_after_the_timeout() -> None:
    words = WordRetriever()
    with serving(make_app(words)) as url:
        remote = RemoteRetriever(url, timeout=0.5, patience=0)
        assert remote.name == "words"
        words.gate.clear()
        try:
            with pytest.raises(RetrievalError, match="ReadTimeout"):
                remote.search(["a"], 1)
        finally:
            words.gate.set()


def test_overload_is_waited_out_by_every_client() -> None:
    words = WordRetriever()
    with serving(make_app(words, limits=Limits(waiting=2, batch=4), cache=0)) as url:
        words.gate.clear()
        remote = RemoteRetriever(url, patience=PATIENCE)
        with ThreadPoolExecutor(16) as clients:
            asked = [clients.submit(remote.search, [f"q{i}"], 2) for i in range(16)]
            wait_until(lambda: "s3mini_rejected_total 0.0" not in httpx.get(f"{url}/metrics").text)
            words.gate.set()
            for i, found in enumerate(asked):
                assert found.result() == [[word_hit(f"q{i}", rank) for rank in range(2)]]


def test_another_index_behind_the_same_url_is_noticed() -> None:
    words = WordRetriever()
    with serving(make_app(words)) as url:
        remote = RemoteRetriever(url)
        remote.search(["a"], 1)
        words.fingerprint = "words-2"  # as after a restart with another index
        with pytest.raises(RetrievalError, match=r"another index now \(words-2\) than at first \(words-1\)"):
            remote.search(["b"], 1)


# In a profile


def test_profile_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    make_world(tmp_path)
    with pytest.raises(ProfileError, match=r"retrieval: .*needs a url"):
        load_profile("smoke", **{"retrieval.kind": "remote"})
    with pytest.raises(RetrievalError, match=r"set retrieval\.url"):
        open_retriever(evaluation_profile(), "remote")
    documents = read_corpus(tmp_path / "data" / "corpus.jsonl")
    toy = ToyRetriever(documents)
    with serving(make_app(toy, documents=len(documents), cache=0)) as url:
        profile = remote_profile(url)
        bench = Bench(profile)
        found = bench.retriever("dense")  # the server stands in for the dense index
        assert found is bench.retriever() and isinstance(found, CachedRetriever)
        query = f"which river at {TOWNS[7]}?"
        assert found.search([query], 4) == toy.search([query], 4)
        assert found.search([query], 4)[0][0].document is found.inner._known["d07"]  # type: ignore[attr-defined]
        assert retrieval_settings(profile, "dense") == f"remote {toy.fingerprint}"
        assert retrieval_settings(profile, "lexical").startswith("lexical")
        assert connect(profile).patience == IMPATIENT
        toy.name = "bm25"
        with pytest.raises(RetrievalError, match="serves bm25, dense retrieval is asked for"):
            Bench(profile).retriever("dense")
        assert Bench(profile).retriever().name == "bm25"  # the profile's own is whatever the server has
        toy.documents[7] = Document("d07", "Town7", "Another text.")
        with pytest.raises(RetrievalError, match="document 'd07' .* is not that of the profile's corpus"):
            open_retriever(profile, cache=False).search(["which river at Town7?", "x at Town6"], 1)


def remote_profile(url: str, patience: float = IMPATIENT) -> Profile:
    from s3mini.profile import changed

    keys = {"retrieval.kind": "remote", "retrieval.url": url, "retrieval.patience": patience}
    return changed(evaluation_profile(), keys)


# Killed half-way


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
            found[key] = {name: value for name, value in record.items() if name != "seconds"}
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
