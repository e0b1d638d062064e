"""The file of exact vectors, ``flat.faiss``: written shard by shard, mapped instead of read, cut into views, put on GPUs.

It is FAISS' own format (`IndexFlatIP` for float32, `IndexScalarQuantizer` of halves for float16), the one of the
prebuilt index of wiki-18 on the hub, so either can stand for the other.
"""

import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import RetrievalError
from ..records import Document
from ..runs.stages import atomic_write
from ..unicode import canonical
from .base import check_size, unreadable
from .encoder import Encoder, Vectors
from .store import ids_json

INDEX, IDS = "flat.faiss", "ids.json"
"""The vectors in a folder, and the ids of their documents (`store.ids_json`) beside them."""
DType = Literal["float32", "float16"]
SAME = 0.99
"""Cosine of a stored vector with its passage encoded here, at least: half precision moves it by 1e-3, while two
passages of e5 that have nothing to do with each other are 0.7 to 0.85 apart."""
ON_GPUS = ("flat", "ivf-sq8")
"""Kinds of index that FAISS can search on a GPU."""
GPU_K = 2048
"""The most neighbours that FAISS finds on a GPU."""
_GPU_SHARE = 0.5  # of the GPUs' free memory that an index may take unasked: models want the rest


def empty(dimension: int, dtype: DType) -> Any:
    """An index without vectors: exact inner product over float32 or float16."""
    import faiss

    if dtype == "float32":
        return faiss.IndexFlatIP(dimension)
    return faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def header(dimension: int, rows: int, dtype: DType) -> bytes:
    """The bytes that FAISS writes in front of ``rows`` vectors: an empty index's, with the two counts filled in.

    Raises:
        RetrievalError: this FAISS writes another format, as one vector shows.
    """
    import faiss

    def made(count: int) -> bytes:
        bytes_ = faiss.serialize_index(empty(dimension, dtype)).tobytes()
        # FAISS counts the data of IndexFlat in floats, those of a quantiser in bytes
        numbers = count * dimension * (1 if dtype == "float32" else 2)
        return bytes_[:8] + struct.pack("<q", count) + bytes_[16:-8] + struct.pack("<Q", numbers)

    one, vector = empty(dimension, dtype), np.zeros((1, dimension), np.float32)
    one.add(vector)
    if made(1) + vector.astype(dtype).tobytes() != faiss.serialize_index(one).tobytes():
        raise RetrievalError(
            f"FAISS {faiss.__version__} writes another file format than 1.15: install faiss 1.15"
        )
    return made(rows)


def join(shards: Sequence[Path], rows: Sequence[int], target: Path, dtype: DType) -> None:
    """Move the vectors of ``.npy`` shards into one index file, in order; each shard is deleted once it is in.

    Goes on where an earlier call was killed: the disk never holds the vectors twice. ``rows``: of each shard.
    """
    present = next((shard for shard in shards if shard.exists()), None)
    temporary = target.with_name(f"{target.name}.tmp")
    if present is None:  # all in, killed before the last renaming
        temporary.replace(target)
        return
    dimension = int(np.load(present, mmap_mode="r").shape[1])
    start = header(dimension, sum(rows), dtype)
    with open(temporary, "r+b" if temporary.exists() else "w+b") as out:
        out.write(start)
        end = len(start)
        for shard, count in zip(shards, rows, strict=True):
            if shard.exists():
                out.seek(end)
                out.write(np.load(shard, mmap_mode="r").data)
                out.flush()
                os.fsync(out.fileno())
                shard.unlink()
            end += count * dimension * np.dtype(dtype).itemsize
        out.truncate(end)
    temporary.replace(target)


def read_index(path: Path, flags: int = 0, **remedy: str) -> Any:
    """The FAISS index in a file.

    Raises:
        RetrievalError: damaged or cut short; ``remedy`` says what to do.
    """
    import faiss

    try:
        return faiss.read_index(str(path), flags)
    except (OSError, RuntimeError) as error:
        raise unreadable(path, error, **remedy) from error


def open_flat(path: Path, **remedy: str) -> Any:
    """The index in a file, its vectors mapped: they are read when searched, and shared between processes.

    Raises:
        RetrievalError: see `read_index`; not a flat inner-product index.
    """
    import faiss

    index = read_index(path, faiss.IO_FLAG_MMAP_IFC, **remedy)
    kind = type(index).__name__
    halves = kind == "IndexScalarQuantizer" and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
    if not (isinstance(index, faiss.IndexFlat) or halves) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise RetrievalError(
            f"{path}: holds a {kind}, not a flat inner-product index; give the one built with "
            "IndexFlatIP (or faiss.index_factory(d, 'Flat', METRIC_INNER_PRODUCT))"
        )
    return index


def weight(folder: Path, pattern: str = "*.faiss") -> int:
    """Bytes of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


class _Held:
    """Memory of an index as an array that keeps the index: without it, numpy would read what is unmapped."""

    def __init__(self, index: Any, codes: npt.NDArray[np.uint8]) -> None:
        self.index = index
        self.__array_interface__ = codes.__array_interface__


def _dtype(index: Any) -> DType:
    return "float32" if type(index).__name__.startswith("IndexFlat") else "float16"


def _codes(index: Any) -> Any:
    import faiss

    return faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)


def stored(index: Any) -> npt.NDArray[Any]:
    """The vectors of a flat index, shape (documents, dimension), float32 or float16: a view, not a copy."""
    view: npt.NDArray[Any] = np.asarray(_Held(index, _codes(index)))
    return view.view(_dtype(index)).reshape(index.ntotal, index.d)


def parts(index: Any, number: int) -> Iterator[Any]:
    """The rows of a mapped flat index cut into ``number`` indexes, over the same memory."""
    import faiss

    codes, size = _codes(index), index.code_size
    for first, last in pairwise(i * index.ntotal // number for i in range(number + 1)):
        part, own = empty(index.d, _dtype(index)), codes[first * size : last * size]
        part.codes = type(index.codes).create_view(faiss.swig_ptr(own), own.size, index.codes.owner)
        part.ntotal = last - first
        yield part


def sharded(index: Any, shards: Iterable[Any]) -> Any:
    """The `parts` of ``index`` as `IndexShards`, each searched by a thread of its own.

    FAISS gives every *query* a thread; shards let a single query use all cores.
    """
    import faiss

    make: Any = faiss.IndexShards
    joined = make(index.d, True, True)
    for shard in shards:
        joined.add_shard(shard)
    return joined


def use_gpu(wanted: Literal["auto", "cpu", "gpu"], index: Any, label: str = "flat") -> bool:
    """Whether to search on the GPUs. "auto": if FAISS has any and knows the kind of index there, and halves of the vectors
    fill at most half their memory.

    Raises:
        RetrievalError: "gpu" without faiss-gpu or without a GPU.
    """
    import faiss

    count = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if wanted == "gpu" and not count:
        raise RetrievalError(
            "retrieval.dense.search is 'gpu', but FAISS sees no GPU: install the extra gpu in place of cpu "
            "(faiss-gpu and faiss-cpu exclude each other), check nvidia-smi, or set retrieval.dense.search=auto"
        )
    if wanted != "auto" or not count or label not in ON_GPUS:
        return wanted == "gpu"
    import torch

    free = sum(torch.cuda.mem_get_info(device)[0] for device in range(torch.cuda.device_count()))
    return bool(index.ntotal * index.d * 2 <= _GPU_SHARE * free)


def to_gpus(index: Any, label: str = "flat") -> Any:
    """``index`` spread over all GPUs, in half precision, from the mapped file.

    Raises:
        RetrievalError: the kind of index does not exist on GPUs, or does not fit.
    """
    import faiss

    count, options = faiss.get_num_gpus(), faiss.GpuMultipleClonerOptions()
    options.useFloat16 = True
    options.shard = count > 1
    try:
        if not options.shard or type(index).__name__ != "IndexScalarQuantizer":
            return faiss.index_cpu_to_all_gpus(index, options)
        on_gpus = (  # FAISS shards no halves by itself
            faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, part, options)
            for device, part in enumerate(parts(index, count))
        )
        return sharded(index, on_gpus)
    except RuntimeError as error:
        raise RetrievalError(
            f"the {label} index of {index.ntotal} vectors cannot be put on {count} GPUs "
            f"({' '.join(str(error).split())[:200]}): set retrieval.dense.search=cpu, or index=ivf-sq8, a quarter of the size"
        ) from error


def check_adopted(
    path: Path, index: Any, documents: Sequence[Any], encoder: Encoder, looks: int = 8
) -> float:
    """That a prebuilt index is the one this corpus and encoder would make; returns the least cosine seen.

    Looks at the first, the last and some documents between: encodes them and compares.

    Raises:
        RetrievalError: another number of vectors, another dimension, or vectors of other passages.
    """
    check_size(path, index.ntotal, "vectors", documents)
    name, dtype = encoder.spec.encoder, _dtype(index)
    if index.d != encoder.dimension:
        made = f"vectors of {index.d} numbers, {name!r} makes {encoder.dimension}"
        raise RetrievalError(f"{path}: {made}; it was made by another encoder")
    if dtype != encoder.spec.dtype:
        raise RetrievalError(f"{path}: vectors of {dtype}; set retrieval.dense.dtype={dtype} to adopt them")
    rows = sorted({int(row) for row in np.linspace(0, len(documents) - 1, looks)})
    looked: Vectors = stored(index)[rows].astype(np.float32)
    texts = [documents[row].contents for row in rows]
    own, plain = encoder.passages(texts), encoder.passages([canonical(text) for text in texts])
    lengths = np.linalg.norm(looked, axis=1)
    # made elsewhere, of the text as it stands; made here, of its canonical form
    alike = np.maximum((looked * own).sum(1), (looked * plain).sum(1)) / np.maximum(lengths, 1e-9)
    worst = int(alike.argmin())
    if not alike[worst] >= SAME or abs(lengths - 1).max() > 1e-2:
        raise RetrievalError(
            f"{path}: vector {rows[worst]} is not document {documents[rows[worst]].id!r} (cosine {alike[worst]:.3f}, "
            f"length {lengths[worst]:.3f}): another order, another encoder, or other prefixes than the profile's"
        )
    return float(alike.min())


def adopt_index(
    source: Path, folder: Path, documents: Sequence[Document], encoder: Encoder
) -> dict[str, Any]:
    """Put a prebuilt index where `build_dense` would write it; returns facts for the manifest.

    Raises:
        RetrievalError: there is no such file, or it is not what `build_dense` would write (see `check_adopted`).
    """
    if not source.is_file():
        raise RetrievalError(f"{source}: no such file; give the prebuilt index (parts joined into one file)")
    index = open_flat(source, remedy="it was cut short or damaged: fetch it again, or join its parts again")
    least = check_adopted(source, index, documents, encoder)
    shutil.rmtree(folder / "shards", ignore_errors=True)  # of an encoding that was begun
    (folder / f"{INDEX}.tmp").unlink(missing_ok=True)
    temporary = folder / f"{INDEX}.adopted"
    temporary.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), temporary)
    except OSError:  # another disk, or a file system without links
        try:
            shutil.copyfile(source, temporary)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    atomic_write(folder / IDS, ids_json(documents))
    temporary.replace(folder / INDEX)
    return {"adopted": source.name, "least_cosine": round(least, 5)}
