"""Measurements of retrievers: recall of the gold documents, latency, exact against approximate indexes, memory.

Notebook 01 shows them. Each is a stage of its profile, so a second run reads what the first measured.
"""

import json
import timeit
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np

from ..corpus import fingerprint, load_questions
from ..errors import DataError
from ..hub.sizes import index_bytes
from ..profile import Profile
from ..records import Hit, hit_ids
from ..retrieval.base import Retriever, check_queries, digest
from ..retrieval.compressed import overlap
from ..retrieval.dense import DenseRetriever
from ..retrieval.encoder import Vectors
from ..retrieval.exact import ExactSearch
from ..reward import recall
from ..runs.stages import Stage, atomic_write

KS = (1, 2, 3, 4, 5, 8, 10, 20, 50)
BATCHES = (1, 4, 16, 64, 256)
RESULT = "result.json"
Item = TypeVar("Item", bound=Hashable)


def measure_recall(
    profile: Profile, retrievers: Sequence[Retriever], ks: Sequence[int] = KS
) -> dict[str, Any]:
    """Recall of the gold documents at each k, per question set (test split) and retriever.

    Written to ``build/<profile>/retrieval.json``: ``{"profile", "ks", "retrievers",
    "sets": {SET: {"n", "gold", RETRIEVER: {"any": […], "all": […], "mean": […]}}}}``. "any" and "all" are the
    shares of questions with at least one, and with every, gold document among the first k; "mean" is the mean
    share; "gold" the mean number of gold documents a question has.

    Raises:
        DataError: a set whose questions name no gold documents.
    """
    own = {retriever.name: retriever.fingerprint for retriever in retrievers}
    inputs = {"questions": fingerprint(profile.resolve(profile.data.questions)), **own}
    settings = {"ks": ks, "sets": profile.data.sets, "test_limit": profile.data.test_limit}

    def measure() -> dict[str, Any]:
        sets = {name: _set_recall(profile, name, retrievers, ks) for name in profile.data.sets}
        return {"profile": profile.name, "ks": list(ks), "retrievers": list(own), "sets": sets}

    result: dict[str, Any] = _measured_once(profile, "recall", inputs, settings, measure)
    atomic_write(profile.build / "retrieval.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def _set_recall(
    profile: Profile, name: str, retrievers: Sequence[Retriever], ks: Sequence[int]
) -> dict[str, Any]:
    questions = [q for q in load_questions(profile, name, "test") if q.gold_ids]
    if not questions:
        raise DataError(f"set {name!r}: no question names its gold documents (metadata.gold_ids), no recall")
    gold = [len(set(q.gold_ids)) for q in questions]
    result: dict[str, Any] = {"n": len(questions), "gold": sum(gold) / len(gold)}
    for retriever in retrievers:
        blocks = retriever.search([q.stem for q in questions], max(ks))
        documents = [[hit.document for hit in block] for block in blocks]
        pairs = list(zip(questions, documents, strict=True))
        shares = np.array([[recall(question, own[:k]) for k in ks] for question, own in pairs])
        kinds = {"any": shares > 0, "all": shares == 1, "mean": shares}
        result[retriever.name] = {kind: values.mean(0).round(6).tolist() for kind, values in kinds.items()}
    return result


def recall_rows(
    result: dict[str, Any], kind: str = "all", ks: Sequence[int] = (1, 3, 8, 20, 50)
) -> list[dict[str, Any]]:
    """`measure_recall`'s result as rows for a table: one per set and retriever."""
    places = [result["ks"].index(k) for k in ks]
    return [
        {"set": f"{name}, {retriever}", "gold": f"{measured['gold']:.3g}"}
        | {f"@{k}": measured[retriever][kind][place] for k, place in zip(ks, places, strict=True)}
        for name, measured in result["sets"].items()
        for retriever in result["retrievers"]
    ]


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Item]], constant: int = 60) -> list[Item]:
    """One ranking from several: each item earns 1 / (constant + rank) in each ranking that holds it.

    Ranks count from 1; ties go to the item met first, reading the rankings side by side. Cormack, Clarke and
    Büttcher, "Reciprocal Rank Fusion outperforms Condorcet" (SIGIR 2009), whose constant is 60.
    """
    earned: dict[Item, float] = {}
    for rank in range(max(map(len, rankings), default=0)):
        for ranking in rankings:
            if rank < len(ranking):
                item = ranking[rank]
                earned[item] = earned.get(item, 0.0) + 1 / (constant + rank + 1)
    return sorted(earned, key=lambda item: -earned[item])


class FusedRetriever:
    """Several retrievers as one, by `reciprocal_rank_fusion` of their first ``depth`` hits.

    A hit's score is 1 / its rank: fused ranks have no other common scale.
    """

    name = "fused"

    def __init__(self, retrievers: Sequence[Retriever], depth: int = 50) -> None:
        self.retrievers, self.depth = list(retrievers), depth
        self.fingerprint = digest(kind=self.name, of=[r.fingerprint for r in retrievers], depth=depth)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`; at most ``depth`` hits of each retriever are fused."""
        check_queries(queries, k)
        results = [retriever.search(queries, max(k, self.depth)) for retriever in self.retrievers]
        fused = []
        for rankings in zip(*results, strict=True):
            documents = {hit.document.id: hit.document for ranking in rankings for hit in ranking}
            order = reciprocal_rank_fusion([hit_ids(ranking) for ranking in rankings])
            fused.append([Hit(documents[name], 1 / rank) for rank, name in enumerate(order[:k], 1)])
        return fused


def measure_latency(
    profile: Profile, retrievers: Sequence[Retriever], batches: Sequence[int] = BATCHES, k: int = 10
) -> list[dict[str, Any]]:
    """Seconds per batch for each retriever and batch size, the dense one also split into encoding and search.

    Queries are the profile's test questions. Rows: ``{"part", "batch", "seconds", "per_second"}``. Give bare
    retrievers (``open_retriever(..., cache=False)``): a cache answers in no time.
    """

    def measure() -> list[dict[str, Any]]:
        texts = mixed_queries(profile)
        rows = []
        for retriever in retrievers:
            retriever.search(texts[:2], k)  # loads what is loaded lazily
            for batch in batches:
                queries = [texts[i % len(texts)] for i in range(batch)]
                parts: dict[str, Callable[[], Any]] = {retriever.name: partial(retriever.search, queries, k)}
                if isinstance(retriever, DenseRetriever):
                    encode = partial(retriever.encoder.queries, queries)
                    search = partial(retriever.search_vectors, encode(), k)
                    parts = {"dense: encode": encode, "dense: search": search}
                for part, call in parts.items():
                    seconds = best_time(call, 5 if batch <= 16 else 2)
                    row = {"part": part, "batch": batch, "seconds": seconds, "per_second": batch / seconds}
                    rows.append(row)
        return rows

    inputs = {retriever.name: retriever.fingerprint for retriever in retrievers}
    settings = {"batches": batches, "k": k, "sets": profile.data.sets, "test_limit": profile.data.test_limit}
    return _measured_once(profile, "latency", inputs, settings, measure)


def best_time(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of several calls: the one other programs disturbed least."""
    return min(timeit.repeat(call, number=1, repeat=repeats))


def mixed_queries(profile: Profile) -> list[str]:
    """The test questions of all sets, one of each set in turn."""
    sets = [load_questions(profile, name, "test") for name in profile.data.sets]
    return [question.stem for turn in zip_longest(*sets) for question in turn if question is not None]


INDEXES: tuple[tuple[str, str, tuple[dict[str, int], ...]], ...] = (
    ("Flat", "fp32, exact", ({},)),
    ("SQfp16", "2 bytes a number", ({},)),
    ("SQ8", "1 byte a number", ({},)),
    ("PQ192x4fs", "96 bytes a vector", ({},)),
    ("PQ96x4fs", "48 bytes a vector", ({},)),
    ("IVF128,Flat", "128 cells, fp32", ({"nprobe": 1}, {"nprobe": 4}, {"nprobe": 16})),
    ("IVF128,PQ96x4fs", "128 cells, 48 bytes", ({"nprobe": 16},)),
    ("HNSW16,Flat", "a graph, 16 links", ({"efSearch": 16}, {"efSearch": 64}, {"efSearch": 256})),
)
"""FAISS factory string, what it means, and the search settings to try. PQ is the 4-bit kind: its training takes a second, the
8-bit kind's minutes, at the same bytes and much the same recall."""
SCANNED = ("Flat", "SQfp16")
"""Those of them that `ExactSearch` serves."""


def enlarge(vectors: Vectors, size: int, seed: int) -> Vectors:
    """``vectors`` and blends of random pairs of them, ``size`` in all, unit length.

    A few thousand vectors are too few to tell indexes apart; blends have the same directions and density.
    """
    random = np.random.default_rng(seed)
    extra = max(0, size - len(vectors))
    first, second = random.integers(len(vectors), size=(2, extra))
    share = random.uniform(0.5, 1.0, size=(extra, 1)).astype(np.float32)
    blends = share * vectors[first] + (1 - share) * vectors[second]
    blends /= np.linalg.norm(blends, axis=1, keepdims=True)
    return np.concatenate([vectors, blends]).astype(np.float32)


def measure_indexes(
    profile: Profile,
    dense: DenseRetriever,
    size: int = 20_000,
    queries: int = 256,
    k: int = 10,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """FAISS indexes over `enlarge`d corpus vectors: recall@k against exact search, memory, speed.

    Rows: ``{"index", "setting", "about", "recall", "bytes", "per_second", "build_seconds"}``; ``bytes`` per
    vector as serialised, ``per_second`` queries in one batch.
    """

    def measure() -> list[dict[str, Any]]:
        import faiss

        vectors = enlarge(dense.vectors, size, seed)
        asked = dense.encoder.queries(mixed_queries(profile)[:queries])
        exact = (asked @ vectors.T).argsort(1)[:, : -k - 1 : -1]
        rows = []
        for factory, about, settings in INDEXES:
            index: Any = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            began = timeit.default_timer()
            index.train(vectors)
            index.add(vectors)
            build = timeit.default_timer() - began
            weight = faiss.serialize_index(index).nbytes / len(vectors)
            for setting in settings:
                for name, value in setting.items():
                    faiss.ParameterSpace().set_index_parameter(index, name, value)
                search = ExactSearch(index) if factory in SCANNED else index.search
                seconds = best_time(partial(search, asked, k), 3)
                told = ", ".join(f"{name} {value}" for name, value in setting.items())
                near = overlap(exact, index.search(asked, k)[1])
                row = {"index": factory, "setting": told, "about": about, "recall": near, "bytes": weight}
                rows.append(row | {"per_second": len(asked) / seconds, "build_seconds": build})
        return rows

    settings = {"size": size, "queries": queries, "k": k, "seed": seed, "indexes": INDEXES}
    return _measured_once(profile, "indexes", {"dense": dense.fingerprint}, settings, measure)


def projected_memory(vectors: int = 21_000_000, dimension: int = 768) -> list[dict[str, Any]]:
    """What an index of that many vectors weighs, in GB (10⁹ bytes); defaults: wiki-18 under e5-base."""
    kinds = {
        "Flat fp32 (the paper's)": "float32", "SQfp16": "float16", "SQ8": "sq8", "PQ, 96 bytes": "pq",
        "1 bit a number": "binary", "IVF, SQ8": "ivf-sq8", "HNSW32 over fp32": "hnsw",
    }  # fmt: skip
    weights = {name: index_bytes(kind, dimension) for name, kind in kinds.items()}
    return [{"index": name, "bytes a vector": int(w), "GB": vectors * w / 1e9} for name, w in weights.items()]


def _measured_once(
    profile: Profile, name: str, inputs: dict[str, str], settings: dict[str, Any], measure: Callable[[], Any]
) -> Any:
    """What ``measure`` returns, from disk when it was measured before."""
    with Stage(profile, f"study/{name}", inputs, settings) as stage:
        if not stage.done:
            atomic_write(stage.dir / RESULT, json.dumps(measure(), indent=1, ensure_ascii=False) + "\n")
            stage.finish()
    return json.loads((stage.path / RESULT).read_text(encoding="utf-8"))
