"""Boolean queries over the lexical index, as DeepRetrieval asks them."""

from __future__ import annotations

from pathlib import Path

import pytest
from retrieval_toys import DOCUMENTS, ids

from s3mini.retrieval.lexical import LexicalRetriever, build_lexical


@pytest.fixture(scope="module")
def boolean(tmp_path_factory: pytest.TempPathFactory) -> LexicalRetriever:
    folder = tmp_path_factory.mktemp("boolean")
    build_lexical(folder, DOCUMENTS, progress=False)
    return LexicalRetriever(folder, DOCUMENTS, boolean=True)


def test_boolean_queries(boolean: LexicalRetriever) -> None:
    expected = {
        "velin AND born": {"d2"},
        "velin AND stone": set(),
        "velyn OR stone": {"d3", "d4"},
        "(velin OR velyn) AND river": {"d3"},
        "river NOT pilot": {"d4", "d6"},
        '"river pilot"': {"d3"},
        "The Blue Lantern": {"d1"},
    }
    found = boolean.search(list(expected), 50)
    assert [set(ids(hits)) for hits in found] == list(expected.values())


@pytest.mark.parametrize(
    "query", ["(river", "river AND", "AND OR", 'river "', "river:", "a/b", "[x TO", "~^"]
)
def test_a_malformed_boolean_query_is_searched_as_words(boolean: LexicalRetriever, query: str) -> None:
    found = boolean.search([query], 10)[0]
    assert set(ids(found)) == ({"d3", "d4", "d6"} if "river" in query else set())


def test_it_is_another_retriever_than_plain_bm25(boolean: LexicalRetriever, tmp_path: Path) -> None:
    build_lexical(tmp_path, DOCUMENTS, progress=False)
    plain = LexicalRetriever(tmp_path, DOCUMENTS)
    assert (plain.name, boolean.name) == ("bm25", "bm25-boolean")
    assert plain.fingerprint != boolean.fingerprint
