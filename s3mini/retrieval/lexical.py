"""BM25 over an inverted index: Lucene, through Pyserini, as the paper's RAG-BM25 row.

Defaults k1 = 0.9, b = 0.4 are Pyserini's. The analyser is Anserini's English one (lower case, possessives, stop
words, Porter stems). A document that shares no term with the query is no hit, so a query of stop words only
returns nothing. Importing Pyserini takes some seconds: it happens at the first build or open.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RetrievalError
from ..profile import LexicalSpec
from ..records import Document, Hit
from ..runs.machine import cores
from ..runs.stages import atomic_dir
from ..unicode import canonical
from .base import check_queries, check_size, digest, fetch_settled, foreign, in_batches, rank
from .java import import_pyserini
from .store import by_id

FOLDER = "lucene"
_BATCH = 10_000  # documents per call into Java
_QUOTED = re.compile(r'"([^"]*\w[^"]*)"')
_STEP = 1e-6  # what Anserini takes off a score per earlier document of the same score


def build_lexical(folder: Path, documents: Sequence[Document], progress: bool = True) -> None:
    """Write a Lucene index of ``documents`` below ``folder``, whole or not at all.

    Raises:
        RetrievalError: no Java.
        StageError: the disk is full.
    """
    indexers = import_pyserini("pyserini.index.lucene")
    with atomic_dir(folder / FOLDER) as temporary:
        writer = indexers.LuceneIndexer(str(temporary), threads=cores())
        try:
            for _, part in in_batches(documents, _BATCH, "indexing", progress):
                writer.add_batch_dict([{"id": d.id, "contents": canonical(d.contents)} for d in part])
        finally:
            writer.close()
        (temporary / "write.lock").unlink(missing_ok=True)


class LexicalRetriever:
    """BM25 search; see `Retriever`. Scores are Lucene's, rounded to four decimals as Anserini does.

    Args:
        folder: where `build_lexical` wrote, from the same documents.
        spec: ``k1`` and ``b``, applied when searching: changing them needs no new index.
        corpus: fingerprint of the corpus.
        threads: searches run at once; None: the usable cores.
        boolean: read a query with Lucene's own query parser: AND, OR, NOT, parentheses; a "quoted phrase" asks for all
            of its words (the index holds no positions). What cannot be parsed is searched as plain words.

    Raises:
        RetrievalError: no Java, no index in ``folder``, or one of another number of documents.
    """

    def __init__(
        self,
        folder: Path,
        documents: Sequence[Document],
        spec: LexicalSpec | None = None,
        corpus: str = "",
        threads: int | None = None,
        boolean: bool = False,
    ) -> None:
        where = folder / FOLDER
        if not where.is_dir():
            raise RetrievalError(f"{where}: no such index; build it first (s3mini index)")
        spec = spec or LexicalSpec()
        lucene = import_pyserini("pyserini.search.lucene")
        try:
            self._searcher = lucene.LuceneSearcher(str(where))
        except Exception as error:  # a Java exception of many classes
            raise RetrievalError(
                f"{where}: not a readable Lucene index ({error}); delete the folder and build the index again"
            ) from error
        check_size(where, self._searcher.num_docs, "documents", documents)
        self._searcher.set_bm25(spec.k1, spec.b)
        self._documents = by_id(documents)
        self._threads = threads or cores()
        self._parser: Any = None
        if boolean:  # Lucene's classic parser over the indexed field, with the index's own analyser
            java, analysis = import_pyserini("pyserini.pyclass"), import_pyserini("pyserini.analysis")
            parser = java.autoclass("org.apache.lucene.queryparser.classic.QueryParser")
            self._parser = parser("contents", analysis.get_lucene_analyzer())
        self.malformed: set[str] = set()  # queries that could not be parsed, for whoever counts them
        self.name = "bm25-boolean" if boolean else "bm25"
        self.fingerprint = digest(kind=self.name, corpus=corpus, k1=spec.k1, b=spec.b)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`; a batch is searched in parallel threads of the JVM."""
        texts = check_queries(queries, k)
        results = fetch_settled(self._find, texts, k, len(self._documents))
        return [[self._hit(score, name) for score, name in rank(scored)[:k]] for scored in results]

    def _find(self, texts: Sequence[str], wanted: int) -> list[list[tuple[float, str]]]:
        names = [str(position) for position in range(len(texts))]
        try:
            if self._parser is None:
                answer = self._searcher.batch_search(list(texts), names, wanted, self._threads)
            else:
                hits = [self._searcher.object.search(self._boolean(text), wanted) for text in texts]
                answer = dict(zip(names, hits, strict=True))
        except Exception as error:  # a Java exception of many classes
            raise RetrievalError(
                f"Lucene failed on a batch of {len(texts)} queries, the first {texts[0]!r}: {error}"
            ) from error
        return [_untie(answer.get(name) or []) for name in names]  # a query without hits may be missing

    def _boolean(self, text: str) -> Any:
        """A boolean expression as Lucene's query; its words where it is malformed."""
        try:
            return self._parser.parse(_QUOTED.sub(lambda m: f"({' AND '.join(m[1].split())})", text))
        except Exception:  # Java's ParseException: unbalanced, or an operator without its operand
            self.malformed.add(text)
            return text

    def _hit(self, score: float, identifier: str) -> Hit:
        try:
            return Hit(self._documents[identifier], score)
        except KeyError:
            raise foreign("the Lucene index", f"holds document {identifier!r}, the corpus does not") from None


def _untie(hits: Sequence[Any]) -> list[tuple[float, str]]:
    """Scores as Lucene computed them: Anserini rounds to 4 decimals, then lowers each tied score a little."""
    scored: list[tuple[float, str]] = []
    best, dups = float("inf"), 0
    for hit in hits:
        score = float(hit.score)
        dups += 1
        # 32-bit scores above 16 are coarser than the step
        if abs(best - dups * _STEP - score) > max(_STEP / 2, abs(score) * 2.0**-22):
            best, dups = score, 0
        scored.append((round(best, 4), str(hit.docid)))
    return scored
