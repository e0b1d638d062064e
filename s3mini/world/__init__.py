"""The mini world: a seeded fictional encyclopedia with question sets in the paper's manner.

``make_world(seed, out)`` writes ``corpus.jsonl``, ``questions/<set>/<split>.jsonl`` and, below
``herbal/``, a second corpus with multiple-choice questions in the manner of MIRAGE, all in the on-disk
formats of wiki-18 and FlashRAG. ``write_example(seed, folder)`` writes a folder of texts and a table of questions.
"""

from .write import make_world, write_example

__all__ = ["make_world", "write_example"]
