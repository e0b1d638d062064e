"""Builds and opens the indexes that a profile asks for, below ``build/<profile>/index/<kind>/``.

An index belongs to one corpus and one encoder, which its stage's manifest names: one of another is an error.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..corpus import fingerprint
from ..errors import RetrievalError
from ..profile import Profile, changed
from ..records import Document
from ..runs.stages import Stage
from . import compressed, milvus
from .base import Retriever
from .broken import BROKEN, BrokenRetriever
from .dense import DenseRetriever, build_dense
from .encoder import Encoder
from .flat import INDEX, adopt_index, open_flat, stored, weight
from .hit_cache import CachedRetriever
from .http.remote import RemoteRetriever
from .lexical import LexicalRetriever, build_lexical
from .store import DocumentStore, build_store

KINDS = ("dense", "lexical", "milvus")
REMOTE = "remote"
BOOLEAN = "boolean"
"""Not an index of its own: the lexical one, queries read as boolean expressions."""
PREBUILT = "e5_Flat.index"
"""The name, beside the corpus, under which a prebuilt index of it is looked for; `s3mini download` puts it there."""


def open_corpus(profile: Profile) -> DocumentStore:
    """The profile's documents, read from disk as they are asked for; indexed first where that was not done yet.

    Raises:
        DataError: the corpus is missing or malformed.
    """
    path = profile.resolve(profile.data.corpus)
    content = fingerprint(path)
    with Stage(profile, "documents", {"corpus": content}) as stage:
        if not stage.done:
            build_store(stage.dir, path, progress=path.stat().st_size > 1 << 26)
            stage.finish()
    return _open_store(stage.path, path, content)


@functools.lru_cache(maxsize=2)
def _open_store(folder: Path, path: Path, content: str) -> DocumentStore:
    return DocumentStore(folder, path)


def _stage(profile: Profile, kind: str) -> Stage:
    """The stage that makes the index of ``kind``."""
    inputs = {"corpus": fingerprint(profile.resolve(profile.data.corpus))}
    if kind == "lexical":
        return Stage(profile, f"index/{kind}", inputs, {"analyzer": "english, porter"})
    if kind == REMOTE:
        told = "a remote index is built where its server runs"
        raise RetrievalError(f"{told}: s3mini index, s3mini serve retriever")
    if kind not in KINDS:
        raise RetrievalError(f"unknown kind of retriever {kind!r}: choose one of {', '.join(KINDS)}")
    spec, name = profile.retrieval.dense, f"index/{kind}"
    settings = spec.model_dump(include={"passage_prefix", "max_passage_tokens"})
    encoder = Encoder(spec)
    settings["encoder"] = encoder.identity
    if encoder.products != "float32":
        settings["products"] = encoder.products
    if spec.dtype != "float32":
        settings["dtype"] = spec.dtype
    if kind == "milvus":
        settings["url"] = _milvus_url(profile)
    elif spec.index != "flat":
        name, settings["index"] = f"{name}-{spec.index}", spec.index
    return Stage(profile, name, inputs, settings)


def _milvus_url(profile: Profile) -> str:
    url = profile.retrieval.url or f"build/{profile.name}/milvus.db"
    return url if "://" in url else str(profile.resolve(url))


def _uncompressed(profile: Profile) -> Profile:
    """The profile with the index of exact vectors, from which the others are made."""
    return changed(profile, {"retrieval.dense.index": "flat"})


def prebuilt_index(profile: Profile) -> Path | None:
    """The downloaded index of a profile that names one in ``data.hub``, once it is there; it holds float32."""
    path = profile.resolve(profile.data.corpus).with_name(PREBUILT)
    wanted = "index" in profile.data.hub and profile.retrieval.dense.dtype == "float32"
    return path if wanted and path.is_file() else None


def build_index(
    profile: Profile, kind: str | None = None, progress: bool = True, adopt: Path | None = None
) -> Path:
    """Build the index of ``kind`` (default: the profile's) and return its folder.

    Done already: nothing happens. Interrupted: it goes on. Built for another corpus or encoder: built anew. A dense
    index of a compressed kind, and Milvus, are made from the exact vectors, which are made first.

    Args:
        adopt: a prebuilt flat index (the hub's ``e5_Flat.index``) to take instead of encoding; linked, or copied
            where it lies on another disk. Default: `prebuilt_index`.

    Raises:
        RetrievalError: unknown kind or encoder, no Java, no pymilvus; what is to be adopted is not this corpus'.
        DataError: the corpus is missing or malformed.
        StageError: the disk is full.
    """
    kind = kind or profile.retrieval.kind
    if kind in BROKEN:  # they have none
        return profile.build
    if kind == "dense" and profile.retrieval.dense.index != "flat":
        build_index(_uncompressed(profile), kind, progress, adopt)
        adopt = None
    with _stage(profile, kind) as stage:
        if not stage.done:
            facts = _build(stage, profile, kind, progress, adopt)
            stage.finish(documents=len(open_corpus(profile)), **facts)
        elif adopt is not None and kind == "dense":
            told = "there is an index already; delete the folder"
            raise RetrievalError(f"{stage.path}: {told} to adopt {adopt}")
    return stage.path


def _build(stage: Stage, profile: Profile, kind: str, progress: bool, adopt: Path | None) -> dict[str, Any]:
    """Write the index below the stage's folder; returns facts for its manifest."""
    documents, spec = open_corpus(profile), profile.retrieval.dense
    if kind == "lexical":
        build_lexical(stage.dir, documents, progress)
        return {}
    encoder = Encoder(spec)
    if kind == "dense" and spec.index == "flat":
        source = adopt or prebuilt_index(profile)
        if source is not None:
            return adopt_index(source, stage.dir, documents, encoder)
        build_dense(stage.dir, documents, encoder, progress, spec.dtype)
        return {}
    exact = build_index(_uncompressed(profile), "dense", progress, adopt)
    vectors = stored(open_flat(exact / INDEX))
    if kind == "milvus":
        name = milvus.collection_name(stage.inputs["corpus"], encoder)
        milvus.build_milvus(_milvus_url(profile), name, vectors, progress)
        return {"collection": name}
    compressed.build_compressed(stage.dir, spec.index, vectors, progress=progress)
    candidates = compressed.open_compressed(stage.dir, spec.index, documents)
    retriever = DenseRetriever(exact, documents, encoder, compressed=candidates)
    queries = encoder.queries(compressed.sample_queries(documents))
    return {"bytes": weight(stage.dir), **compressed.measured(retriever, queries)}


def open_retriever(profile: Profile, kind: str | None = None, cache: bool = True) -> Retriever:
    """The retriever of ``kind`` (default: the profile's), its index built first when there is none.

    Args:
        kind: "dense", "lexical", "milvus", "boolean" (BM25 over the lexical index, the query a boolean expression), or
            "remote": whatever the server at ``retrieval.url`` has, its documents held against the corpus; or of `BROKEN`.
        cache: keep answers in memory (`CachedRetriever`); False to measure the bare engine.

    Raises:
        RetrievalError: the index on disk belongs to another corpus or encoder (names both); unknown kind or
            encoder; no Java; no pymilvus or no GPU where asked for; a damaged index; a remote one without a url.
    """
    if cache:
        return CachedRetriever(open_retriever(profile, kind, cache=False))
    kind = kind or profile.retrieval.kind
    if kind == REMOTE:
        return connect(profile, open_corpus(profile).by_id)
    if kind in BROKEN:
        content = fingerprint(profile.resolve(profile.data.corpus))
        return BrokenRetriever(kind, open_corpus(profile).by_id, content)
    boolean, kind = kind == BOOLEAN, "lexical" if kind == BOOLEAN else kind
    exact, stage = _stage(_uncompressed(profile), kind), _stage(profile, kind)
    for one in (exact, stage):
        if not one.done:
            _refuse_foreign(one, profile, kind)
    build_index(profile, kind)
    documents, content, spec = open_corpus(profile), stage.inputs["corpus"], profile.retrieval
    if kind == "lexical":
        return LexicalRetriever(stage.path, documents, spec.lexical, content, profile.threads, boolean)
    encoder, index = Encoder(spec.dense), spec.dense.index
    if kind == "milvus":
        return milvus.MilvusRetriever(_milvus_url(profile), documents, encoder, content)
    packed = compressed.open_compressed(stage.path, index, documents) if index != "flat" else None
    return DenseRetriever(exact.path, documents, encoder, content, spec.dense.search, packed)


def connect(profile: Profile, known: Mapping[str, Document] | None = None) -> RemoteRetriever:
    """The retriever at ``retrieval.url``; see `RemoteRetriever`."""
    spec = profile.retrieval
    if spec.url is None:
        raise RetrievalError("no server is named: set retrieval.url, e.g. http://127.0.0.1:8000")
    return RemoteRetriever(spec.url, known, spec.timeout, spec.patience)


def _refuse_foreign(stage: Stage, profile: Profile, kind: str) -> None:
    """Raise when a complete index of something else lies where this profile's should."""
    manifest = stage.manifest
    built_for = manifest.get("inputs", {}) | manifest.get("settings", {})
    for key, wanted in (stage.inputs | stage.settings).items():
        if manifest.get("complete") and built_for.get(key) != wanted:
            raise RetrievalError(
                f"{stage.path}: this index was built for {key} {built_for.get(key)!r}, the profile asks for {key} "
                f"{wanted!r}. Build it again: s3mini index {profile.option} --kind {kind}"
            )
