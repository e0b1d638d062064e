"""The retriever: frozen, deterministic, behind one interface (`Retriever`), lexical, dense, or at a server.

``open_retriever(profile)`` is all a caller needs.
"""

from .base import Retriever as Retriever
from .dense import DenseRetriever as DenseRetriever
from .encoder import Encoder as Encoder
from .hit_cache import CachedRetriever as CachedRetriever
from .http.remote import RemoteRetriever as RemoteRetriever
from .lexical import LexicalRetriever as LexicalRetriever
from .opening import build_index as build_index
from .opening import connect as connect
from .opening import open_corpus as open_corpus
from .opening import open_retriever as open_retriever
from .opening import prebuilt_index as prebuilt_index
from .store import DocumentStore as DocumentStore
