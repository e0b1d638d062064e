"""The retriever: frozen, deterministic, behind one interface (`Retriever`), lexical, dense, or at a server.

``open_retriever(profile)`` is all a caller needs. Indexes live under ``build/<profile>/index/<kind>/`` and
belong to one corpus and one encoder: an index of another is an error, never a wrong result.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..corpus import fingerprint
from ..errors import RetrievalError
from ..hub.download import fetched
from ..profile import Profile
from ..records import Document
from ..runs.stages import Stage, atomic_write, disk_error
from . import compressed, milvus
from .base import Retriever
from .cache import CachedRetriever
from .dense import IDS, INDEX, DenseRetriever, build_dense
from .encoder import Encoder
from .flat import check_adopted, open_flat, stored
from .http.remote import RemoteRetriever
from .lexical import LexicalRetriever, build_lexical
from .store import DocumentStore, build_store, ids_json

__all__ = [
    "CachedRetriever",
    "DenseRetriever",
    "DocumentStore",
    "Encoder",
    "LexicalRetriever",
    "RemoteRetriever",
    "Retriever",
    "build_index",
    "open_corpus",
    "open_retriever",
]

KINDS = ("dense", "lexical", "milvus")
REMOTE = "remote"
BOOLEAN = "boolean"
"""Not an index of its own: the lexical one, queries read as boolean expressions."""


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
    return _opened(stage.path, path, content)


@functools.lru_cache(maxsize=2)
def _opened(folder: Path, path: Path, content: str) -> DocumentStore:
    return DocumentStore(folder, path)


def _stage(profile: Profile, kind: str, vectors: bool = False) -> Stage:
    """The stage that makes the index of ``kind``; ``vectors``: of a dense one, that of the exact vectors."""
    inputs = {"corpus": fingerprint(profile.resolve(profile.data.corpus))}
    if kind == "lexical":
        return Stage(profile, f"index/{kind}", inputs, {"analyzer": "english, porter"})
    if kind == REMOTE:
        raise RetrievalError(
            "a remote index is built where its server runs: s3mini index, s3mini serve retriever"
        )
    if kind not in KINDS:
        raise RetrievalError(f"unknown kind of retriever {kind!r}: choose one of {', '.join(KINDS)}")
    spec = profile.retrieval.dense
    settings = {
        "encoder": Encoder(spec).identity,
        "passage_prefix": spec.passage_prefix,
        "max_passage_tokens": spec.max_passage_tokens,
    }
    if spec.dtype != "float32":
        settings["dtype"] = spec.dtype
    if kind == "milvus":
        return Stage(profile, f"index/{kind}", inputs, settings | {"url": _milvus_url(profile)})
    if vectors or spec.index == "flat":
        return Stage(profile, f"index/{kind}", inputs, settings)
    return Stage(profile, f"index/{kind}-{spec.index}", inputs, settings | {"index": spec.index})


def _milvus_url(profile: Profile) -> str:
    url = profile.retrieval.url or f"build/{profile.name}/milvus.db"
    return url if "://" in url else str(profile.resolve(url))


def build_index(
    profile: Profile, kind: str | None = None, progress: bool = True, adopt: Path | None = None
) -> Path:
    """Build the index of ``kind`` (default: the profile's) and return its folder.

    Done already: nothing happens. Interrupted: it goes on. Built for another corpus or encoder: built anew. A dense
    index of a compressed kind, and Milvus, are made from the exact vectors, which are made first.

    Args:
        adopt: a prebuilt flat index (the hub's ``e5_Flat.index``) to take instead of encoding; linked, or copied
            where it lies on another disk. Default: the one that `download` fetched for the profile, if any.

    Raises:
        RetrievalError: unknown kind or encoder, no Java, no pymilvus; what is to be adopted is not this corpus'.
        DataError: the corpus is missing or malformed.
        StageError: the disk is full.
    """
    kind = kind or profile.retrieval.kind
    with _stage(profile, kind, vectors=True) as stage:
        if stage.done and adopt is not None and kind == "dense":
            raise RetrievalError(
                f"{stage.path}: there is an index already; delete the folder to adopt {adopt}"
            )
        if not stage.done:
            documents = open_corpus(profile)
            if kind == "lexical":
                build_lexical(stage.dir, documents, progress)
                stage.finish(documents=len(documents))
            elif kind == "milvus":
                vectors = stored(open_flat(build_index(_exact(profile), "dense", progress, adopt) / INDEX))
                name = milvus.collection_name(stage.inputs["corpus"], Encoder(profile.retrieval.dense))
                milvus.build_milvus(_milvus_url(profile), name, vectors, progress)
                stage.finish(documents=len(documents), collection=name)
            else:
                encoder = Encoder(profile.retrieval.dense)
                if adopt is None and profile.retrieval.dense.dtype == "float32":
                    adopt = fetched(profile, "index")
                facts = _adopt(stage.dir, adopt, documents, encoder) if adopt is not None else {}
                if adopt is None:
                    build_dense(stage.dir, documents, encoder, progress, profile.retrieval.dense.dtype)
                stage.finish(documents=len(documents), **facts)
    if kind == "dense" and profile.retrieval.dense.index != "flat":
        return _build_compressed(profile, progress)
    return stage.path


def _exact(profile: Profile) -> Profile:
    dense = profile.retrieval.dense.model_copy(update={"index": "flat"})
    return profile.model_copy(update={"retrieval": profile.retrieval.model_copy(update={"dense": dense})})


def _build_compressed(profile: Profile, progress: bool) -> Path:
    exact, kind = _stage(profile, "dense", vectors=True), profile.retrieval.dense.index
    with _stage(profile, "dense") as stage:
        if not stage.done:
            compressed.build_compressed(stage.dir, kind, stored(open_flat(exact.path / INDEX)), 0, progress)
            documents, encoder = open_corpus(profile), Encoder(profile.retrieval.dense)
            packed = compressed.open_compressed(stage.dir, kind, len(documents))
            retriever = DenseRetriever(exact.path, documents, encoder, compressed=packed)
            queries = encoder.queries(compressed.sample_queries(documents))
            size = compressed.weight(stage.dir)
            stage.finish(documents=len(documents), bytes=size, **compressed.measured(retriever, queries))
    return stage.path


def _adopt(folder: Path, source: Path, documents: DocumentStore, encoder: Encoder) -> dict[str, Any]:
    """Put a prebuilt index where `build_dense` would write it, when it is what that would write."""
    if not source.is_file():
        raise RetrievalError(f"{source}: no such file; give the prebuilt index (parts joined into one file)")
    least = check_adopted(source, open_flat(source), documents, encoder)
    shutil.rmtree(folder / "shards", ignore_errors=True)  # of an encoding that was begun
    (folder / f"{INDEX}.tmp").unlink(missing_ok=True)
    temporary = folder / f"{INDEX}.adopted"
    temporary.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), temporary)
    except OSError:  # another disk, or a file system without links
        try:
            shutil.copyfile(source, temporary)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_error(error, temporary) or error from error
    atomic_write(folder / IDS, ids_json(documents))
    temporary.replace(folder / INDEX)
    return {"adopted": source.name, "least_cosine": round(least, 5)}


def open_retriever(profile: Profile, kind: str | None = None, cache: bool = True) -> Retriever:
    """The retriever of ``kind`` (default: the profile's), its index built first when there is none.

    Args:
        profile: says which corpus, encoder and parameters.
        kind: "dense", "lexical", "milvus", "boolean" (BM25 over the lexical index, the query a boolean expression), or
            "remote": whatever the server at ``retrieval.url`` has, its documents held against the corpus.
        cache: keep answers in memory (`CachedRetriever`); False to measure the bare engine.

    Raises:
        RetrievalError: the index on disk belongs to another corpus or encoder (names both); unknown kind or
            encoder; no Java; no pymilvus or no GPU where asked for; a damaged index; a remote one without a url.
    """
    kind = kind or profile.retrieval.kind
    if kind == REMOTE:
        remote = connect(profile, open_corpus(profile).by_id)
        return CachedRetriever(remote) if cache else remote
    boolean, kind = kind == BOOLEAN, "lexical" if kind == BOOLEAN else kind
    stages = [_stage(profile, kind, vectors=True), _stage(profile, kind)]
    for stage in stages:
        if not stage.done:
            _refuse_foreign(stage, profile, kind)
    if not all(stage.done for stage in stages):
        build_index(profile, kind)
    exact, stage = stages
    documents, content = open_corpus(profile), stage.inputs["corpus"]
    spec = profile.retrieval
    retriever: Retriever
    if kind == "lexical":
        retriever = LexicalRetriever(stage.path, documents, spec.lexical, content, profile.threads, boolean)
    elif kind == "milvus":
        encoder = Encoder(spec.dense)
        retriever = milvus.MilvusRetriever(_milvus_url(profile), documents, encoder, content)
    else:
        index = spec.dense.index
        packed = compressed.open_compressed(stage.path, index, len(documents)) if index != "flat" else None
        encoder = Encoder(spec.dense)
        retriever = DenseRetriever(exact.path, documents, encoder, content, spec.dense.search, packed)
    return CachedRetriever(retriever) if cache else retriever


def connect(profile: Profile, known: Mapping[str, Document] | None = None) -> RemoteRetriever:
    """The retriever at ``retrieval.url``; see `RemoteRetriever`."""
    spec = profile.retrieval
    if spec.url is None:
        raise RetrievalError("no server is named: set retrieval.url, e.g. http://127.0.0.1:8000")
    return RemoteRetriever(spec.url, known, spec.timeout, spec.patience)


def _refuse_foreign(stage: Stage, profile: Profile, kind: str) -> None:
    """Raise when a complete index of something else lies where this profile's should."""
    found = stage.manifest
    if not found.get("complete"):
        return
    for what, mine in (("inputs", stage.inputs), ("settings", stage.settings)):
        for key, wanted in mine.items():
            has = found.get(what, {}).get(key)
            if has != wanted:
                raise RetrievalError(
                    f"{stage.path}: this index was built for {key} {has!r}, the profile asks for {key} {wanted!r}. "
                    f"Build it again: s3mini index --profile {profile.name} --kind {kind}"
                )
