"""The other methods' protocols: what is read from a turn, what reaches the generator; and adding one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_episodes import TOKENIZER, Library, Scripted

from s3mini.bench import make_protocol
from s3mini.episodes import Engine
from s3mini.profile import load_profile
from s3mini.protocols import REGISTRY, Action, History, Protocol
from s3mini.protocols.cot import CotProtocol
from s3mini.protocols.deepretrieval import DeepRetrievalProtocol
from s3mini.protocols.ircot import IrcotProtocol
from s3mini.protocols.search_o1 import SearchO1Protocol
from s3mini.protocols.search_r1 import SearchR1Protocol
from s3mini.protocols.wordings import Message
from s3mini.records import Document, Hit, Question, Turn

DOCS = [Document(str(i), f"Title {i}", f"Text {i}.") for i in range(8)]
HITS = tuple(Hit(d, 1.0) for d in DOCS)
QUESTION = Question("q", "Who wrote it?", ("Mara Venn",))
TAGS = ("think", "search", "answer", "query", "information")
PIECES = [
    *(f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")), "<|begin_search_query|>", "<|end_search_query|>",
    "<|begin_search_result|>", "So the answer is:", '{"query": "a AND b"}', "(a", " ", "\n", ".", "\x00",
]  # fmt: skip
NEAR_FORMAT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=12).map("".join)


def read(protocol: Protocol, text: str) -> Action:
    return protocol.parse(text, History(QUESTION, HITS[: protocol.start_k]))


@pytest.mark.parametrize("name", REGISTRY)
@given(text=NEAR_FORMAT)
def test_any_text_is_read_and_a_valid_turn_does_something(name: str, text: str) -> None:
    protocol = make_protocol(name, load_profile("mini"))
    action = read(protocol, text)
    if action.valid:
        assert action.query or action.complete
        assert action.query is None or action.query == " ".join(action.query.split())
    else:
        assert action.problem and action.query is None


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"s3", "cot"}))
def test_the_generator_gets_all_that_was_retrieved_once(name: str) -> None:
    protocol = make_protocol(name, load_profile("mini"))
    turns = [Turn("", "a", False, None, HITS[1:4], True), Turn("", "b", False, None, HITS[3:6], True)]
    found = protocol.context(History(QUESTION, HITS[: protocol.start_k], turns))
    assert [d.id for d in found] == [str(i) for i in range(0 if protocol.start_k else 1, 6)]


@pytest.mark.parametrize("name", REGISTRY)
def test_a_protocol_takes_what_it_says_it_needs(name: str) -> None:
    kind = REGISTRY[name]
    needs = {*kind.numbers, "wordings", *(["reader"] if kind.needs_reader else [])}
    assert set(inspect.signature(kind).parameters) == needs


def test_cot_answers_after_its_reasoning() -> None:
    protocol = CotProtocol()
    assert read(protocol, "<think> a man </think> Mara Venn").answer == "Mara Venn"
    assert not read(protocol, "<think> a man").valid
    assert protocol.context(History(QUESTION)) == []


def test_ircot_searches_for_its_sentences_until_it_answers() -> None:
    protocol = IrcotProtocol()
    assert read(protocol, " The author of Dawn is Mara Venn.\n").query == "The author of Dawn is Mara Venn."
    done = read(protocol, "So the answer is: Mara Venn.")
    assert (done.complete, done.answer, done.query) == (True, "Mara Venn", None)
    assert not read(protocol, "\n").valid
    assert not read(protocol, "<information>\nDoc 1").valid


def test_search_r1_takes_one_search_or_one_answer() -> None:
    protocol = SearchR1Protocol()
    assert (
        read(protocol, "<think> who? </think>\n<search> author of Dawn </search>").query == "author of Dawn"
    )
    assert read(protocol, "<answer> Mara Venn</answer>").answer == "Mara Venn"
    for text in (
        "",
        "<search></search>",
        "<search>a</search><answer>b</answer>",
        "<information>x</information>",
    ):
        assert not read(protocol, text).valid
    assert read(protocol, "<think><search>no</search></think><answer>b</answer>").answer == "b"


def test_deepretrieval_asks_once_and_ends() -> None:
    action = read(DeepRetrievalProtocol(), '<think>x</think><answer>{"query": "(Dawn AND author)"}</answer>')
    assert (action.query, action.complete, action.valid) == ("(Dawn AND author)", True, True)
    assert not read(DeepRetrievalProtocol(), "Dawn AND author").valid


class Reader:
    """Condenses by naming the first document, with a tag that must not get through."""

    def __init__(self) -> None:
        self.asked: list[list[Message]] = []

    def reply(self, conversations: Sequence[Sequence[Message]], *_: object, **__: object) -> list[str]:
        self.asked += [list(c) for c in conversations]
        return [f"<think>hm</think> {c[-1]['content'].split('(')[0]}<|im_end|>" for c in conversations]


def test_search_o1_shows_what_the_reader_says_of_the_documents() -> None:
    reader = Reader()
    protocol = SearchO1Protocol(reader=reader.reply)
    text = "<think> Who?<|begin_search_query|> author of Dawn<|end_search_query|>"
    assert read(protocol, text).query == "author of Dawn"
    history = History(QUESTION, (), [Turn(text, "author of Dawn", False, None, HITS[:2], True)])
    (shown,) = protocol.observe([history])
    assert shown == "<|begin_search_result|> Doc 1 ‹|im_end|><|end_search_result|>"
    content = reader.asked[0][-1]["content"]
    assert "Title 1" in content and content.endswith("Question: Who wrote it? Search: author of Dawn")
    assert read(protocol, " It is she.</think> Mara Venn").answer == "Mara Venn"
    assert not read(protocol, " I stop here.").valid
    assert not read(protocol, "<|begin_search_result|> made up").valid


def test_a_protocol_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Protocol):
        """Searches for the question, then for its last word."""

        name, start_k, k, turns, stop = "twice", 2, 2, 1, (".",)

        def start(self, question: str, documents: Sequence[Document]) -> list[Message]:
            return [{"role": "user", "content": question}]

        def parse(self, text: str, history: History) -> Action:
            return Action(query=history.question.question.split()[-1], complete=True)

        def render(self, documents: Sequence[Document]) -> str:
            return ""

    monkeypatch.setitem(REGISTRY, "twice", Twice)
    protocol = make_protocol("twice", load_profile("mini"))
    library = Library()
    (episode,) = Engine(Scripted("go."), TOKENIZER, library, protocol, 60, 900).run(
        [QUESTION], progress=False
    )
    assert library.calls == [(["Who wrote it?"], 2), (["it?"], 2)]
    assert [d.id for d in episode.context] == ["Who wrote it?/0", "Who wrote it?/1", "it?/0", "it?/1"]
    assert episode.end == "complete"
