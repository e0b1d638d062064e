"""Benchmark of retrieval: import, open, encode, search, and whether its two choices still hold.

    python benchmarks/bench_retrieval.py [--profile mini] [--passages 256]

Choices measured: sentence-transformers' ``encode`` against a plain transformers loop (same vectors, so the
library stays unless the loop is materially faster), and the calibrated BLAS threshold against FAISS' default.
The indexes must exist (``s3mini index``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from s3mini.classroom.study import best_time, mixed_queries
from s3mini.profile import load_profile
from s3mini.retrieval import DenseRetriever, Encoder, open_retriever
from s3mini.retrieval.encoder import Vectors
from s3mini.runs.machine import cap_threads, machine


def plain_loop(encoder: Encoder, texts: Sequence[str], batch: int) -> Vectors:
    """What ``Encoder.passages`` computes for MiniLM, with transformers alone: sort, batch, mean, normalise."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(encoder.path)
    model = AutoModel.from_pretrained(encoder.path).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.empty((len(texts), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens = tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt")
            mask = tokens["attention_mask"][..., None]
            mean = (model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
            out[rows] = torch.nn.functional.normalize(mean).numpy()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--passages", type=int, default=256)
    given = parser.parse_args()
    profile = load_profile(given.profile)
    print(f"{machine()['processor']}, {cap_threads(profile.threads)} threads")
    retrievers = {}
    for kind in ("lexical", "dense"):
        started = time.perf_counter()
        retrievers[kind] = open_retriever(profile, kind, cache=False)
        print(f"open {kind}, imports included: {time.perf_counter() - started:.1f} s")
    dense = cast(DenseRetriever, retrievers["dense"])
    texts = [document.contents for document in dense._documents[: given.passages]]
    dense.encoder.queries(["warm up"])
    ours = best_time(lambda: dense.encoder.passages(texts), 2)
    loop = best_time(lambda: plain_loop(dense.encoder, texts, 32), 2)
    same = np.abs(dense.encoder.passages(texts) - plain_loop(dense.encoder, texts, 32)).max()
    print(
        f"passages a second: encode {len(texts) / ours:.0f}, plain loop {len(texts) / loop:.0f}, differ by {same:.0e}"
    )
    queries = mixed_queries(profile)
    for size in (1, 16, 96, 256):
        batch = queries[:size]
        vectors = dense.encoder.queries(batch)
        row = [f"bm25 {1000 * best_time(partial(retrievers['lexical'].search, batch, 10), 3):.1f} ms"]
        row.append(f"encode {1000 * best_time(partial(dense.encoder.queries, batch), 3):.1f} ms")
        calibrated = dense.blas_threshold
        for name, dense.blas_threshold in (("default", 128_000), ("calibrated", calibrated)):
            seconds = best_time(partial(dense.search_vectors, vectors, 10), 3)
            row.append(f"search, {name} {1000 * seconds:.1f} ms")
        print(f"{size:4} queries:", ", ".join(row))


if __name__ == "__main__":
    main()
