"""The retrieval server: the wire format, micro-batches, limits, overload, failures, a graceful stop."""

from __future__ import annotations

import functools
import gzip
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from rag_toys import TOWNS, make_world
from retrieval_toys import DOCUMENTS, QUERIES, SPEC
from server_toys import Process, WordRetriever, serving, wait_until, word_hit
from typer.testing import CliRunner

from s3mini.cli import app as command_line
from s3mini.cli import main
from s3mini.retrieval import DenseRetriever, Encoder, LexicalRetriever, Retriever
from s3mini.retrieval.base import rank, settled
from s3mini.retrieval.dense import build_dense
from s3mini.retrieval.hit_cache import HitCache
from s3mini.retrieval.http.server import bind, make_app
from s3mini.retrieval.http.wire import FINGERPRINT, Limits
from s3mini.retrieval.lexical import build_lexical


@pytest.fixture
def words() -> WordRetriever:
    return WordRetriever()


def post(url: str, **request: Any) -> requests.Response:
    """As the originals' clients do it."""
    return requests.post(f"{url}/retrieve", json=request, timeout=60)


def ids(result: list[dict[str, Any]]) -> list[str]:
    return [row["document"]["id"] for row in result]


# The wire format


def test_a_client_written_for_the_originals_works(words: WordRetriever) -> None:
    with serving(make_app(words)) as url:
        payload = {"queries": ["a b", "Zürich 東京"], "topk": 2, "return_scores": True}
        results = requests.post(f"{url}/retrieve", json=payload, timeout=60).json()["result"]
        shown = ""
        for rank_, item in enumerate(results[1]):  # how s3 and Search-R1 render a block
            title, _, text = item["document"]["contents"].partition("\n")
            shown += f"Doc {rank_ + 1}(Title: {title}) {text}\n"
        first = 'Doc 1(Title: ""Zürich 東京" (0)") About Zürich 東京.\nRank 0.\n'
        assert shown.startswith(first)
        hits = [word_hit("a b", i) for i in range(2)]
        documents = [{"id": h.document.id, "contents": h.document.contents} for h in hits]
        scored = [{"document": d, "score": h.score} for d, h in zip(documents, hits, strict=True)]
        assert results[0] == scored
        assert post(url, queries=["a b"], topk=2, return_scores=False).json() == {"result": [documents]}
        assert post(url, queries=["a b"], topk=2).json() == {"result": [documents]}
        assert len(post(url, queries=["a b"], topk=None).json()["result"][0]) == 3  # the server's own number
        assert post(url, queries=[]).json() == {"result": []}
        assert post(url, queries=["a", "b", "a"]).json()["result"][2][0]["id"] == "a-0"


@pytest.mark.parametrize(
    "header", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"]
)
def test_a_content_type_is_read_in_any_case(words: WordRetriever, header: str) -> None:
    with serving(make_app(words)) as url:
        headers = {"content-type": header, "content-encoding": "identity"}
        answer = httpx.post(f"{url}/retrieve", content=b'{"queries": ["a"]}', headers=headers)
        assert answer.status_code == 200, answer.text


def test_half_a_character_is_served(words: WordRetriever) -> None:
    with serving(make_app(words)) as url:
        body = b'{"queries": ["one \\ud800", "two"], "topk": 1}'
        answer = httpx.post(f"{url}/retrieve", content=body, headers={"content-type": "application/json"})
        assert [block[0]["id"] for block in answer.json()["result"]] == ["one ?-0", "two-0"]


def test_health_openapi_and_fingerprint(words: WordRetriever) -> None:
    with serving(make_app(words, documents=7, topk=5, limits=Limits(k=9))) as url:
        health = httpx.get(f"{url}/health").json()
        assert health | {"version": "", "limits": health["limits"]["k"]} == {
            "status": "ok", "retriever": "words", "fingerprint": "words-1", "documents": 7, "version": "",
            "topk": 5, "waiting": 0, "limits": 9,
        }  # fmt: skip
        described = httpx.get(f"{url}/openapi.json").json()["paths"]["/retrieve"]["post"]
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["properties"]) == {"queries", "topk", "return_scores"}
        assert {"200", "413", "422", "500", "503"} <= set(described["responses"])
        assert post(url, queries=["a"]).headers[FINGERPRINT] == "words-1"


# The engines


@pytest.fixture(scope="module", params=["dense", "lexical"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "lexical":
        build_lexical(folder, DOCUMENTS, progress=False)
        return LexicalRetriever(folder, DOCUMENTS)
    build_dense(folder, DOCUMENTS, Encoder(SPEC), progress=False)
    return DenseRetriever(folder, DOCUMENTS, Encoder(SPEC))


def test_concurrent_answers_equal_direct_ones(engine: Retriever) -> None:
    """Whatever batch a query comes in, and whatever k its neighbours ask for; a third of the corpus is ties."""
    asked = [(query, k) for k in (1, 2, 5, 11, 18) for query in QUERIES]
    with serving(make_app(engine, cache=0)) as url, ThreadPoolExecutor(12) as clients:
        answers = clients.map(
            lambda a: post(url, queries=[a[0]], topk=a[1], return_scores=True).json(), asked
        )
        for (query, k), answer in zip(asked, answers, strict=True):
            (direct,) = engine.search([query], k)
            (served,) = answer["result"]
            assert ids(served) == [hit.document.id for hit in direct]
            assert [row["score"] for row in served] == pytest.approx([h.score for h in direct], abs=3e-6)


def test_fewer_documents_are_a_prefix_of_more(engine: Retriever) -> None:
    whole = engine.search(QUERIES, len(DOCUMENTS))
    for k in (1, 2, 3, 6, 9, 14):
        for more, fewer in zip(whole, engine.search(QUERIES, k), strict=True):
            assert [hit.document.id for hit in fewer] == [hit.document.id for hit in more[:k]]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 10), st.integers(1, 10))
def test_ranks_do_not_depend_on_k(scores: list[int], k: int, more: int) -> None:
    """The rule of both engines, on scores full of near-ties: fetch until settled, rank, cut."""
    tolerance = 2.5
    falling = sorted(((float(score), f"d{i:02}") for i, score in enumerate(scores)), reverse=True)

    def search(k: int) -> list[tuple[float, str]]:
        fetch = k
        while fetch < len(falling) and not settled([score for score, _ in falling[:fetch]], k, tolerance):
            fetch += 1
        return rank(falling[:fetch], tolerance)[:k]

    assert search(k + more)[:k] == search(k)


# Micro-batches and the cache


def blocked(words: WordRetriever, url: str, clients: ThreadPoolExecutor) -> Any:
    """A first query that holds the engine until the gate opens."""
    words.gate.clear()
    first = clients.submit(post, url, queries=["first"], return_scores=True)
    wait_until(lambda: words.batches)
    return first


def waiting(url: str) -> int:
    return int(httpx.get(f"{url}/health").json()["waiting"])


def test_what_waits_is_searched_together(words: WordRetriever) -> None:
    with serving(make_app(words, cache=0)) as url, ThreadPoolExecutor(12) as clients:
        first = blocked(words, url, clients)
        asked = [(["a"], 1), (["b", "c"], 4), (["a"], 2), (["c", "b", "c"], 1), (["d"], 3)]
        answers = [clients.submit(post, url, queries=q, topk=k, return_scores=True) for q, k in asked]
        wait_until(lambda: waiting(url) == 4)
        words.gate.set()
        assert ids(first.result().json()["result"][0]) == ["first-0", "first-1", "first-2"]
        for (queries, k), answer in zip(asked, answers, strict=True):
            expected = [[f"{query}-{i}" for i in range(k)] for query in queries]
            assert [ids(block) for block in answer.result().json()["result"]] == expected
        (_, (batch, k)) = words.batches  # each distinct query once, for the most that anybody wants
        assert (sorted(batch), k) == (["a", "b", "c", "d"], 4)
        assert len(words.threads) == 1


def test_a_batch_has_a_bound(words: WordRetriever) -> None:
    with serving(make_app(words, limits=Limits(batch=3), cache=0)) as url:
        answer = post(url, queries=[f"q{i}" for i in range(8)], topk=1).json()["result"]
        assert [block[0]["id"] for block in answer] == [f"q{i}-0" for i in range(8)]
        assert [len(batch) for batch, _ in words.batches] == [3, 3, 2]


def test_cache_serves_what_it_knows_and_counts_it(words: WordRetriever) -> None:
    with serving(make_app(words)) as url:
        for k in (4, 4, 2, 5):
            assert [row["id"] for row in post(url, queries=["a"], topk=k).json()["result"][0]] == [
                f"a-{i}" for i in range(k)
            ]
        assert words.batches == [(["a"], 4), (["a"], 5)]
        counted = httpx.get(f"{url}/metrics").text
        assert 's3mini_requests_total{status="200"} 4.0' in counted
        assert "s3mini_queries_total 4.0" in counted and "s3mini_cache_hits_total 2.0" in counted
        assert "s3mini_batch_queries_count 2.0" in counted and "s3mini_request_seconds_count 4.0" in counted
        assert "s3mini_waiting_queries 0.0" in counted and "s3mini_search_seconds_sum" in counted


def test_cache_of_hits_knows_when_it_has_them_all() -> None:
    cache = HitCache(2)
    hits = [word_hit("a", i) for i in range(3)]
    cache.put("a", 5, hits)  # five asked for, three there are
    assert cache.get("a", 9) == hits and cache.get("a", 2) == hits[:2]
    cache.put("a", 1, hits[:1])
    assert cache.get("a", 5) == hits, "less was put over more"
    cache.put("b", 2, hits[:2])
    assert cache.get("b", 3) is None and cache.get("none", 1) is None
    cache.get("a", 1)
    cache.put("c", 1, hits[:1])
    assert cache.get("b", 1) is None and cache.get("a", 1) is not None, "the oldest goes"


# Limits, overload, failures


LIMITS = Limits(queries=4, k=10, documents=30, characters=20, body=400)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"queries": list("abcde")}, 413, "5 queries in one request, at most 4"),
        ({"queries": ["x" * 500]}, 413, "longer than 400 bytes"),
        (
            {"queries": ["a", "b", "c", "d"], "topk": 8},
            413,
            "4 queries of 8 documents in one request, at most 30",
        ),
        ({"queries": ["a"], "topk": 11}, 422, "topk must be between 1 and 10, not 11"),
        ({"queries": ["a"], "topk": -1}, 422, "topk must be between 1 and 10, not -1"),
        ({"queries": ["a"], "topk": "many"}, 422, "topk: Input should be a valid integer"),
        ({"queries": "a"}, 422, "queries: Input should be a valid"),
        ({"queries": None}, 422, "queries: Input should be a valid"),
        ({"topk": 3}, 422, "queries: Field required"),
        (b"{not json", 422, "not a request"),
        (b'{"queries": ["\\ud800"', 422, "not a request"),
    ],
)
def test_what_is_refused_and_why(words: WordRetriever, body: Any, status: int, told: str) -> None:
    with serving(make_app(words, limits=LIMITS)) as url:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        answer = httpx.post(f"{url}/retrieve", content=content, headers=headers)
        assert answer.status_code == status and told in answer.json()["detail"]
        if (
            status == 413 and len(content) > LIMITS.body
        ):  # sent in pieces, so that its length is not announced
            pieces = iter([content[:300], content[300:]])
            assert httpx.post(f"{url}/retrieve", content=pieces, headers=headers).status_code == 413
        assert httpx.post(f"{url}/retrieve", content=b'{"queries": ["a"]}').status_code == 415
        packed = httpx.post(
            f"{url}/retrieve",
            content=gzip.compress(b'{"queries": ["a"]}'),
            headers=headers | {"content-encoding": "gzip"},
        )
        assert packed.status_code == 415 and "not packed by gzip" in packed.json()["detail"]
        assert words.batches == []
        assert post(url, queries=["fine"]).status_code == 200


CUT = "too long: 25 characters, searched by its first 20"
NOTHING, NO_TEXT = "empty: it finds nothing", "neither text nor number: it finds nothing"
FAILED = "failed: the retriever failed: ValueError: cannot search 'bad'"


@pytest.mark.parametrize(
    ("odd", "found", "problem"),
    [
        ("", None, NOTHING),
        (" \n\t", None, NOTHING),
        ("\u2003", None, NOTHING),
        ("\x00", None, NOTHING),
        ("\u200b", None, NOTHING),
        (None, None, NO_TEXT),
        (True, None, NO_TEXT),
        (["a query", "in a list"], None, NO_TEXT),
        ({"query": "a"}, None, NO_TEXT),
        (1984, "1984", None),
        (3.5, "3.5", None),
        (1e22, "1e+22", None),
        (float("nan"), "NaN", None),
        ("half \ud800", "half ?", None),
        ("pair \U0001f600", "pair \U0001f600", None),
        (functools.reduce(lambda inner, _: [inner], range(300), "deep"), None, NO_TEXT),
        (10**18, "1" + "0" * 18, None),
        ("bad", None, FAILED),
        ("y" * 25, "y" * 20, CUT),
        (" " * 24 + "z", "z", CUT),
        ("again", "again", None),
    ],
)
@pytest.mark.parametrize("position", [0, 2])
def test_one_odd_query_costs_the_others_nothing(
    words: WordRetriever, odd: Any, found: str | None, problem: str | None, position: int
) -> None:
    queries: list[Any] = ["one", "two", "again"]
    queries.insert(position, odd)
    limits = Limits(characters=20, batch=2)
    with serving(make_app(words, limits=limits)) as url:
        body = json.dumps({"queries": queries, "topk": 2}).encode()
        answer = httpx.post(f"{url}/retrieve", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        wanted = [found if i == position else query for i, query in enumerate(queries)]
        shown = [[row["id"] for row in block] for block in answer.json()["result"]]
        assert shown == [[f"{query}-0", f"{query}-1"] if query else [] for query in wanted]
        assert answer.json().get("problems") == ({str(position): problem} if problem else None)
        if problem:
            what = problem.partition(":")[0]
            assert f's3mini_odd_queries_total{{what="{what}"}} 1.0' in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize(
    ("more", "rows"),
    [
        ({}, 3),
        ({"topk": None}, 3),
        ({"topk": 0}, 3),
        ({"topk": "2"}, 2),
        ({"topk": 2.0}, 2),
        ({"return_scores": None}, 3),
        ({"return_scores": 0}, 3),
        ({"return_scores": "false"}, 3),
        ({"search_url": "x", "task": {"a": 1}}, 3),
    ],
)
def test_what_the_originals_fill_in_or_pass_over(words: WordRetriever, more: Any, rows: int) -> None:
    with serving(make_app(words)) as url:
        assert [row["id"] for row in post(url, queries=["a"], **more).json()["result"][0]] == [
            f"a-{i}" for i in range(rows)
        ]


def test_a_trainers_whole_batch_in_one_request(words: WordRetriever) -> None:
    """2,560 queries, a fifth of them twice, searched in pieces; a short request gets its turn in between.

    They are as long as what a model writes in 500 tokens of another script, escaped as the trainers' clients do: 12 MB.
    """
    queries = ["長" * 800 + f"q{i % 2048}" for i in range(2560)]
    with serving(make_app(words, cache=0)) as url, ThreadPoolExecutor(2) as clients:
        words.gate.clear()
        asked = clients.submit(post, url, queries=queries, topk=3, return_scores=True)
        wait_until(lambda: words.batches)
        assert waiting(url) == 2560 - 128
        short = clients.submit(post, url, queries=["short"], topk=1)
        wait_until(lambda: waiting(url) == 2560 - 128 + 1)
        words.gate.set()
        assert short.result().json()["result"][0][0]["id"] == "short-0"
        answer = asked.result().json()
        assert [ids(block) for block in answer["result"]] == [[f"{q}-{r}" for r in range(3)] for q in queries]
        assert max(len(batch) for batch, _ in words.batches) <= 128
        assert "short" in [q for batch, _ in words.batches[:3] for q in batch]
        assert waiting(url) == 0


def test_a_score_that_is_no_number_costs_the_others_nothing(words: WordRetriever) -> None:
    with serving(make_app(words)) as url:
        answer = post(url, queries=["one", "nan", "two"], topk=1, return_scores=True)
        assert answer.status_code == 200, answer.text
        assert [ids(block) for block in answer.json()["result"]] == [["one-0"], [], ["two-0"]]
        assert "failed: the retriever failed: ValueError" in answer.json()["problems"]["1"]
        assert post(url, queries=["nan"], return_scores=True).status_code == 500


def test_an_engine_that_is_dead_fails_a_long_request_at_once(words: WordRetriever) -> None:
    with serving(make_app(words, limits=Limits(batch=4), cache=0)) as url:
        assert post(url, queries=[f"bad {i}" for i in range(40)]).status_code == 500
        assert len({q for batch, _ in words.batches for q in batch}) <= 4
        assert waiting(url) == 0


def test_overload_is_503_with_retry_after_and_passes(words: WordRetriever) -> None:
    limits = Limits(waiting=4)
    with serving(make_app(words, limits=limits)) as url, ThreadPoolExecutor(12) as clients:
        first = blocked(words, url, clients)
        taken = [clients.submit(post, url, queries=[f"q{i}"], topk=1) for i in range(4)]
        wait_until(lambda: waiting(url) == 4)
        refused = post(url, queries=["one more"])
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        assert "too many queries are waiting" in refused.json()["detail"]
        same = clients.submit(post, url, queries=["q1"], topk=2)  # already waits: no room needed
        assert "s3mini_rejected_total 1.0" in httpx.get(f"{url}/metrics").text
        words.gate.set()
        assert first.result().status_code == 200
        for i, answer in enumerate(taken):
            assert answer.result().json()["result"][0][0]["id"] == f"q{i}-0"
        assert len(same.result().json()["result"][0]) == 2
        assert not any("one more" in batch for batch, _ in words.batches), "a refused query was searched"
        assert post(url, queries=["one more"], topk=1).json()["result"][0][0]["id"] == "one more-0"


def test_many_clients_all_get_their_own_answers(words: WordRetriever) -> None:
    with serving(make_app(words, limits=Limits(waiting=64, batch=7))) as url:
        wrong: list[str] = []

        def client(number: int) -> None:
            with httpx.Client() as session:
                for i in range(12):
                    queries, k = [f"q{(number * i) % 50}", f"c{number}-{i}"], 1 + (number + i) % 4
                    request = {"queries": queries, "topk": k, "return_scores": True}
                    result = session.post(f"{url}/retrieve", json=request).json()["result"]
                    if [ids(block) for block in result] != [[f"{q}-{r}" for r in range(k)] for q in queries]:
                        wrong.append(queries[1])

        threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_failing_engine_is_500_for_its_own_query_only(words: WordRetriever) -> None:
    with serving(make_app(words)) as url, ThreadPoolExecutor(12) as clients:
        first = blocked(words, url, clients)
        asked = ["good", "bad", "fine", "well", "bad again"]
        answers = {query: clients.submit(post, url, queries=[query], topk=1) for query in asked}
        wait_until(lambda: waiting(url) == len(asked))
        words.gate.set()
        assert first.result().status_code == 200
        for query, future in answers.items():
            answer = future.result()
            if query.startswith("bad"):
                assert answer.status_code == 500
                assert answer.json() == {
                    "detail": f"the retriever failed: ValueError: cannot search {query!r}"
                }
            else:
                assert answer.json()["result"][0][0]["id"] == f"{query}-0"
        assert post(url, queries=["bad", "bad again"]).status_code == 500  # nothing of it can be searched
        panicked = post(url, queries=["bad panic"])
        assert panicked.status_code == 500 and "PanicException: index out of bounds" in panicked.text
        assert post(url, queries=["good"]).status_code == 200


# The process


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    make_world(tmp_path)
    found = Process(tmp_path, pause=1.0)
    yield found
    found.kill()


def test_told_to_stop_it_answers_what_it_took(process: Process) -> None:
    process.start()
    with ThreadPoolExecutor(1) as clients:
        taken = clients.submit(post, process.url, queries=[f"which river at {TOWNS[4]}?"], topk=1)
        wait_until(lambda: "s3mini_open_requests 1.0" in httpx.get(f"{process.url}/metrics").text)
        assert process.child is not None
        process.child.send_signal(signal.SIGTERM)
        assert taken.result().json()["result"][0][0]["id"] == "d04"
        assert process.child.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.url}/health")


def test_command_line_refuses_what_it_cannot_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = CliRunner()
    for wrong in (["--kind", "sparse"], ["--topk", "200"], ["--port", "70000"]):
        assert runner.invoke(command_line, ["serve", "retriever", *wrong]).exit_code == 2
    bound = bind("127.0.0.1", 0)
    bound.listen()
    with pytest.raises(SystemExit) as ended:
        main(["serve", "retriever", "--port", str(bound.getsockname()[1])])
    bound.close()
    assert ended.value.code == 1 and "name another --port" in capsys.readouterr().err
    with pytest.raises(ValueError, match="topk"):
        make_app(WordRetriever(), topk=101)
