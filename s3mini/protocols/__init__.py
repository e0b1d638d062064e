"""Protocols: how each method prompts a model, reads its actions and shows it documents.

A new protocol is one file with a subclass of ``base.Protocol`` and one line in ``REGISTRY``.
"""

from __future__ import annotations

from .base import Action, History, Protocol
from .cot import CotProtocol
from .deepretrieval import DeepRetrievalProtocol
from .ircot import IrcotProtocol
from .s3 import S3Protocol
from .search_o1 import SearchO1Protocol
from .search_r1 import SearchR1Protocol

REGISTRY: dict[str, type[Protocol]] = {
    "cot": CotProtocol,
    "deepretrieval": DeepRetrievalProtocol,
    "ircot": IrcotProtocol,
    "search-o1": SearchO1Protocol,
    "search-r1": SearchR1Protocol,
    "s3": S3Protocol,
}
"""Name of a method to the class of its protocol."""

__all__ = ["REGISTRY", "Action", "History", "Protocol", "S3Protocol"]
