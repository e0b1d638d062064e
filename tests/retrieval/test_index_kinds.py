"""Prebuilt, compressed and GPU indexes: what they find is what the exact one finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import faiss
import numpy as np
import pytest
from scale_toys import DOCUMENTS, QUERIES, ToyEncoder, ids, toy, toy_documents, toy_world

from s3mini.corpus import write_corpus
from s3mini.errors import RetrievalError
from s3mini.profile import Profile, changed, load_profile
from s3mini.retrieval import (
    DenseRetriever,
    build_index,
    compressed,
    flat,
    open_retriever,
    opening,
    prebuilt_index,
)
from s3mini.retrieval.dense import build_dense
from s3mini.runs.stages import read_manifest


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3mini.retrieval.dense.shard_size", lambda documents: 8)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    return toy_world(tmp_path, monkeypatch)


# A prebuilt index


@pytest.fixture
def prebuilt(tmp_path: Path) -> Path:
    index = faiss.index_factory(32, "Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(toy().passages([d.contents for d in DOCUMENTS]))
    faiss.write_index(index, str(tmp_path / "e5_Flat.index"))
    return tmp_path / "e5_Flat.index"


def test_what_was_downloaded_is_taken_without_being_asked_for(profile: Profile, prebuilt: Path) -> None:
    """Encoding 21 million passages again would take days and 64 GB more."""
    assert prebuilt_index(profile) is None, "the profile names no index of the hub"
    profile = changed(profile, {"data.hub": ["index"]})
    assert prebuilt_index(profile) == prebuilt
    retriever = cast(DenseRetriever, open_retriever(profile, "dense", cache=False))
    assert (profile.build / "index/dense/flat.faiss").samefile(prebuilt)
    assert ids(retriever.search(QUERIES[:1], 1)[0])
    half = changed(profile, {"retrieval.dense.dtype": "float16", "name": "half"})
    build_index(half, "dense", progress=False)
    assert not (half.build / "index/dense/flat.faiss").samefile(prebuilt)
    cut = changed(profile, {"name": "cut"})
    prebuilt.write_bytes(prebuilt.read_bytes()[:-50])
    with pytest.raises(RetrievalError, match=r"e5_Flat\.index: not a readable index.*fetch it again"):
        build_index(cut, "dense", progress=False)
    prebuilt.unlink()
    assert prebuilt_index(profile) is None


def test_a_prebuilt_index_is_adopted(profile: Profile, prebuilt: Path) -> None:
    folder = build_index(profile, "dense", progress=False, adopt=prebuilt)
    assert (folder / "flat.faiss").samefile(prebuilt)  # not a second copy on the disk
    facts = read_manifest(folder)["facts"]
    assert facts["adopted"] == "e5_Flat.index" and facts["least_cosine"] > 0.9999
    adopted = open_retriever(profile, "dense", cache=False)
    build_dense(profile.build / "own", DOCUMENTS, toy(), progress=False)
    own = DenseRetriever(profile.build / "own", DOCUMENTS, toy())
    assert [ids(h) for h in adopted.search(QUERIES, 6)] == [ids(h) for h in own.search(QUERIES, 6)]
    with pytest.raises(RetrievalError, match="there is an index already"):
        build_index(profile, "dense", progress=False, adopt=prebuilt)


def test_adopting_across_disks_copies(
    profile: Profile, prebuilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    folder = build_index(profile, "dense", progress=False, adopt=prebuilt)
    assert (folder / "flat.faiss").read_bytes() == prebuilt.read_bytes()
    assert not (folder / "flat.faiss").samefile(prebuilt)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda v: v[:-1], "holds 42 vectors, the corpus 43 documents"),
        (lambda v: v[:, :16] / np.linalg.norm(v[:, :16], axis=1, keepdims=True), "vectors of 16 numbers"),
        (lambda v: v[::-1], "is not document '.*another order"),
        (lambda v: 3 * v, "length 3.000"),
        (lambda v: np.roll(v, 1, axis=1), "another encoder"),
    ],
)
def test_what_is_not_this_corpus_is_not_adopted(
    profile: Profile, tmp_path: Path, spoil: Callable[[Any], Any], told: str
) -> None:
    vectors = np.ascontiguousarray(spoil(toy().passages([d.contents for d in DOCUMENTS])), np.float32)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "other.index"))
    with pytest.raises(RetrievalError, match=told):
        build_index(profile, "dense", progress=False, adopt=tmp_path / "other.index")
    assert not (profile.build / "index/dense/flat.faiss").exists()
    half = (tmp_path / "other.index").read_bytes()[:-50]
    (tmp_path / "part_aa").write_bytes(half)
    with pytest.raises(RetrievalError, match="part_aa: not a readable index"):
        build_index(profile, "dense", progress=False, adopt=tmp_path / "part_aa")


# Compressed indexes


@pytest.mark.parametrize("kind", compressed.KINDS)
def test_compressed_indexes_are_made_from_the_exact_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    documents = toy_documents(500)
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    encoder = toy()
    monkeypatch.setattr(opening, "Encoder", lambda spec: encoder)
    write_corpus(tmp_path / "corpus.jsonl", documents)
    exact = load_profile("mini", **{"data.corpus": "corpus.jsonl", "retrieval.dense.encoder": "toy"})
    packed = changed(exact, {"retrieval.dense.index": kind})
    near = cast(DenseRetriever, open_retriever(packed, cache=False))
    encoded = len(cast(ToyEncoder, encoder).seen)
    plain = cast(DenseRetriever, open_retriever(exact, cache=False))
    assert len(cast(ToyEncoder, encoder).seen) == encoded  # the vectors were there already
    assert near.fingerprint != plain.fingerprint and near.candidates is not None
    folder = exact.build / f"index/dense-{kind}"
    told = read_manifest(folder)["facts"]
    assert (
        told["recall"] >= (0.75 if kind == "ivf-pq" else 0.9)
        and told["bytes"] == flat.weight(folder)
        and told["per_second"] > 0
    )
    assert told["bytes"] < 0.75 * (exact.build / "index/dense/flat.faiss").stat().st_size
    texts = [d.title for d in documents[:40]]
    for one, two in zip(plain.search(texts, 10), near.search(texts, 10), strict=True):
        scores = {h.document.id: h.score for h in one}
        assert len(set(ids(one)) & set(ids(two))) >= 5
        assert all(abs(scores[h.document.id] - h.score) < 1e-5 for h in two if h.document.id in scores)
        assert [h.score for h in two] == sorted((h.score for h in two), reverse=True)
    alone = [near.search([text], 3)[0] for text in texts]
    assert [ids(h) for h in alone] == [ids(h[:3]) for h in near.search(texts, 20)], (
        "whoever else asks, and for how many"
    )
    everything = near.search(texts[:1], 1000)[0]
    assert len(everything) == 500  # k above the corpus: what no candidate list can give
    (folder / "candidates.faiss").write_bytes(b"torn")
    with pytest.raises(RetrievalError, match=r"candidates\.faiss: not a readable index"):
        open_retriever(packed)


def test_cells_grow_with_the_root() -> None:
    assert [compressed.cells_of(n) for n in (1, 500, 10_000, 1_000_000, 21_015_324)] == [
        1,
        8,
        256,
        2048,
        16384,
    ]


# GPUs, which are not here: a stand-in for faiss-gpu that counts what it is asked


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    asked = SimpleNamespace(options=[], devices=[], largest=0)

    def put(index: Any) -> Any:
        def search(vectors: Any, k: int) -> Any:
            asked.largest = max(asked.largest, k)
            scores, rows = index.search(vectors, k)
            return scores.astype(np.float16).astype(np.float32), rows

        return SimpleNamespace(search=search)

    def to_all(index: Any, options: Any) -> Any:
        asked.options.append((options.shard, options.useFloat16))
        return put(index)

    def to_one(resources: Any, device: int, index: Any, options: Any) -> Any:
        asked.devices.append((device, index.ntotal))
        return index

    standing = {
        "get_num_gpus": lambda: 2,
        "GpuMultipleClonerOptions": SimpleNamespace,
        "StandardGpuResources": SimpleNamespace,
        "index_cpu_to_all_gpus": to_all,
        "index_cpu_to_gpu": to_one,
    }
    for name, value in standing.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    return asked


def test_search_on_gpus_ranks_by_exact_scores(
    tmp_path: Path, gpus: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_dense(tmp_path, DOCUMENTS, toy(), progress=False)
    cpu = DenseRetriever(tmp_path, DOCUMENTS, toy(), search="cpu")
    gpu = DenseRetriever(tmp_path, DOCUMENTS, toy(), search="gpu")
    assert gpu.on_gpu and not cpu.on_gpu and gpus.options == [(True, True)]
    assert gpu.fingerprint == cpu.fingerprint
    for one, two in zip(cpu.search(QUERIES, 4), gpu.search(QUERIES, 4), strict=True):
        assert ids(one) == ids(two)
        assert np.allclose([h.score for h in one], [h.score for h in two], atol=1e-6)
    monkeypatch.setattr("s3mini.retrieval.dense.GPU_K", 60)
    gpus.largest = 0
    assert [ids(h) for h in gpu.search(QUERIES, 20)] == [ids(h) for h in cpu.search(QUERIES, 20)]
    assert gpus.largest <= 60  # more than a GPU finds: on the CPU


def test_halves_go_to_each_gpu_in_part(tmp_path: Path, gpus: SimpleNamespace) -> None:
    build_dense(tmp_path, DOCUMENTS, toy(), progress=False, dtype="float16")
    gpu = DenseRetriever(tmp_path, DOCUMENTS, toy(), search="gpu")
    assert gpus.devices == [(0, 21), (1, 22)] and gpus.options == []
    cpu = DenseRetriever(tmp_path, DOCUMENTS, toy())
    assert [ids(h) for h in gpu.search(QUERIES, 5)] == [ids(h) for h in cpu.search(QUERIES, 5)]


def test_auto_takes_the_gpus_only_when_it_fits(
    gpus: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    wiki = SimpleNamespace(ntotal=21_000_000, d=768)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for free, fits in ((24e9, False), (80e9, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert flat.use_gpu("auto", wiki) is fits
    assert not flat.use_gpu("cpu", wiki)
    assert flat.use_gpu("auto", wiki, "ivf-sq8")
    for kind in ("sq8", "ivf-pq"):  # FAISS knows neither on a GPU
        assert not flat.use_gpu("auto", wiki, kind) and flat.use_gpu("gpu", wiki, kind)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert not flat.use_gpu("auto", wiki)
    with pytest.raises(RetrievalError, match="FAISS sees no GPU: install the extra gpu"):
        flat.use_gpu("gpu", wiki)


def test_what_does_not_fit_a_gpu_says_so(gpus: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(index: Any, options: Any) -> Any:
        raise RuntimeError("Error in GpuMemoryAllocation: cudaMalloc error out of memory")

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", full)
    with pytest.raises(RetrievalError, match=r"cannot be put on 2 GPUs.*out of memory.*search=cpu"):
        flat.to_gpus(flat.empty(8, "float32"))
