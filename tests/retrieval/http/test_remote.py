"""The remote retriever: against our server and a stand-in of theirs, malformed answers, patience, in a profile."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from evaluation_toys import evaluation_profile
from rag_toys import TOWNS, ToyRetriever, make_world
from server_toys import (
    IMPATIENT,
    PATIENCE,
    TheirServer,
    WordRetriever,
    free_port,
    remote_profile,
    serving,
    wait_until,
    word_hit,
)

from s3mini.bench import Bench
from s3mini.corpus import read_corpus
from s3mini.errors import ProfileError, RetrievalError
from s3mini.profile import load_profile
from s3mini.records import Document
from s3mini.retrieval import CachedRetriever, RemoteRetriever, Retriever, connect, open_retriever
from s3mini.retrieval.http.server import make_app
from s3mini.retrieval.http.wire import Limits

CORPUS = [
    Document("0", 'The "Blue" Lantern', "A film.\nDirected by Orsa Velin."),
    Document("1", "", "No title, one line."),
    Document("2", "Café (Zürich)", "東京 🍵"),
    Document("3", "Karst", "A city."),
]
KNOWN = {document.id: document for document in CORPUS}


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
        ({"result": rows(0, 1)}, "1 answers to 2 queries"),
        ({"error": "no quota"}, "result: Field required; it says: no quota"),
        ({"detail": [{"msg": "busy"}]}, "it says: "),
        ({"result": None, "error": {"message": "no index"}}, "it says: no index"),
        ({"result": [rows(0), [{"document": {"id": "0"}, "score": 1}]]}, "result.1.0.document.contents"),
        (
            {"result": [rows(0), [{"document": {"id": "0", "contents": None}, "score": 1}]]},
            "document.contents",
        ),
        ({"result": [rows(0), [{"document": {"id": "0", "title": "x"}, "score": 1}]]}, "document.contents"),
        ({"result": [rows(0), rows(1, score="high")]}, "result.1.0.score"),
        ({"result": [rows(0), rows(1, score=float("nan"))]}, "result.1.0.score"),
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


def scored(n: int, score: float | None = 0.5, **document: Any) -> dict[str, Any]:
    shown = document or {"id": str(n), "contents": CORPUS[n].contents}
    return {"document": shown} if score is None else {"document": shown, "score": score}


@pytest.mark.parametrize(
    ("block", "found", "told"),
    [
        ([scored(0)], [0], None),  # fewer than asked for
        ([], [], None),
        ([scored(3, id=3, contents=CORPUS[3].contents)], [3], None),
        ([scored(3, docid="3", contents=CORPUS[3].contents)], [3], None),
        ([scored(3, title="Karst", text="A city.")], [3], None),
        ([scored(3, title="Karst", content="A city.", id="3")], [3], None),
        ([scored(3, title="Karst", contents="A city.", id="3")], [3], None),
        ([scored(1, text="No title, one line.")], [1], None),
        ([scored(1, contents="No title, one line.", title=None)], [1], None),
        ([{"document": CORPUS[3].contents, "score": 1}], [3], None),
        ([{"id": "3", "contents": CORPUS[3].contents}], [3], "gives no scores"),
        ([CORPUS[3].contents, CORPUS[0].contents], [3, 0], "gives no scores"),
        ([scored(3, None), scored(0, None)], [3, 0], "gives no scores"),
        ([scored(3, None), scored(0, 0.9)], [3, 0], "gives no scores"),
        ([scored(3), scored(0), scored(1), scored(2)], [3, 0], "gives more documents than asked for"),
        ([scored(3), scored(3)], [3], "a document comes twice"),
        ([scored(3), scored(0, -3.4028234663852886e38)], [3], "the index has fewer documents"),
        ([scored(0, id="9", contents='""\n '), scored(3)], [3], "a document has neither title nor text"),
        ([{**scored(3), "score": "0.5", "url": "http://x"}], [3], None),
    ],
)
def test_what_servers_of_that_family_answer(
    block: Any, found: list[int], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = TheirServer(CORPUS)
    theirs.reply = lambda request, result: {"result": [block for _ in request["queries"]]}
    with theirs.serving() as url:
        remote = RemoteRetriever(url, KNOWN, patience=0)
        for hits in remote.search(["a", "b"], 2) + remote.search(["c"], 2):
            assert [hit.document for hit in hits] == [CORPUS[n] for n in found]
            assert all(a.score >= b.score for a, b in zip(hits, hits[1:], strict=False))
    messages = [record.getMessage() for record in caplog.records if record.name == "s3mini"]
    assert len(messages) == (told is not None), messages
    assert told is None or told in messages[0]


def test_one_query_may_be_answered_without_the_list_around() -> None:
    theirs = TheirServer(CORPUS)
    theirs.reply = lambda request, result: {"result": rows(3, 0)}
    with theirs.serving() as url:
        assert [h.document for h in RemoteRetriever(url, KNOWN).search(["a"], 2)[0]] == [CORPUS[3], CORPUS[0]]


def test_a_request_that_is_too_large_is_sent_in_parts() -> None:
    theirs = TheirServer(CORPUS)
    with theirs.serving() as url:
        remote = RemoteRetriever(url, KNOWN)
        assert remote.health is None
        theirs.statuses = [(413, {}), (413, {})]
        assert len(remote.search([f"q{i}" for i in range(10)], 2)) == 10
        assert [len(request["queries"]) for request in theirs.asked] == [2, 2, 2, 2, 2]
        theirs.statuses = [(413, {})]
        with pytest.raises(RetrievalError, match="answered 413"):
            remote.search(["one"], 2)


def test_our_servers_problems_are_errors_where_a_query_was_not_searched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(make_app(WordRetriever(), limits=Limits(characters=6, documents=8))) as url:
        remote = RemoteRetriever(url)
        assert [hits[0].document.id for hits in remote.search(["a much longer one", "b"], 4)] == [
            "a much-0",
            "b-0",
        ]
        assert (
            sum("too long: 17 characters" in record.getMessage() for record in caplog.records) == 2
        )  # both ends
        with pytest.raises(RetrievalError, match="query 3 of 4: failed: .*cannot search 'bad'"):
            remote.search(["a", "b", "c", "bad"], 4)


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
        assert Bench(profile).retriever_depends_on("dense") == f"remote {toy.fingerprint}"
        assert Bench(profile).retriever_depends_on("lexical").startswith("lexical")
        assert connect(profile).patience.seconds == IMPATIENT
        toy.name = "bm25"
        with pytest.raises(RetrievalError, match="serves bm25, dense retrieval is asked for"):
            Bench(profile).retriever("dense")
        assert Bench(profile).retriever().name == "bm25"  # the profile's own is whatever the server has
        own = toy.documents[7]
        toy.documents[7] = Document(
            "d07", own.title, own.text.replace(" ", "\u00a0")
        )  # the same in another form
        assert found.inner.search([query], 1)[0][0].document == own  # type: ignore[attr-defined]
        toy.documents[7] = Document("d07", "Town7", "Another text.")
        with pytest.raises(RetrievalError, match="document 'd07' .* is not that of the profile's corpus"):
            open_retriever(profile, cache=False).search(["which river at Town7?", "x at Town6"], 1)
