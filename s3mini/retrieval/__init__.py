"""The retriever: frozen, deterministic, behind one interface (`Retriever`), lexical, dense, or at a server.

``open_retriever(profile)`` is all a caller needs. Indexes live under ``build/<profile>/index/<kind>/`` and
belong to one corpus and one encoder: an index of another is an error, never a wrong result.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..corpus import fingerprint, read_corpus
from ..errors import RetrievalError
from ..profile import Profile
from ..records import Document
from ..stages import Stage
from .base import Retriever
from .cache import CachedRetriever
from .dense import DenseRetriever, build_dense
from .encoder import Encoder
from .lexical import LexicalRetriever, build_lexical
from .remote import RemoteRetriever

__all__ = [
    "CachedRetriever",
    "DenseRetriever",
    "Encoder",
    "LexicalRetriever",
    "RemoteRetriever",
    "Retriever",
    "build_index",
    "corpus_size",
    "open_retriever",
]

KINDS = ("dense", "lexical")
REMOTE = "remote"
BOOLEAN = "boolean"
"""Not an index of its own: the lexical one, queries read as boolean expressions."""


@functools.lru_cache(maxsize=2)
def _documents(path: Path, content: str) -> tuple[Document, ...]:
    """A corpus read once per process, keyed by its fingerprint."""
    return tuple(read_corpus(path))


def _corpus(profile: Profile) -> tuple[str, Sequence[Document]]:
    path = profile.resolve(profile.data.corpus)
    content = fingerprint(path)
    return content, _documents(path, content)


def corpus_size(profile: Profile) -> int:
    """Documents of the profile's corpus."""
    return len(_corpus(profile)[1])


def _stage(profile: Profile, kind: str) -> Stage:
    inputs = {"corpus": fingerprint(profile.resolve(profile.data.corpus))}
    if kind == "lexical":
        return Stage(profile, f"index/{kind}", inputs, {"analyzer": "english, porter"})
    if kind == "dense":
        spec = profile.retrieval.dense
        settings = {
            "encoder": Encoder(spec).identity,
            "passage_prefix": spec.passage_prefix,
            "max_passage_tokens": spec.max_passage_tokens,
        }
        return Stage(profile, f"index/{kind}", inputs, settings)
    if kind == REMOTE:
        raise RetrievalError(
            "a remote index is built where its server runs: s3mini index, s3mini serve retriever"
        )
    raise RetrievalError(f"unknown kind of retriever {kind!r}: choose one of {', '.join(KINDS)}")


def build_index(profile: Profile, kind: str | None = None, progress: bool = True) -> Path:
    """Build the index of ``kind`` (default: the profile's) and return its folder.

    Done already: nothing happens. Interrupted: it goes on. Built for another corpus or encoder: built anew.

    Raises:
        RetrievalError: unknown kind or encoder, no Java.
        DataError: the corpus is missing or malformed.
        StageError: the disk is full.
    """
    kind = kind or profile.retrieval.kind
    with _stage(profile, kind) as stage:
        if not stage.done:
            _, documents = _corpus(profile)
            if kind == "lexical":
                build_lexical(stage.dir, documents, progress)
            else:
                build_dense(stage.dir, documents, Encoder(profile.retrieval.dense), progress)
            stage.finish(documents=len(documents))
    return stage.path


def open_retriever(profile: Profile, kind: str | None = None, cache: bool = True) -> Retriever:
    """The retriever of ``kind`` (default: the profile's), its index built first when there is none.

    Args:
        profile: says which corpus, encoder and parameters.
        kind: "dense", "lexical", "boolean" (BM25 over the lexical index, the query a boolean expression), or "remote":
            whatever the server at ``retrieval.url`` has, its documents held against the corpus.
        cache: keep answers in memory (`CachedRetriever`); False to measure the bare engine.

    Raises:
        RetrievalError: the index on disk belongs to another corpus or encoder (names both); unknown kind or
            encoder; no Java; a damaged index; a remote one without a url.
    """
    kind = kind or profile.retrieval.kind
    if kind == REMOTE:
        remote = connect(profile, {document.id: document for document in _corpus(profile)[1]})
        return CachedRetriever(remote) if cache else remote
    boolean, kind = kind == BOOLEAN, "lexical" if kind == BOOLEAN else kind
    stage = _stage(profile, kind)
    if not stage.done:
        _refuse_foreign(stage, profile, kind)
        build_index(profile, kind)
    content, documents = _corpus(profile)
    retriever: Retriever
    if kind == "lexical":
        threads = profile.threads
        spec = profile.retrieval.lexical
        retriever = LexicalRetriever(stage.path, documents, spec, content, threads, boolean)
    else:
        retriever = DenseRetriever(stage.path, documents, Encoder(profile.retrieval.dense), content)
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
