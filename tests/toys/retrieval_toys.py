"""A dozen documents, questions to them, and the smallest dense settings: what tests of retrieval share."""

from __future__ import annotations

from collections.abc import Sequence

from s3mini.profile import DenseSpec
from s3mini.records import Document, Hit

SAME = "A copy of the harbour ledger lists ships and their cargo."
DOCUMENTS = [
    Document("d1", 'The "Blue" Lantern', "The Blue Lantern is a film directed by Orsa Velin in 1931."),
    Document("d2", "Orsa Velin", "Orsa Velin was a film director born in Karst. She directed nine films."),
    Document("d3", "Orsa Velyn", "Orsa Velyn was a river pilot born in Tarn. She never saw a film."),
    Document("d4", "Karst", "Karst is a city on the river Sool, known for its stone bridges."),
    Document("d5", "Café Zürich 東京", "Café Zürich 東京 serves tea 🍵 to naïve travellers near the bridge."),
    Document("d6", "The Sool (river)", "The Sool is a river that passes Karst and Tarn before the sea."),
    *(Document(f"t{i:02d}", "Ledger", SAME) for i in (7, 3, 21, 0, 14, 11, 2, 19, 5, 16, 8, 1)),
]
SPEC = DenseSpec(encoder="minilm", max_query_tokens=32, max_passage_tokens=64, batch_size=4)
QUERIES = [
    "who directed The Blue Lantern",
    "river near Karst",
    "tea in Zürich",
    "ships and cargo",
    "born in Tarn",
]


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.document.id for hit in hits]
