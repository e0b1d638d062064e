"""The same vectors in Milvus, for those who outgrow one machine: a cluster by its address, or milvus-lite in a file.

The collection holds row numbers and vectors only, in an exact index (FLAT, inner product); documents stay in the
corpus file. Its name is made of what it holds, so that no other corpus or encoder can be met there.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RetrievalError
from ..records import Document
from .base import digest, in_batches
from .dense import Rows, VectorRetriever
from .encoder import Encoder, Vectors

MOST = 16_384
"""The most hits that Milvus returns for a query."""
TOKEN = "MILVUS_TOKEN"
_BATCH = 1000  # vectors a request: 3 MB of e5, far below what a server takes
_QUERIES = 256  # a request
_SECONDS = 120.0  # for one request


def collection_name(corpus: str, encoder: Encoder) -> str:
    """The name of the collection of a corpus (its fingerprint) under an encoder."""
    return f"s3mini_{digest(kind='milvus', corpus=corpus, **encoder.fingerprint_parts)}"


def connect(url: str) -> Any:
    """A client of the cluster at ``url`` (token: the environment's MILVUS_TOKEN) or of the file of that name.

    Raises:
        RetrievalError: pymilvus is not installed, nothing answers, or another process has the file open.
    """
    try:
        from pymilvus import MilvusClient
    except ModuleNotFoundError as error:
        raise RetrievalError("retrieval.kind milvus needs pymilvus: pip install 's3mini[milvus]'") from error
    local = "://" not in url
    if local:
        if not url.endswith(".db"):
            told = "give http://host:port, or a file whose name ends in .db"
            raise RetrievalError(f"retrieval.url {url!r}: {told}")
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        # It logs as an error, with a traceback, each call of a full server that it has no part for.
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    remedy = "is it open in another process? (milvus-lite serves one)" if local else "is the cluster up?"
    with _told(f"{url}: Milvus does not open; {remedy}"):
        return MilvusClient(url, token=os.environ.get(TOKEN, ""), timeout=30.0)


@contextmanager
def _told(what: str) -> Iterator[None]:
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:  # it retries by itself what may pass
        raise RetrievalError(f"{what} ({' '.join(str(error.message).split())[:300]})") from error


def build_milvus(url: str, collection: str, vectors: Any, progress: bool = True) -> None:
    """Put vectors, shape (documents, dimension), into a collection; goes on from what an earlier call put there.

    Raises:
        RetrievalError: see `connect`; the server refused or lost something.
    """
    from pymilvus import DataType, MilvusClient

    client, (number, dimension) = connect(url), vectors.shape
    remedy = "run the same command again: it goes on"
    try:
        with _told(f"{url}: Milvus failed while {collection} was filled; {remedy}"):
            if not client.has_collection(collection):
                schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("row", DataType.INT64, is_primary=True)
                schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
                index = client.prepare_index_params()
                index.add_index("vector", index_type="FLAT", metric_type="IP")
                client.create_collection(
                    collection, schema=schema, index_params=index, consistency_level="Strong"
                )
            client.load_collection(collection)
            # Rows come in order; the last batch may be there in part, and a row put twice is one row.
            begin = max(0, _count(client, collection) - _BATCH)
            for start, part in in_batches(vectors, _BATCH, "milvus", progress, begin):
                rows = [{"row": row, "vector": v} for row, v in enumerate(part.astype(np.float32), start)]
                client.upsert(collection, rows, timeout=_SECONDS)
            client.flush(collection)
            held = _count(client, collection)
        if held != number:
            raise RetrievalError(
                f"{url}: {collection} holds {held} vectors of {number}; drop the collection and build it again"
            )
    finally:
        client.close()


def _count(client: Any, collection: str) -> int:
    """Vectors in a collection."""
    rows = client.query(collection, filter="", output_fields=["count(*)"], timeout=_SECONDS)
    return int(rows[0]["count(*)"])


class MilvusRetriever(VectorRetriever):
    """Exact inner-product search by Milvus; see `Retriever`: the hits, scores and order of `DenseRetriever`.

    ``documents``, in their order, and ``encoder`` are those of the collection; ``corpus`` is their fingerprint.

    Raises:
        RetrievalError: see `connect`; no such collection there, or one of another size; when searching: Milvus
            failed, or ``k`` is more than it returns.
    """

    name = "milvus"

    def __init__(self, url: str, documents: Sequence[Document], encoder: Encoder, corpus: str = "") -> None:
        self.url = url
        self.collection = collection_name(corpus, encoder)
        self.client = connect(url)
        remedy = "delete the folder index/milvus of the build and build it again: s3mini index --kind milvus"
        with _told(f"{url}: the collection {self.collection} cannot be opened; {remedy}"):
            if not self.client.has_collection(self.collection):
                raise RetrievalError(
                    f"{url}: no collection {self.collection}, that of this corpus and encoder; {remedy}"
                )
            self.client.load_collection(self.collection)
            held = _count(self.client, self.collection)
            fields = self.client.describe_collection(self.collection)["fields"]
        if held != len(documents):
            raise RetrievalError(
                f"{url}: {self.collection} holds {held} vectors, the corpus {len(documents)} documents; {remedy}"
            )
        dimension = next(int(field["params"]["dim"]) for field in fields if field["name"] == "vector")
        super().__init__(encoder, documents, dimension)
        self.fingerprint = digest(kind=self.name, corpus=corpus, **encoder.fingerprint_parts)

    def best(self, vectors: Vectors, wanted: int) -> tuple[Vectors, Rows]:
        """See `VectorRetriever.best`."""
        if wanted > MOST:
            told = f"{wanted} documents a query: Milvus returns at most {MOST}"
            raise RetrievalError(f"{told}; ask for fewer (ties at the cut count too)")
        found: list[Any] = []
        with _told(f"{self.url}: Milvus failed on a batch of {len(vectors)} queries"):
            for start in range(0, len(vectors), _QUERIES):
                found += self.client.search(
                    self.collection,
                    data=list(vectors[start : start + _QUERIES]),
                    anns_field="vector",
                    limit=wanted,
                    output_fields=["row"],
                    search_params={"metric_type": "IP"},
                    timeout=_SECONDS,
                )
        if any(len(hits) != wanted for hits in found):
            raise RetrievalError(f"{self.url}: Milvus returned fewer than the {wanted} documents there are")
        scores, rows = ([[hit[key] for hit in hits] for hits in found] for key in ("distance", "row"))
        return np.array(scores, np.float32), np.array(rows, np.int64)

    def close(self) -> None:
        """Let go of the connection, and of the file of milvus-lite."""
        self.client.close()
