"""The index at scale: the corpus on disk, building by shards, mapped and shared search, growth."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
import pytest
from scale_toys import DOCUMENTS, QUERIES, ToyEncoder, ids, toy, toy_world

from s3mini.bench import Bench
from s3mini.classroom.plots import scaling_plot
from s3mini.classroom.scale import growth, measure_scale, projected, projection_rows
from s3mini.classroom.study import enlarge
from s3mini.corpus import read_corpus, write_corpus
from s3mini.errors import DataError, RetrievalError
from s3mini.profile import Profile, changed, load_profile
from s3mini.records import Document
from s3mini.retrieval import DenseRetriever, flat, open_corpus, open_retriever, opening, store
from s3mini.retrieval.dense import build_dense
from s3mini.retrieval.encoder import Vectors
from s3mini.runs.stages import Stage


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3mini.retrieval.dense.shard_size", lambda documents: 8)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    return toy_world(tmp_path, monkeypatch)


# The corpus on disk


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_store_is_the_list(tmp_path: Path, name: str) -> None:
    documents = [Document("7", 'The "Blue"\tLantern', "Tee 🍵\nzwei"), Document("é", "", "x"), *DOCUMENTS]
    lines = [json.dumps({"id": d.id, "contents": d.contents}, ensure_ascii=False) for d in documents]
    raw = ("\ufeff" + "\n\n  \n".join(lines)).encode()  # a mark, blank lines, no newline at the end
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    folder = tmp_path / "store"
    folder.mkdir()
    store.build_store(folder, path, progress=False)
    found = store.DocumentStore(folder, path)
    assert list(found) == read_corpus(path) and len(found) == len(documents)
    assert found[3:6] == documents[3:6] and found[-1] == documents[-1] and found[1] == documents[1]
    assert [found.by_id[d.id] for d in documents] == documents
    assert "é" in found.by_id and "e" not in found.by_id and 7 not in found.by_id
    assert list(found.by_id) == [d.id for d in documents]
    with pytest.raises(KeyError):
        found.by_id["d9999"]
    with pytest.raises(IndexError):
        found[len(documents)]
    assert (
        store.ids_json(found)
        == store.ids_json(documents)
        == json.dumps([d.id for d in documents], ensure_ascii=False).encode()
    )


def test_ids_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_hash", lambda identifier: 5)
    write_corpus(tmp_path / "c.jsonl", DOCUMENTS)
    store.build_store(tmp_path, tmp_path / "c.jsonl", progress=False)
    found = store.DocumentStore(tmp_path, tmp_path / "c.jsonl")
    assert [found.by_id[d.id] for d in DOCUMENTS] == DOCUMENTS and "other" not in found.by_id


def test_a_bad_corpus_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "a", "contents": "x"}\n\n{"id": "a", "contents": "y"}\n')
    with pytest.raises(DataError, match=r"c\.jsonl:3: duplicate id 'a', first used at line 1"):
        store.build_store(tmp_path, path, progress=False)
    path.write_text('{"id": "a", "contents": "x"}\n{"id": "b"}\n')
    with pytest.raises(DataError, match=r"c\.jsonl:2: missing field 'contents'"):
        store.build_store(tmp_path, path, progress=False)
    write_corpus(path, DOCUMENTS)
    store.build_store(tmp_path, path, progress=False)
    write_corpus(path, DOCUMENTS[1:])
    with pytest.raises(DataError, match="the corpus changed since it was indexed"):
        store.DocumentStore(tmp_path, path)
    (tmp_path / "starts.npy").write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be read.*delete the folder"):
        store.DocumentStore(tmp_path, path)


# Building


def whole(dtype: flat.DType, vectors: Vectors) -> bytes:
    index = flat.empty(vectors.shape[1], dtype)
    index.add(vectors)
    return bytes(faiss.serialize_index(index))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_killed_while_joining_goes_on_and_encodes_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: flat.DType
) -> None:
    encoder = toy()
    real, gone = Path.unlink, []

    def dies_at_the_third(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".npy":
            gone.append(self)
            if len(gone) == 3:
                raise KeyboardInterrupt
        real(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build_dense(tmp_path, DOCUMENTS, encoder, progress=False, dtype=dtype)
    assert len(list((tmp_path / "shards").glob("*.npy"))) == 4  # two of six are in, and off the disk
    build_dense(tmp_path, DOCUMENTS, encoder, progress=False, dtype=dtype)
    assert len(cast(ToyEncoder, encoder).seen) == 6
    vectors = toy().passages([d.contents for d in DOCUMENTS])
    written = (tmp_path / "flat.faiss").read_bytes()
    assert written.endswith(vectors.astype(dtype).tobytes())
    if dtype == "float32":  # FAISS rounds to halves in ways of its own
        assert written == whole(dtype, vectors)
    assert len(written) == len(whole(dtype, vectors))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flat.faiss", "ids.json"]


def test_processes_share_the_shards(tmp_path: Path) -> None:
    """Two at once (threads hold file locks as processes do): every shard is encoded once, both end with the index."""
    started = threading.Barrier(2, timeout=30)
    encoders = [cast(Any, toy()) for _ in range(2)]
    for encoder in encoders:
        encode = encoder.passages

        def meets(texts: list[str], encode: Callable[..., Any] = encode, own: Any = encoder) -> Any:
            if not own.seen:
                started.wait()  # both are in the middle of a shard
            return encode(texts)

        encoder.passages = meets
    failures: list[BaseException] = []

    def work(encoder: Any) -> None:
        try:
            build_dense(tmp_path, DOCUMENTS, encoder, progress=False)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(encoder,)) for encoder in encoders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert all(encoder.seen for encoder in encoders)
    assert sorted(text for e in encoders for batch in e.seen for text in batch) == sorted(
        d.contents for d in DOCUMENTS
    )
    assert (tmp_path / "flat.faiss").read_bytes() == whole(
        "float32", toy().passages([d.contents for d in DOCUMENTS])
    )
    assert not (tmp_path / "shards").exists()


def test_a_vector_that_is_no_number_stops_the_build(tmp_path: Path) -> None:
    encoder = cast(Any, toy())
    made = encoder.passages
    encoder.passages = lambda texts: made(texts) * np.where(np.arange(len(texts)) == 2, np.nan, 1)[:, None]
    with pytest.raises(RetrievalError, match="vector of document 'd0002' is no number"):
        build_dense(tmp_path, DOCUMENTS, encoder, progress=False)


def test_a_stage_another_process_finished_stays_finished(profile: Profile) -> None:
    with Stage(profile, "x", {"a": "1"}) as mine:
        (mine.dir / "half").touch()
        with Stage(profile, "x", {"a": "1"}) as other:
            (other.dir / "whole").touch()
            other.finish()
        mine.finish()
    assert mine.done and mine.manifest["outputs"] == ["half", "whole"]


# Opening and searching


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_mapped_views_and_shards_search_as_memory_does(tmp_path: Path, dtype: flat.DType) -> None:
    vectors = enlarge(toy().passages([d.contents for d in DOCUMENTS[:20]]), 700, seed=1)
    kept = flat.empty(vectors.shape[1], dtype)
    kept.add(vectors)
    faiss.write_index(kept, str(tmp_path / "i"))
    mapped = flat.open_flat(tmp_path / "i")
    assert not mapped.codes.is_owned  # a view of the file
    assert np.allclose(flat.stored(mapped), vectors, atol=1e-3 if dtype == "float16" else 0)
    held = flat.stored(flat.open_flat(tmp_path / "i"))[3:]  # outlives its index
    assert np.allclose(held, vectors[3:], atol=1e-3 if dtype == "float16" else 0)
    asked = vectors[5:9]
    scores, rows = kept.search(asked, 12)
    for index in (mapped, flat.sharded(mapped, flat.parts(mapped, 3))):
        found = index.search(asked, 12)
        assert np.array_equal(found[1], rows) and np.allclose(found[0], scores, atol=1e-6)


def test_a_large_index_of_halves_answers_a_single_query_by_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_dense(tmp_path, DOCUMENTS, toy(), progress=False, dtype="float16")
    monkeypatch.setattr("s3mini.retrieval.exact.calibrate", lambda search: 64)
    alone = DenseRetriever(tmp_path, DOCUMENTS, toy())
    monkeypatch.setattr("s3mini.retrieval.exact.PART_BYTES", 1000)
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: 3)
    shared = DenseRetriever(tmp_path, DOCUMENTS, toy())
    assert alone.exact._shards is None and shared.exact._shards.count() == 2  # of 2,752 bytes
    for batch in (QUERIES[:1], QUERIES):
        assert [ids(h) for h in shared.search(batch, 9)] == [ids(h) for h in alone.search(batch, 9)]
    assert ids(shared.search(QUERIES[:1], 4)[0]) == ["copy0", "copy1", "copy2", "d0000"]
    assert shared.fingerprint == alone.fingerprint


def test_half_precision_keeps_order_and_ties(tmp_path: Path) -> None:
    build_dense(tmp_path / "a", DOCUMENTS, toy(), progress=False)
    build_dense(tmp_path / "b", DOCUMENTS, toy(), progress=False, dtype="float16")
    full, half = (DenseRetriever(tmp_path / name, DOCUMENTS, toy()) for name in "ab")
    assert (tmp_path / "b/flat.faiss").stat().st_size < 0.52 * (tmp_path / "a/flat.faiss").stat().st_size
    assert half.fingerprint != full.fingerprint and half.vectors.dtype == np.float32
    for one, two in zip(full.search(QUERIES, 5), half.search(QUERIES, 5), strict=True):
        assert ids(one) == ids(two)
        assert np.allclose([h.score for h in one], [h.score for h in two], atol=2e-3)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    build_dense(tmp_path, DOCUMENTS, toy(), progress=False)
    file = tmp_path / "flat.faiss"
    good = file.read_bytes()
    file.write_bytes(good[:-100])
    with pytest.raises(RetrievalError, match=r"flat\.faiss: not a readable index.*build the index again"):
        DenseRetriever(tmp_path, DOCUMENTS, toy())
    for other in (faiss.IndexFlatL2(32), faiss.IndexHNSWFlat(32, 8, faiss.METRIC_INNER_PRODUCT)):
        faiss.write_index(other, str(file))
        with pytest.raises(RetrievalError, match="not a flat inner-product index"):
            DenseRetriever(tmp_path, DOCUMENTS, toy())
    faiss.write_index(flat.empty(32, "float32"), str(file))
    with pytest.raises(RetrievalError, match="holds 0 vectors for 43 ids; it is damaged"):
        DenseRetriever(tmp_path, DOCUMENTS, toy())
    file.write_bytes(good)
    (tmp_path / "ids.json").write_bytes(b'["d0000"')
    with pytest.raises(RetrievalError, match="not a readable index.*build the index again"):
        DenseRetriever(tmp_path, DOCUMENTS, toy())


def test_earlier_builds_and_fingerprints_stay_valid() -> None:
    """Keys that came later change no name under which something was built before them."""
    mini = load_profile("mini")
    assert Bench(mini).retriever_depends_on("dense") == (
        'dense {"encoder":"minilm","query_prefix":"","passage_prefix":"","max_query_tokens":64,"max_passage_tokens":128}'
    )
    assert opening._stage(mini, "dense").settings.keys() == {
        "encoder",
        "passage_prefix",
        "max_passage_tokens",
    }
    packed = changed(mini, {"retrieval.dense.index": "sq8", "retrieval.dense.dtype": "float16"})
    assert Bench(packed).retriever_depends_on("dense").endswith('"dtype":"float16","index":"sq8"}')
    on_cpu = changed(mini, {"retrieval.dense.search": "cpu"})
    assert Bench(on_cpu).retriever_depends_on("dense") == Bench(mini).retriever_depends_on("dense")


# Growth


def test_growth_of_a_known_law_and_the_papers_figure() -> None:
    rows = [
        {"part": part, "n": n, "bytes": 4 * 384 * n + 45, "build_seconds": 2e-5 * n**1.1, "own": 0}
        | {"latency": {"1": 1e-7 * n, "64": 1e-6 * n}}
        for part in ("flat", "bm25")
        for n in (1_000, 10_000, 100_000, 1_000_000)
    ]
    result = {"dimension": 384, "rows": rows}
    assert growth(result, "bm25", "build_seconds") == pytest.approx((1.1, 2e-5))
    assert projected(result, "flat", "bytes") == pytest.approx(64.56e9, rel=1e-3)  # wiki-18, float32
    assert projected(result, "bm25", "bytes") == pytest.approx(32.28e9, rel=1e-3)  # no vectors, no wider
    table = {row["index"]: row for row in projection_rows(result)}
    assert table["flat"]["GB"] == "64.6" and table["flat"]["s, 1 query"] == "4.2"
    assert len(scaling_plot(result).png()) > 5000
    with pytest.raises(ValueError, match="needs two sizes"):
        growth({"dimension": 384, "rows": rows[:1]}, "flat", "bytes")


def test_growth_is_measured_in_processes_of_their_own(profile: Profile) -> None:
    from s3mini.corpus import write_questions
    from s3mini.records import Question

    for name in profile.data.sets:
        path = profile.resolve(profile.data.questions) / name / "test.jsonl"
        write_questions(path, [Question(f"{name}-0", "kara velb", ("x",))])
    dense = cast(DenseRetriever, open_retriever(profile, "dense", cache=False))
    found = measure_scale(profile, dense, sizes=(100, 300), parts=("flat", "float16", "sq8"), passages=8)
    rows = {(row["part"], row["n"]): row for row in found["rows"]}
    assert rows.keys() == {(p, n) for p in ("documents", "flat", "float16", "sq8") for n in (100, 300)}
    assert rows["flat", 300]["bytes"] == 300 * 32 * 4 + 45
    assert rows["float16", 300]["bytes"] < 0.6 * rows["flat", 300]["bytes"]
    assert rows["sq8", 300]["recall"] > 0.9
    assert all(rows["flat", n]["latency"][q] > 0 for n in (100, 300) for q in ("1", "64"))
    assert found["encoding"]["per_second"] > 0 and not list(profile.build.glob("tmp*"))


def test_documents_come_from_disk_in_the_open_corpus(profile: Profile) -> None:
    found = open_corpus(profile)
    assert list(found) == DOCUMENTS and open_corpus(profile) is found
    write_corpus(profile.resolve(profile.data.corpus), DOCUMENTS[:7])
    assert len(open_corpus(profile)) == 7
