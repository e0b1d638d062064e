"""The file of exact vectors, ``flat.faiss``: written shard by shard, mapped instead of read, cut into views, put on GPUs.

It is FAISS' own format (`IndexFlatIP` for float32, `IndexScalarQuantizer` of halves for float16), the one of the
prebuilt index of wiki-18 on the hub, so either can stand for the other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import RetrievalError
from .encoder import Encoder, Vectors

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
    """The bytes that FAISS writes in front of ``rows`` vectors.

    Taken from an empty index, with the two counts filled in; compared with what FAISS writes for one vector.

    Raises:
        RetrievalError: this FAISS writes another format.
    """
    import faiss

    def made(count: int) -> bytes:
        bytes_ = faiss.serialize_index(empty(dimension, dtype)).tobytes()
        # FAISS counts the data of IndexFlat in floats, those of a quantiser in bytes
        numbers = count * dimension * (1 if dtype == "float32" else 2)
        return bytes_[:8] + struct.pack("<q", count) + bytes_[16:-8] + struct.pack("<Q", numbers)

    one = empty(dimension, dtype)
    one.add(np.zeros((1, dimension), np.float32))
    if made(1) + bytes(dimension * np.dtype(dtype).itemsize) != faiss.serialize_index(one).tobytes():
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


def open_flat(path: Path) -> Any:
    """The index in a file, its vectors mapped: they are read when searched, and shared between processes.

    Raises:
        RetrievalError: damaged, cut short, or not a flat inner-product index.
    """
    import faiss

    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (OSError, RuntimeError) as error:
        raise RetrievalError(
            f"{path}: not a readable index ({' '.join(str(error).split())[:300]}); delete the folder and build the index again"
        ) from error
    kind = type(index).__name__
    halves = kind == "IndexScalarQuantizer" and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
    if not (isinstance(index, faiss.IndexFlat) or halves) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise RetrievalError(
            f"{path}: holds a {kind}, not a flat inner-product index; give the one built with "
            "IndexFlatIP (or faiss.index_factory(d, 'Flat', METRIC_INNER_PRODUCT))"
        )
    return index


class _Held:
    """Memory of an index as an array that keeps the index: without it, numpy would read what is unmapped."""

    def __init__(self, index: Any, codes: npt.NDArray[np.uint8]) -> None:
        self.index = index
        self.__array_interface__ = codes.__array_interface__


def stored(index: Any) -> npt.NDArray[Any]:
    """The vectors of a flat index, shape (documents, dimension), float32 or float16: a view, not a copy."""
    import faiss

    codes = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)
    dtype = np.float32 if isinstance(index, faiss.IndexFlat) else np.float16
    view: npt.NDArray[Any] = np.asarray(_Held(index, codes)).view(dtype).reshape(index.ntotal, index.d)
    return view


def part(index: Any, first: int, last: int) -> Any:
    """Rows ``first`` to ``last`` of a mapped flat index as an index of its own, over the same memory."""
    import faiss

    dtype: DType = "float32" if isinstance(index, faiss.IndexFlat) else "float16"
    view = empty(index.d, dtype)
    codes = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)
    own = codes[first * index.code_size : last * index.code_size]
    view.codes = type(index.codes).create_view(faiss.swig_ptr(own), own.size, index.codes.owner)
    view.ntotal = last - first
    return view


def sharded(index: Any, parts: int) -> Any:
    """A flat index as `IndexShards` over ``parts`` views of it, each searched by a thread of its own.

    FAISS gives every *query* a thread; shards let a single query use all cores.
    """
    import faiss

    make: Any = faiss.IndexShards
    shards = make(index.d, True, True)
    bounds = [i * index.ntotal // parts for i in range(parts + 1)]
    for first, last in pairwise(bounds):
        shards.add_shard(part(index, first, last))
    return shards


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
    """``index`` spread over all GPUs, in half precision; the vectors go there from the mapped file.

    Raises:
        RetrievalError: the kind of index does not exist on GPUs, or does not fit.
    """
    import faiss

    options = faiss.GpuMultipleClonerOptions()
    options.useFloat16 = True
    options.shard = faiss.get_num_gpus() > 1
    try:
        if (
            options.shard and type(index).__name__ == "IndexScalarQuantizer"
        ):  # FAISS shards no halves by itself
            count = faiss.get_num_gpus()
            bounds = [i * index.ntotal // count for i in range(count + 1)]
            make: Any = faiss.IndexShards
            shards = make(index.d, True, True)
            for device, (first, last) in enumerate(pairwise(bounds)):
                view, resources = part(index, first, last), faiss.StandardGpuResources()
                shards.add_shard(faiss.index_cpu_to_gpu(resources, device, view, options))
            return shards
        return faiss.index_cpu_to_all_gpus(index, options)
    except RuntimeError as error:
        raise RetrievalError(
            f"the {label} index of {index.ntotal} vectors cannot be put on {faiss.get_num_gpus()} GPUs "
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
    if index.ntotal != len(documents):
        raise RetrievalError(
            f"{path}: holds {index.ntotal} vectors, the corpus {len(documents)} documents; it belongs to another corpus"
        )
    if index.d != encoder.dimension:
        raise RetrievalError(
            f"{path}: vectors of {index.d} numbers, {encoder.spec.encoder!r} makes {encoder.dimension}; "
            "it was made by another encoder"
        )
    if stored(index).dtype != np.dtype(encoder.spec.dtype):
        raise RetrievalError(
            f"{path}: vectors of {stored(index).dtype}; set retrieval.dense.dtype={stored(index).dtype} to adopt them"
        )
    rows = sorted({int(row) for row in np.linspace(0, len(documents) - 1, looks)})
    looked: Vectors = stored(index)[rows].astype(np.float32)
    made = encoder.passages([documents[row].contents for row in rows])
    lengths = np.linalg.norm(looked, axis=1)
    alike = (looked * made).sum(1) / np.maximum(lengths, 1e-9)
    worst = int(alike.argmin())
    if not alike[worst] >= SAME or abs(lengths - 1).max() > 1e-2:
        raise RetrievalError(
            f"{path}: vector {rows[worst]} is not document {documents[rows[worst]].id!r} (cosine {alike[worst]:.3f}, "
            f"length {lengths[worst]:.3f}): another order, another encoder, or other prefixes than the profile's"
        )
    return float(alike.min())
