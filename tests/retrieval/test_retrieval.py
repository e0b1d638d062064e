"""Retrieval: both engines against independent implementations, ties, odd queries, foreign and broken indexes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retrieval_toys import DOCUMENTS, QUERIES, SAME, SPEC, ids

from s3mini.errors import RetrievalError
from s3mini.profile import LexicalSpec
from s3mini.records import Document, Hit
from s3mini.retrieval import (
    CachedRetriever,
    DenseRetriever,
    Encoder,
    LexicalRetriever,
    Retriever,
)
from s3mini.retrieval import encoder as encoder_module
from s3mini.retrieval.base import check_queries, rank, settled
from s3mini.retrieval.broken import BrokenRetriever
from s3mini.retrieval.dense import TIE, build_dense
from s3mini.retrieval.encoder import batches
from s3mini.retrieval.lexical import build_lexical
from s3mini.unicode import blank


@pytest.fixture(scope="module")
def lexical(tmp_path_factory: pytest.TempPathFactory) -> LexicalRetriever:
    folder = tmp_path_factory.mktemp("lexical")
    build_lexical(folder, DOCUMENTS, progress=False)
    return LexicalRetriever(folder, DOCUMENTS)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> DenseRetriever:
    folder = tmp_path_factory.mktemp("dense")
    build_dense(folder, DOCUMENTS, Encoder(SPEC), progress=False)
    return DenseRetriever(folder, DOCUMENTS, Encoder(SPEC))


# Independent references


def bm25_reference(query: str, documents: Sequence[Document], k1: float, b: float) -> dict[str, float]:
    """Lucene's BM25 over plain lower-case words (the test's words have no stems or stop words)."""
    words = {d.id: re.findall(r"\w+", d.contents.lower()) for d in documents}
    mean = sum(map(len, words.values())) / len(words)
    scores: dict[str, float] = {}
    for identifier, own in words.items():
        counts = Counter(own)
        for term in re.findall(r"\w+", query.lower()):
            holding = sum(term in other for other in words.values())
            if counts[term]:
                idf = math.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
                norm = k1 * (1 - b + b * len(own) / mean)
                scores[identifier] = scores.get(identifier, 0.0) + idf * counts[term] / (counts[term] + norm)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75)])
def test_bm25_equals_the_formula(tmp_path: Path, k1: float, b: float) -> None:
    random = np.random.default_rng(0)
    vocabulary = ["zarn", "quol", "brimt", "vost", "kelp", "drun", "phax", "wump"]
    texts = [" ".join(random.choice(vocabulary, size=n)) for n in random.integers(2, 30, size=25)]
    documents = [Document(f"x{i:02d}", "glim", text) for i, text in enumerate(texts)]
    build_lexical(tmp_path, documents, progress=False)
    retriever = LexicalRetriever(tmp_path, documents, LexicalSpec(k1=k1, b=b))
    for query in ("zarn", "quol brimt", "kelp kelp drun", "wump vost phax zarn"):
        expected = bm25_reference(query, documents, k1, b)
        found = {h.document.id: h.score for h in retriever.search([query], 25)[0]}
        assert found.keys() == expected.keys()
        assert all(abs(found[i] - expected[i]) < 2e-4 for i in expected)  # Anserini keeps four decimals
        assert list(found) == sorted(found, key=lambda i: (-found[i], i))


def test_dense_equals_brute_force(dense: DenseRetriever) -> None:
    vectors = dense.encoder.passages([d.contents for d in DOCUMENTS])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    scores = dense.encoder.queries(QUERIES) @ vectors.T
    for row, hits in zip(scores, dense.search(QUERIES, len(DOCUMENTS)), strict=True):
        expected = rank(list(zip(row.tolist(), (d.id for d in DOCUMENTS), strict=True)), TIE)
        assert ids(hits) == [identifier for _, identifier in expected]
        assert np.allclose([h.score for h in hits], [score for score, _ in expected], atol=1e-5)


def test_encoder_equals_transformers_with_mean_pooling() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    encoder = Encoder(SPEC)
    tokens = AutoTokenizer.from_pretrained(encoder.path)(QUERIES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(encoder.path).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    assert np.allclose(encoder.queries(QUERIES), pooled.numpy(), atol=1e-5)


def test_prefixes_and_lengths_reach_the_encoder() -> None:
    plain = Encoder(SPEC)
    e5 = Encoder(
        SPEC.model_copy(
            update={"query_prefix": "query: ", "passage_prefix": "passage: ", "max_passage_tokens": 8}
        )
    )
    assert np.allclose(e5.queries(["tea"]), plain.queries(["query: tea"]), atol=1e-5)
    cut = e5.passages(["tea " * 50])
    assert np.allclose(cut, e5.passages(["tea " * 60]), atol=1e-5)  # both cut to eight tokens
    assert not np.allclose(cut, plain.queries(["passage: " + "tea " * 50]), atol=1e-3)
    assert e5.fingerprint_parts != plain.fingerprint_parts


def test_batches_hold_texts_of_one_length_and_no_more_tokens_than_allowed() -> None:
    assert batches([9, 3, 3, 8, 20, 3], 4, 12) == [[1, 2, 5], [3], [0], [4]]  # 20: alone, whatever is allowed
    assert batches([1] * 5, 2, 100) == [[0, 1], [2, 3], [4]]
    assert batches([], 2) == []


def test_products_in_bfloat16_move_vectors_little_and_ranks_not() -> None:
    full, narrow = Encoder(SPEC), Encoder(SPEC.model_copy(update={"products": "bfloat16"}))
    texts = [d.contents for d in DOCUMENTS]
    one, two = full.passages(texts), narrow.passages(texts)
    assert two.dtype == np.float32 and not np.array_equal(one, two)
    assert (one * two).sum(1).min() > 0.9999 and np.allclose(np.linalg.norm(two, axis=1), 1, atol=1e-5)
    asked = full.queries(QUERIES)
    assert np.array_equal(asked, narrow.queries(QUERIES))
    assert np.array_equal((asked @ one.T).argmax(1), (asked @ two.T).argmax(1))
    assert full.fingerprint_parts != narrow.fingerprint_parts


@pytest.mark.parametrize(("seconds", "chosen"), [(1.0, "bfloat16"), (1.9, "float32")])
def test_products_are_chosen_by_trial(monkeypatch: pytest.MonkeyPatch, seconds: float, chosen: str) -> None:
    took = iter([2.0, seconds])
    monkeypatch.setattr(encoder_module.timeit, "repeat", lambda *_, **__: [next(took)])
    encoder_module.fastest_products.cache_clear()
    spec = SPEC.model_copy(update={"products": "auto"})
    assert [Encoder(spec).products for _ in range(2)] == [chosen] * 2  # tried once a process
    encoder_module.fastest_products.cache_clear()
    assert Encoder(SPEC).products == "float32"


# Both engines


@pytest.fixture(params=["lexical", "dense"])
def retriever(request: pytest.FixtureRequest) -> Retriever:
    found: Retriever = request.getfixturevalue(request.param)
    return found


def test_finds_the_document(retriever: Retriever) -> None:
    assert isinstance(retriever, Retriever)
    found = [ids(hits)[0] for hits in retriever.search(QUERIES[:3], 3)]
    assert found == ["d1", found[1], "d5"] and found[1] in {"d4", "d6"}
    hit = retriever.search(["who directed The Blue Lantern"], 1)[0][0]
    assert hit.document == DOCUMENTS[0] and isinstance(hit.score, float)


def test_ties_are_cut_by_id_at_every_k(retriever: Retriever) -> None:
    """Twelve copies of one passage: whatever k and whatever the batch, the smallest ids come first."""
    copies = sorted(d.id for d in DOCUMENTS if d.text == SAME)
    for k in (1, 2, 5, 11, 12):
        for batch in (["ships and cargo"], ["ships and cargo", *QUERIES * 9]):
            hits = retriever.search(batch, k)[0]
            assert ids(hits) == copies[:k]
            assert len({hit.score for hit in hits}) == 1


def test_order_of_batch_and_of_hits(retriever: Retriever) -> None:
    singly = [retriever.search([query], 6)[0] for query in QUERIES]
    together = retriever.search(QUERIES[::-1] + QUERIES[:1], 6)
    assert [ids(h) for h in together] == [ids(h) for h in [*singly[::-1], singly[0]]]
    for hits in together:
        assert [(h.score, h.document.id) for h in hits] == rank([(h.score, h.document.id) for h in hits])


def test_k_above_the_corpus(dense: DenseRetriever, lexical: LexicalRetriever) -> None:
    assert sorted(ids(dense.search(["river"], 1000)[0])) == sorted(d.id for d in DOCUMENTS)
    assert set(ids(lexical.search(["river"], 1000)[0])) == {"d3", "d4", "d6"}  # those that hold the word
    assert lexical.search(["the of and", "xyzzy"], 5) == [[], []]


def test_refused_queries(retriever: Retriever) -> None:
    with pytest.raises(RetrievalError, match="query 1 of 3 is empty"):
        retriever.search(["river", " \n", "tea"], 3)
    with pytest.raises(RetrievalError, match="query 0 of 1 is empty"):
        retriever.search(["\u200b\0\u00a0"], 3)  # nothing that can be seen
    with pytest.raises(ValueError, match="k must be at least 1"):
        retriever.search(["river"], 0)
    with pytest.raises(TypeError, match="list of queries"):
        retriever.search("river", 3)
    assert retriever.search([], 3) == []


@pytest.mark.parametrize(
    "query",
    [
        "\ud800 river",
        "river\0Karst",
        '"river" AND NOT (title:x* ~',
        "river " * 3000,
        "🍵 東京",
        "<query>river</query>",
    ],
)
def test_odd_queries_are_served(retriever: Retriever, query: str) -> None:
    assert retriever.search([query], 3)[0]


FORMS = [
    ("Café Zürich’s tea – “naïve”", 'Cafe\u0301 Zu\u0308rich\'s tea - "nai\u0308ve"'),
    ("\ufb01fth Quorn\u00a0Marsh", "fifth Quorn Marsh"),
    ("Ｋａｒｓｔ ｃｉｔｙ", "Karst city"),
    ("Kar\u00adst ci\u200bty", "Karst city"),
    ("Straße ΟΔΟΣ CO₂", "STRASSE Οδος CO2"),
    ("İstanbul", "Istanbul"),
]
"""Forms of one text, in pairs."""


@pytest.mark.parametrize(("left", "right"), FORMS)
def test_forms_of_one_query_have_one_answer(retriever: Retriever, left: str, right: str) -> None:
    if (left, right) == FORMS[4]:  # case: the dense engine folds it as its own tokenizer does
        right = right.replace("STRASSE", "Strasse").replace("Οδος", "ΟΔΟΣ")
    cached = CachedRetriever(retriever)
    assert retriever.search([left], 5) == retriever.search([right], 5) == cached.search([left, right], 5)[1:]
    assert cached.search([right, left], 5)[0] == cached.search([left], 5)[0]
    assert cached.searched == 1


@pytest.mark.parametrize("engine", ["lexical", "dense"])
def test_forms_of_one_document_are_found_alike(tmp_path: Path, engine: str) -> None:
    found = []
    for side in (0, 1):
        texts = [pair[side] for pair in FORMS]
        documents = [*DOCUMENTS, *(Document(f"f{i}", "Form", text) for i, text in enumerate(texts))]
        folder = tmp_path / str(side)
        made: Retriever
        if engine == "lexical":
            build_lexical(folder, documents, progress=False)
            made = LexicalRetriever(folder, documents)
        else:
            build_dense(folder, documents, Encoder(SPEC), progress=False)
            made = DenseRetriever(folder, documents, Encoder(SPEC))
        asked = [pair[0] for pair in FORMS] + [pair[1] for pair in FORMS]
        blocks = made.search(asked, 1)
        expected = [f"f{i}" for i in (0, 1, 2, 2, 4, 5)] * 2
        assert [ids(hits)[0] for hits in blocks] == expected
        assert blocks[0][0].document.text == texts[0]  # shown as it was written
        found.append([round(hit.score, 3) for hits in blocks for hit in hits])
    assert found[0] == found[1]


def test_more_words_than_lucene_allows_by_default(lexical: LexicalRetriever) -> None:
    query = " ".join(f"w{i}" for i in range(3000)) + " lantern"
    assert ids(lexical.search([query], 3)[0]) == ["d1"]


def test_fingerprint_follows_what_changes_results(tmp_path: Path) -> None:
    build_lexical(tmp_path, DOCUMENTS[:3], progress=False)
    made = [
        LexicalRetriever(tmp_path, DOCUMENTS[:3], spec, corpus).fingerprint
        for spec, corpus in (
            (LexicalSpec(), "a"),
            (LexicalSpec(), "a"),
            (LexicalSpec(), "b"),
            (LexicalSpec(k1=2), "a"),
        )
    ]
    assert made[0] == made[1] and len(set(made)) == 3


# Pieces


@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, 0.5 + 1e-7, 0.5 + 1e-4, 0.9]), st.text("abc", min_size=1)),
        max_size=12,
    )
)
def test_rank_is_stable_under_noise_and_order(scored: list[tuple[float, str]]) -> None:
    scored = list({identifier: (score, identifier) for score, identifier in scored}.values())
    ranked = rank(scored, 1e-6)
    assert ranked == rank(scored[::-1], 1e-6) == rank(ranked)
    assert sorted(i for _, i in ranked) == sorted(i for _, i in scored)
    exact = [(round(score, 5), identifier) for score, identifier in scored]
    assert [i for _, i in ranked] == [i for _, i in sorted(exact, key=lambda p: (-p[0], p[1]))]


def test_settled() -> None:
    assert settled([3.0, 2.0, 1.0], 2)
    assert not settled([3.0, 1.0, 1.0], 2)
    assert not settled([3.0, 2.0], 2)
    assert not settled([3.0, 1.0 + 1e-7, 1.0], 2, 1e-6)


@given(st.lists(st.text(min_size=1).filter(lambda q: not blank(q.replace("\0", " "))), max_size=4))
def test_checked_queries_can_be_encoded(queries: list[str]) -> None:
    for query in check_queries(queries, 1):
        assert "\0" not in query and query.encode("utf-8")
    assert check_queries(["a\0b\ud800"], 1) == ["a b?"]
    assert check_queries(["Zu\u0308ri\u00adch’s\u00a0tea"], 1) == ["Zürich's tea"]


class Counting:
    """A retriever that remembers the batches it was asked."""

    name, fingerprint = "counting", "0" * 16

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.batches.append(list(queries))
        return [[Hit(Document(query, "", ""), float(k))] for query in queries]


def test_cache_asks_each_query_once() -> None:
    cached = CachedRetriever(inner := Counting())
    assert [ids(h) for h in cached.search(["a", "b", "a"], 2)] == [["a"], ["b"], ["a"]]
    assert [ids(h) for h in cached.search(["b", "c"], 2)] == [["b"], ["c"]]
    cached.search(["a"], 3)[
        0
    ].clear()  # fewer than asked for were all there are; what is handed out is a copy
    assert ids(cached.search(["a"], 3)[0]) == ["a"]
    assert ids(cached.search(["a"], 1)[0]) == ["a"]
    assert inner.batches == [["a", "b"], ["c"]]
    assert (cached.asked, cached.searched, cached.fingerprint) == (8, 3, inner.fingerprint)


def test_cache_smaller_than_a_batch_forgets_the_oldest() -> None:
    cached = CachedRetriever(inner := Counting(), size=2)
    assert [ids(h) for h in cached.search(["a", "b", "c"], 1)] == [["a"], ["b"], ["c"]]
    cached.search(["b"], 1)
    cached.search(["a"], 1)  # forgotten
    assert [ids(h) for h in cached.search(["b", "c"], 1)] == [["b"], ["c"]]  # c, used before b, was forgotten
    assert inner.batches == [["a", "b", "c"], ["a"], ["c"]]
    with pytest.raises(RetrievalError, match="query 0"):
        cached.search([""], 1)


def test_queries_of_another_dimension_are_refused(dense: DenseRetriever) -> None:
    with pytest.raises(RetrievalError, match="queries of 7 numbers for an index of 384"):
        dense.search_vectors(np.ones((1, 7), np.float32), 3)


@pytest.mark.parametrize("kind", ["random", "empty"])
def test_broken_retrievers_find_nothing_of_use_but_always_the_same(kind: str) -> None:
    documents = {d.id: d for d in DOCUMENTS}
    broken = BrokenRetriever(kind, documents, "corpus")
    first = broken.search(QUERIES, 2)
    assert first == broken.search(QUERIES[::-1], 2)[::-1] and len(first) == len(QUERIES)
    assert {len(hits) for hits in first} == ({2} if kind == "random" else {0})
    if kind == "random":
        assert len({tuple(ids(hits)) for hits in broken.search([f"query {i}" for i in range(20)], 2)}) > 5
        assert len(broken.search(QUERIES[:1], 10**6)[0]) == len(documents)
    with pytest.raises(RetrievalError, match="empty"):
        broken.search([" "], 2)
    other = BrokenRetriever("random" if kind == "empty" else "empty", documents, "corpus")
    assert isinstance(broken, Retriever) and broken.fingerprint != other.fingerprint
