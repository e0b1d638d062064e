"""Milvus, embedded by milvus-lite: the same answers as exact FAISS search, resumed filling, refusals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scale_toys import ToyEncoder, toy_documents

from s3mini.bench import Bench
from s3mini.corpus import write_corpus
from s3mini.errors import RetrievalError
from s3mini.profile import DenseSpec, Profile, load_profile
from s3mini.records import Hit
from s3mini.retrieval import DenseRetriever, Encoder, Retriever, milvus, open_retriever, opening
from s3mini.retrieval.dense import build_dense
from s3mini.retrieval.milvus import MilvusRetriever, build_milvus, collection_name

DOCUMENTS = toy_documents(60)
QUERIES = [d.contents for d in DOCUMENTS[:6]] + [d.title for d in DOCUMENTS[:6]]


def toy() -> Encoder:
    return cast(Encoder, ToyEncoder(DenseSpec(encoder="toy")))


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.document.id for hit in hits]


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    monkeypatch.setattr(opening, "Encoder", ToyEncoder)
    write_corpus(tmp_path / "corpus.jsonl", DOCUMENTS)
    keys = {"data.corpus": "corpus.jsonl", "retrieval.dense.encoder": "toy", "retrieval.kind": "milvus"}
    return load_profile("mini", **keys)


def test_without_pymilvus_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(RetrievalError, match=r"needs pymilvus: pip install 's3mini\[milvus\]'"):
        milvus.connect("any.db")


def test_it_is_a_dense_search_of_its_own_kind(profile: Profile) -> None:
    assert Bench(profile).retriever_depends_on("dense") == Bench(profile).retriever_depends_on("milvus")
    assert Bench(profile).retriever_depends_on("dense").startswith("milvus {")


class TestLite:
    """With milvus-lite."""

    @pytest.fixture(autouse=True, scope="class")
    def lite(self) -> None:
        pytest.importorskip(
            "milvus_lite", reason="milvus-lite is not installed: pip install 's3mini[milvus]'"
        )

    def test_equals_flat_faiss_ties_included(self, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
        """The profile's way: vectors encoded once, put into Milvus, found there; "dense" means Milvus too."""
        found = Bench(profile).retriever("dense")
        inner = cast(Any, found).inner
        assert isinstance(inner, MilvusRetriever) and isinstance(inner, Retriever)
        try:
            exact = open_retriever(profile, "dense", cache=False)
            for k in (1, 2, 5, 60, 1000):  # three copies tie with the first document
                for one, two in zip(exact.search(QUERIES, k), found.search(QUERIES, k), strict=True):
                    assert ids(one) == ids(two)
                    assert np.allclose([h.score for h in one], [h.score for h in two], atol=1e-5)
            assert ids(found.search(QUERIES[:1], 2)[0]) == ["copy0", "copy1"]
            assert found.fingerprint != exact.fingerprint
            with pytest.raises(RetrievalError, match="query 1 of 2 is empty"):
                found.search(["kara", " "], 3)
            with pytest.raises(RetrievalError, match="queries of 7 numbers for an index of 32"):
                inner.search_vectors(np.ones((1, 7), np.float32), 3)
            with monkeypatch.context() as patch:
                patch.setattr(milvus, "MOST", 10)
                with pytest.raises(RetrievalError, match="Milvus returns at most 10"):
                    inner.search(QUERIES[:1], 30)
        finally:
            inner.close()
        again = open_retriever(profile, cache=False)
        assert ids(again.search(QUERIES[:1], 3)[0]) == ["copy0", "copy1", "copy2"]
        cast(Any, again).close()

    def test_filling_goes_on_and_foreign_collections_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pymilvus import MilvusClient

        url, encoder = str(tmp_path / "v.db"), toy()
        build_dense(tmp_path / "dense", DOCUMENTS, encoder, progress=False)
        exact = DenseRetriever(tmp_path / "dense", DOCUMENTS, encoder)
        name = collection_name("corpus", encoder)
        monkeypatch.setattr(milvus, "_BATCH", 16)
        real, rows = MilvusClient.upsert, []

        def dies_at_the_third(self: Any, collection: str, data: list[Any], **given: Any) -> Any:
            rows.append([row["row"] for row in data])
            if len(rows) == 3:
                raise KeyboardInterrupt
            return real(self, collection, data, **given)

        monkeypatch.setattr(MilvusClient, "upsert", dies_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            build_milvus(url, name, exact.stored, progress=False)
        with pytest.raises(RetrievalError, match=r"holds 32 vectors, the corpus 60 documents"):
            MilvusRetriever(url, DOCUMENTS, encoder, "corpus")
        build_milvus(url, name, exact.stored, progress=False)
        assert rows[3][0] == 16  # the last batch that was there, once more; not from the start
        with pytest.raises(RetrievalError, match="no collection .*, that of this corpus and encoder"):
            MilvusRetriever(url, DOCUMENTS, encoder, "another corpus")
        found = MilvusRetriever(url, DOCUMENTS, encoder, "corpus")
        assert [ids(h) for h in found.search(QUERIES, 7)] == [ids(h) for h in exact.search(QUERIES, 7)]
        found.client.drop_collection(name)
        with pytest.raises(RetrievalError, match="Milvus failed on a batch of 1 queries"):
            found.search(QUERIES[:1], 3)
        found.close()

    def test_names_that_are_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(RetrievalError, match=r"give http://host:port, or a file whose name ends in \.db"):
            milvus.connect(str(tmp_path / "vectors"))
