"""How time, disk and memory grow with the corpus: measured from 1,000 to 1,000,000 documents, projected to wiki-18.

Encoding millions of passages takes a GPU, so only its speed is measured on real texts; everything else runs on vectors
and documents *made* from the profile's: blends of pairs of its vectors, and documents put together from two of its own.
Each size is measured in a process of its own, so that memory is that size's alone.
"""

import gc
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from ..errors import RetrievalError
from ..profile import DenseSpec, Profile
from ..records import Document
from ..retrieval import compressed, open_corpus
from ..retrieval.dense import DenseRetriever
from ..retrieval.encoder import Encoder, Vectors
from ..retrieval.flat import IDS, INDEX, DType, join, open_flat, stored, weight
from ..retrieval.lexical import FOLDER, LexicalRetriever, build_lexical
from ..retrieval.store import DocumentStore, build_store, ids_json
from ..runs.machine import cap_threads, give_back_memory, machine, versions
from . import theory
from .study import best_time, enlarge, mixed_queries

WIKI18 = {"documents": 21_015_324, "dimension": 768}
SIZES = (1_000, 10_000, 100_000, 1_000_000)
PARTS = ("flat", "float16", *compressed.KINDS, "bm25")
RECORD = "data/mini/results/scaling.json"
PROJECTED = (
    ("GB", "bytes", 1e9),
    ("minutes to build", "build_seconds", 60.0),
    ("s, 1 query", "latency 1", 1.0),
    ("s, 64 queries", "latency 64", 1.0),
)
K = 10
_BLOCK = 16_384
_SLOW = 3.0  # seconds a call; a slower one is timed once
_FIT_FROM = 10_000  # documents; below, fixed costs hide the growth


def grown_vectors(vectors: Vectors, block: int, rows: int, seed: int) -> Vectors:
    """Block ``block`` of a grown set: the originals first, then blends of pairs of them (`study.enlarge`)."""
    begin = block * _BLOCK
    own = vectors[begin : begin + rows]
    blends = enlarge(vectors, len(vectors) + rows - len(own), seed + 1000 * block + 1)[len(vectors) :]
    return np.concatenate([own, blends])


def grown_documents(documents: Sequence[Document], number: int, seed: int, path: Path) -> None:
    """A corpus file of ``number`` documents: the originals, then each the first half of one and the second of another."""
    random = np.random.default_rng(seed)
    with open(path, "w", encoding="utf-8") as out:
        for start in range(0, number, _BLOCK):
            pairs = random.integers(len(documents), size=(_BLOCK, 2)).tolist()
            for row in range(start, min(number, start + _BLOCK)):
                if row < len(documents):
                    made = replace(documents[row], id=str(row))
                else:
                    first, second = (documents[i] for i in pairs[row - start])
                    heads, tails = first.text.split(), second.text.split()
                    text = " ".join([*heads[: len(heads) // 2 + 1], *tails[len(tails) // 2 :]])
                    made = Document(str(row), f"{first.title} ({row})", text)
                out.write(json.dumps({"id": made.id, "contents": made.contents}, ensure_ascii=False) + "\n")


def memory() -> dict[str, int]:
    """Bytes this process keeps for itself ("own") and has mapped from files ("mapped", which others can share)."""
    gc.collect()
    give_back_memory()
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return {what: int(values[key][0]) * 1024 for what, key in (("own", "RssAnon"), ("mapped", "RssFile"))}


def measure_size(
    number: int,
    parts: Sequence[str],
    originals: tuple[Path, Path],
    vectors: Vectors,
    asked: Vectors,
    texts: Sequence[str],
    seed: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """The rows of one size; see `measure_scale`. ``originals``: what `DocumentStore` takes; ``folder``: for the indexes."""
    import faiss
    import torch  # noqa: F401 (what searching imports is no index's memory)

    source = folder / "corpus.jsonl"
    grown_documents(list(DocumentStore(*originals)), number, seed, source)
    (folder / "documents").mkdir()
    build = _seconds(build_store, folder / "documents", source, False)
    before = memory()
    documents = DocumentStore(folder / "documents", source)
    latency = {"1": _seconds(documents.by_id.get, str(number - 1))}
    rows = [_row("documents", number, build, weight(folder / "documents", "*"), before, latency)]
    for part in parts:
        if part == "bm25":
            build = _seconds(build_lexical, folder / part, documents, False)
            before = memory()  # with the JVM, which building has started
            latency = _latency(LexicalRetriever(folder / part, documents).search, texts)
            rows.append(_row(part, number, build, weight(folder / part / FOLDER, "*"), before, latency))
        else:
            rows.append(_measure_vectors(part, folder, documents, vectors, asked, seed))
    return [row | {"faiss": faiss.__version__} for row in rows]


def _measure_vectors(
    part: str, folder: Path, documents: DocumentStore, vectors: Vectors, asked: Vectors, seed: int
) -> dict[str, Any]:
    """The row of one kind of vector index; what it opened is let go of on return."""
    own, number = folder / part, len(documents)
    own.mkdir()
    small = part in compressed.KINDS
    if small:
        exact = stored(open_flat(folder / "flat" / INDEX))
        build = _seconds(compressed.build_compressed, own, part, exact, seed, False)
        del exact
    else:
        build = _seconds(_write, own, vectors, number, seed, "float32" if part == "flat" else part)
        (own / IDS).write_bytes(ids_json(documents))
    before = memory()
    packed = compressed.open_compressed(own, part, documents) if small else None
    encoder = cast(Encoder, SimpleNamespace(spec=DenseSpec(encoder="none"), fingerprint_parts={}))
    dense = DenseRetriever(folder / "flat" if small else own, documents, encoder, compressed=packed)
    row = _row(part, number, build, weight(own), before, _latency(dense.search_vectors, asked))
    return row | compressed.measured(dense, asked[:64], K) if small else row


def _seconds(call: Callable[..., Any], *given: Any) -> float:
    return best_time(lambda: call(*given), 1)


def _write(folder: Path, vectors: Vectors, number: int, seed: int, dtype: DType) -> None:
    files, counts = [], []
    for block, start in enumerate(range(0, number, _BLOCK)):
        made = grown_vectors(vectors, block, min(_BLOCK, number - start), seed)
        files.append(folder / f"{start:010d}.npy")
        counts.append(len(made))
        np.save(files[-1], made.astype(dtype))
    join(files, counts, folder / INDEX, dtype)


def _row(
    part: str, number: int, seconds: float, size: int, before: Mapping[str, int], latency: Mapping[str, float]
) -> dict[str, Any]:
    grown = {name: value - before[name] for name, value in memory().items()}
    built = {"part": part, "n": number, "build_seconds": round(seconds, 4), "bytes": size}
    return built | grown | {"latency": latency}


def _latency(search: Callable[[Any, int], Any], queries: Any) -> dict[str, float]:
    latency = {}
    for size in (1, 64):
        call = partial(search, queries[:size], K)
        first = best_time(call, 1)  # reads from disk what is mapped, loads what is loaded lazily
        latency[str(size)] = round(best_time(call, 3 if first < _SLOW else 1), 6)
    return latency


def measure_scale(
    profile: Profile,
    dense: DenseRetriever,
    sizes: Sequence[int] = SIZES,
    parts: Sequence[str] = PARTS,
    seed: int = 0,
    passages: int = 256,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Build and search indexes of each size, made from the profile's corpus and questions; needs Linux.

    Returns ``{"profile", "seed", "k", "encoder", "dimension", "encoding": {"passages", "words", "per_second"},
    "machine", "versions", "threads", "load", "rows": [{"part", "n", "build_seconds", "bytes", "own", "mapped", "latency": {"1", "64"},
    "recall"?, …}]}``: bytes on disk, ``own`` and ``mapped`` (see `memory`) as opening and searching took them, latency
    in seconds a batch, documents included and query encoding not; ``load``: processes that ran before and after (1 minute).

    Raises:
        RetrievalError: a size failed; tells what its process said.
    """
    documents = open_corpus(profile)
    before = os.getloadavg()[0]
    texts = [document.contents for document in documents[:passages]]
    dense.encoder.passages(texts[:8])
    seconds = best_time(lambda: dense.encoder.passages(texts), 2)
    questions = (mixed_queries(profile) * 64)[:256]
    inputs = (documents.folder, documents.path), dense.vectors, dense.encoder.queries(questions), questions
    rows: list[dict[str, Any]] = []
    profile.build.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        tell(f"{size} documents")
        own_process = ProcessPoolExecutor(1, get_context("spawn"), cap_threads)
        with TemporaryDirectory(dir=profile.build) as name, own_process as process:
            try:
                rows += process.submit(measure_size, size, parts, *inputs, seed, Path(name)).result()
            except Exception as error:  # whatever it was, or that it was killed
                raise RetrievalError(f"measuring {size} documents failed: {error}") from error
    words = round(float(np.mean([len(text.split()) for text in texts])), 1)
    made = {"profile": profile.name, "seed": seed, "k": K}
    return made | {
        "encoder": dense.encoder.identity,
        "dimension": dense.dimension,
        "encoding": {"passages": len(texts), "words": words, "per_second": round(len(texts) / seconds, 1)},
        "machine": machine(),
        "versions": versions(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": [round(before, 2), round(os.getloadavg()[0], 2)],
        "rows": rows,
    }


def series(result: Mapping[str, Any], part: str, what: str) -> list[tuple[int, float]]:
    """Size and value of one part, where above 0; ``what``: a row's key, or "latency 1", "latency 64"."""
    key, _, queries = what.partition(" ")
    rows = [row for row in result["rows"] if row["part"] == part]
    points = [(row["n"], float(row[key][queries] if queries else row[key])) for row in rows]
    return [(size, value) for size, value in points if value > 0]


def growth(result: Mapping[str, Any], part: str, what: str) -> tuple[float, float]:
    """Exponent and factor of value = factor · n^exponent, least squares in logarithms, from 10,000 documents on.

    With fewer than two such sizes all are taken.
    """
    points = series(result, part, what)
    large = [(size, value) for size, value in points if size >= _FIT_FROM]
    points = large if len(large) >= 2 else points
    if len(points) < 2:
        raise ValueError(f"{part}, {what}: growth needs two sizes")
    return theory.growth(*zip(*points, strict=True))


def projected(result: Mapping[str, Any], part: str, what: str) -> float:
    """What the growth predicts for wiki-18; for vectors in proportion to the dimension, too."""
    exponent, factor = growth(result, part, what)
    wider = 1.0 if part in ("bm25", "documents") else WIKI18["dimension"] / result["dimension"]
    return factor * WIKI18["documents"] ** exponent * wider


def projection_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows for a table: the projection of every part to wiki-18 under e5-base-v2, to three figures."""
    rows = []
    for part in dict.fromkeys(row["part"] for row in result["rows"]):
        row: dict[str, Any] = {"index": part, "bytes ~ n^": round(growth(result, part, "bytes")[0], 3)}
        for head, what, unit in PROJECTED:
            told = part != "documents" or not what.startswith("latency")
            row[head] = f"{projected(result, part, what) / unit:.3g}" if told else None
        rows.append(row)
    return rows


def scale_rows(result: Mapping[str, Any], only: int | None = None) -> list[dict[str, Any]]:
    """`measure_scale`'s rows for a table: of all sizes, or in more detail of ``only`` one."""
    rows = []
    for row in result["rows"]:
        latency = {f"ms, {n}": 1000 * row["latency"][n] if n in row["latency"] else None for n in ("1", "64")}
        if only is None:
            own = {"s to build": row["build_seconds"], "MB": row["bytes"] / 1e6}
            rows.append({"index": f"{row['part']}, {row['n']:,}"} | own | latency)
        elif row["n"] == only:
            own = {"bytes a document": row["bytes"] / row["n"], "recall@10": row.get("recall")}
            own |= {"own MB": row["own"] / 1e6, "mapped MB": row["mapped"] / 1e6}
            rows.append({"index": row["part"]} | own | {"s to build": row["build_seconds"]} | latency)
    return rows


class Killed(Exception):
    """What a `Mortal` dies of."""


@dataclass
class Mortal:
    """An encoder that dies when it is given one shard more than ``shards``; None lets it live.

    ``encoded`` counts the passages of each shard.
    """

    encoder: Encoder
    shards: int | None
    encoded: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def passages(self, texts: Sequence[str]) -> Any:
        """See `Encoder.passages`.

        Raises:
            Killed: its time has come.
        """
        if len(self.encoded) == self.shards:
            raise Killed
        self.encoded.append(len(texts))
        return self.encoder.passages(texts)
