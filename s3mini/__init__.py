"""s3mini: learn, reproduce and use s3, training only the searcher of a RAG system by RL.

What the notebooks use most can be had from here: ``from s3mini import load_profile, train, evaluate``. Each name is
imported when it is first asked for, so that ``import s3mini`` alone loads nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {  # by the room that they live in
    "profile": ("load_profile",),
    "records": ("Document", "Question", "Episode"),
    "corpus": ("read_corpus", "load_questions"),
    "retrieval": ("build_index", "open_retriever"),
    "bench": ("Bench",),
    "methods": ("METHODS",),
    "rag": ("precompute",),
    "grpo": ("train",),
    "evaluation": ("evaluate",),
    "owndata": ("own",),
}
__all__ = [name for names in _NAMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for room, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
