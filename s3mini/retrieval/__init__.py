"""The retriever: frozen, deterministic, behind one interface (`Retriever`), lexical, dense, or at a server.

``open_retriever(profile)`` is all a caller needs.
"""

from .base import Retriever
from .dense import DenseRetriever
from .encoder import Encoder
from .hit_cache import CachedRetriever
from .http.remote import RemoteRetriever
from .lexical import LexicalRetriever
from .opening import build_index, connect, open_corpus, open_retriever, prebuilt_index
from .store import DocumentStore

__all__ = [
    "CachedRetriever",
    "DenseRetriever",
    "DocumentStore",
    "Encoder",
    "LexicalRetriever",
    "RemoteRetriever",
    "Retriever",
    "build_index",
    "connect",
    "open_corpus",
    "open_retriever",
    "prebuilt_index",
]
