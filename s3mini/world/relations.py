"""The relations of the fictional encyclopedia: how each is stated, asked and used in a chain (`relations.txt`)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation; in its texts ``{s}`` is the subject and ``{o}`` the object.

    ``object`` is an entity type, or a kind of value without a document of its own (``year``, ``mountain``, ``sea``).
    ``phrases`` name the object by way of the subject ("the director of The Amber Lantern") and nest to make questions
    of several hops; ``described`` names the *subject* by way of the object ("the film directed by Mira Velt").
    """

    subject: str
    name: str
    object: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    phrases: tuple[str, ...]
    described: tuple[str, ...]


def the(name: str, kind: str) -> str:
    """The name of an entity of type ``kind`` with its article, where it has one."""
    return f"the {name}" if kind in ("river", "prize") else name


def _read(table: str) -> Iterator[Relation]:
    """A relation's parts are subject, name, object, two statements, three questions, phrases, descriptions.

    A statement in the words of its name ("The director of {s} is {o}.") comes before the two.
    """
    for block in re.split(r"\n(?=\S)", table.strip()):
        subject, name, value, *texts = re.split(r"\s*[|\n]\s*", block)
        statements = (f"The {name} of {the('{s}', subject)} is {{o}}.", *texts[:2])
        phrases = tuple(text for text in texts[5:] if "{s}" in text)
        described = tuple(text for text in texts[5:] if "{o}" in text)
        yield Relation(subject, name, value, statements, tuple(texts[2:5]), phrases, described)


BY_SUBJECT: dict[str, tuple[Relation, ...]] = {}
for _relation in _read(Path(__file__).with_name("relations.txt").read_text(encoding="utf-8")):
    BY_SUBJECT[_relation.subject] = (*BY_SUBJECT.get(_relation.subject, ()), _relation)
HERBAL = BY_SUBJECT["herb"]
RELATIONS = tuple(relation for group in BY_SUBJECT.values() for relation in group if relation not in HERBAL)
