"""Indexes on disk: built once, refused where they are another's, mended where they are damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from retrieval_toys import DOCUMENTS, QUERIES, SPEC, ids

from s3mini.corpus import write_corpus
from s3mini.errors import RetrievalError
from s3mini.profile import DenseSpec, Profile, changed, load_profile
from s3mini.retrieval import (
    DenseRetriever,
    Encoder,
    LexicalRetriever,
    build_index,
    open_retriever,
)
from s3mini.retrieval.dense import build_dense, shard_size
from s3mini.retrieval.lexical import build_lexical

# Indexes on disk


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    write_corpus(tmp_path / "corpus.jsonl", DOCUMENTS)
    return load_profile("mini", **{"data.corpus": str(tmp_path / "corpus.jsonl")})


@pytest.mark.parametrize("kind", ["dense", "lexical"])
def test_index_is_built_once_and_belongs_to_its_corpus(
    profile: Profile, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_retriever(profile, kind)
    answer = first.search(QUERIES, 4)
    built = sorted(
        (p, p.stat().st_mtime_ns) for p in (profile.build / "index" / kind).rglob("*") if p.is_file()
    )
    again = open_retriever(profile, kind)
    assert again.search(QUERIES, 4) == answer
    assert again.fingerprint == first.fingerprint
    assert built == sorted((p, p.stat().st_mtime_ns) for p, _ in built)

    write_corpus(profile.data.corpus, DOCUMENTS[::-1])
    with pytest.raises(
        RetrievalError,
        match=r"built for corpus '(\w{16})', the profile asks for corpus '(\w{16})'.*s3mini index",
    ):
        open_retriever(profile, kind)
    build_index(profile, kind, progress=False)
    rebuilt = open_retriever(profile, kind)
    assert rebuilt.fingerprint != first.fingerprint
    assert [ids(h) for h in rebuilt.search(QUERIES, 4)] == [ids(h) for h in answer]


def test_index_of_another_encoder_is_refused(profile: Profile) -> None:
    build_index(profile, "dense", progress=False)
    dense = profile.retrieval.dense.model_copy(update={"passage_prefix": "passage: "})
    other = profile.model_copy(update={"retrieval": profile.retrieval.model_copy(update={"dense": dense})})
    with pytest.raises(
        RetrievalError, match="built for passage_prefix '', the profile asks for passage_prefix 'passage: '"
    ):
        open_retriever(other, "dense")


def test_index_of_other_products_is_refused(profile: Profile) -> None:
    build_index(profile, "dense", progress=False)
    with pytest.raises(
        RetrievalError, match="built for products None, the profile asks for products 'bfloat16'"
    ):
        open_retriever(changed(profile, {"retrieval.dense.products": "bfloat16"}), "dense")


def test_dense_build_resumes_at_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after two of five shards: the next run encodes the other three only, and the index is the same."""
    monkeypatch.setattr("s3mini.retrieval.dense.shard_size", lambda documents: 4)
    build_dense(tmp_path / "whole", DOCUMENTS, Encoder(SPEC), progress=False)
    encoder = Encoder(SPEC)
    real, seen = encoder.passages, []

    def dies_at_the_third(texts: Sequence[str]) -> np.ndarray:
        seen.append(list(texts))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(texts)

    monkeypatch.setattr(encoder, "passages", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build_dense(tmp_path / "cut", DOCUMENTS, encoder, progress=False)
    (tmp_path / "cut" / "shards" / f"{4:010d}.npy").write_bytes(b"torn")  # damaged: encoded again
    build_dense(tmp_path / "cut", DOCUMENTS, encoder, progress=False)
    texts = [d.contents for d in DOCUMENTS]
    assert seen[3:] == [texts[4:8], texts[8:12], texts[12:16], texts[16:]]
    assert (tmp_path / "cut" / "flat.faiss").read_bytes() == (tmp_path / "whole" / "flat.faiss").read_bytes()
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["flat.faiss", "ids.json"]


def test_shard_size_is_bounded() -> None:
    assert (shard_size(10), shard_size(32 * 1000), shard_size(21_000_000)) == (256, 1000, 16_384)


def test_wrong_documents_and_damage_are_named(tmp_path: Path) -> None:
    encoder = Encoder(SPEC)
    build_dense(tmp_path, DOCUMENTS[:3], encoder, progress=False)
    build_lexical(tmp_path, DOCUMENTS[:3], progress=False)
    with pytest.raises(RetrievalError, match="holds 3 documents, the corpus 4"):
        DenseRetriever(tmp_path, DOCUMENTS[:4], encoder)
    with pytest.raises(RetrievalError, match="holds 3 documents, the corpus 4"):
        LexicalRetriever(tmp_path, DOCUMENTS[:4])
    with pytest.raises(RetrievalError, match="document 0 is 'd1', in the corpus 'd2'"):
        DenseRetriever(tmp_path, DOCUMENTS[1:4], encoder)
    with pytest.raises(RetrievalError, match="holds document 'd1', the corpus does not"):
        LexicalRetriever(tmp_path, DOCUMENTS[1:4]).search(["Blue Lantern"], 1)
    (tmp_path / "flat.faiss").write_bytes(b"no index")
    with pytest.raises(RetrievalError, match=r"flat\.faiss: not a readable index.*build the index again"):
        DenseRetriever(tmp_path, DOCUMENTS[:3], encoder)
    for segment in (tmp_path / "lucene").glob("segments_*"):
        segment.write_bytes(b"no index")
    with pytest.raises(RetrievalError, match="not a readable Lucene index"):
        LexicalRetriever(tmp_path, DOCUMENTS[:3])


@pytest.mark.parametrize("name", ["no/such/folder", "nobody/no-such-encoder", "two words", "no-such-encoder"])
def test_unknown_encoder(name: str) -> None:
    with pytest.raises(RetrievalError, match=f"unknown encoder '{name}'.*minilm"):
        Encoder(DenseSpec(encoder=name)).queries(["tea"])


def test_unknown_kind(profile: Profile) -> None:
    with pytest.raises(
        RetrievalError, match="unknown kind of retriever 'sparse': choose one of dense, lexical"
    ):
        open_retriever(profile, "sparse")
