"""The engine: its turns with a scripted searcher, its tokens with a real (tiny, random) model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from toy_model import SPECIAL, toy_local, toy_tokenizer

from s3mini.episodes import LONGEST_QUERY, Engine
from s3mini.errors import ModelError, RetrievalError
from s3mini.models.base import Sample
from s3mini.models.local import LocalModel
from s3mini.protocols import History, S3Protocol
from s3mini.records import Document, Episode, Hit, Question

TOKENIZER = toy_tokenizer()
END = TOKENIZER.eos_token_id
QUESTIONS = [Question(f"q{i}", f"Who wrote book {i}?", (f"Author {i}",)) for i in range(4)]
ASK = '<search_complete>False</search_complete>\n<query>{"query": " %s"}</query>'
DONE = "<search_complete>True</search_complete>"


class Library:
    """A retriever that makes up documents from the query and remembers every call."""

    name = "library"
    fingerprint = "0"

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.calls.append((list(queries), k))
        return [
            [Hit(Document(f"{q}/{i}", f"{q} {i}", f"Fact {i}."), 1 / (i + 1)) for i in range(k)]
            for q in queries
        ]


class ScriptedSession:
    def __init__(self, prompts: list[tuple[int, ...]], write: Callable[[int, int], str]) -> None:
        self.ids = [list(p) for p in prompts]
        self.write = write
        self.turns = [0] * len(prompts)
        self.asked: list[tuple[list[int], list[int]]] = []

    def sample(
        self,
        rows: Sequence[int],
        max_new_tokens: Sequence[int],
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> list[Sample]:
        self.asked.append((list(rows), list(max_new_tokens)))
        out = []
        for row, budget in zip(rows, max_new_tokens, strict=True):
            text = self.write(row, self.turns[row])
            self.turns[row] += 1
            ids = TOKENIZER(text, add_special_tokens=False)["input_ids"][:budget]
            whole = TOKENIZER.decode(ids) == text
            stopped = next((s for s in (*stop, SPECIAL[2]) if s in text), None) if whole else None
            self.ids[row] += ids
            shown = text.removesuffix(SPECIAL[2]) if whole else TOKENIZER.decode(ids)
            out.append(Sample(tuple(ids), (-0.5,) * len(ids), shown, stopped))
        return out

    def append(self, row: int, ids: Sequence[int]) -> None:
        self.ids[row] += ids


class Scripted:
    """A sampler that writes what a function of (row, turn) says."""

    def __init__(self, *turns: str | Callable[[int, int], str]) -> None:
        first = turns[0]
        self.write = first if callable(first) else lambda row, turn: str(turns[turn])
        self.sessions: list[ScriptedSession] = []

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> ScriptedSession:
        self.sessions.append(ScriptedSession([tuple(p) for p in prompts], self.write))
        return self.sessions[-1]


def engine(sampler: Scripted | LocalModel, library: Library | None = None, length: int = 900, turn: int = 60,
           rows: int = 1024, **numbers: int) -> Engine:  # fmt: skip
    protocol = S3Protocol(**{"k": 2, "select": 1, "turns": 2, "begin_k": 1, **numbers}, wordings="brief")
    return Engine(sampler, TOKENIZER, library or Library(), protocol, turn, length, rows)


def run(*turns: str | Callable[[int, int], str], **settings: int) -> Episode:
    return engine(Scripted(*turns), **settings).run(QUESTIONS[:1], progress=False)[0]


def consistent(episode: Episode) -> None:
    """What must hold of every episode, whatever happened in it."""
    count = len(episode.completion_ids)
    assert count == len(episode.env_mask) == len(episode.logprobs) > 0
    assert set(episode.env_mask) <= {0, 1}
    assert all(lp == 0.0 for lp, own in zip(episode.logprobs, episode.env_mask, strict=True) if not own)
    assert episode.end in {"complete", "turns", "length", "invalid"}
    assert (episode.completion_ids[-1] == END) or episode.end == "length"
    written = [i for i, own in zip(episode.completion_ids, episode.env_mask, strict=True) if own]
    assert TOKENIZER.decode(written).replace(SPECIAL[2], "") == "".join(t.output for t in episode.turns)


# -- the loop ---------------------------------------------------------------------------------------


def test_a_whole_episode() -> None:
    library = Library()
    sampler = Scripted(ASK % "first", f"<important_info>[2]</important_info>\n{ASK % 'second'}", DONE)
    episode = engine(sampler, library).run(QUESTIONS[:1], progress=False)[0]
    consistent(episode)
    question = QUESTIONS[0].question
    assert library.calls == [([question], 1), (["first"], 2), (["second"], 2)]
    assert (episode.end, episode.searches, episode.valid_format) == ("complete", 2, 1.0)
    assert [t.selected for t in episode.turns] == [None, ("first/1",), None]
    assert [d.id for d in episode.context] == [f"{question}/0", "first/1", "second/0", "second/1"]
    assert sampler.sessions[0].ids[0] + [END] == [*episode.prompt_ids, *episode.completion_ids]
    text = TOKENIZER.decode(episode.completion_ids)
    blocks = [
        "\n<information>\n"
        + "\n".join(f"Doc {i + 1} (Title: {q} {i}) Fact {i}." for i in range(2))
        + "\n</information>\n"
        for q in ("first", "second")
    ]
    outputs = [t.output for t in episode.turns]
    assert text == outputs[0] + blocks[0] + outputs[1] + blocks[1] + outputs[2] + SPECIAL[2]
    environment = [i for i, own in zip(episode.completion_ids, episode.env_mask, strict=True) if not own]
    assert TOKENIZER.decode(environment) == blocks[0] + blocks[1] + SPECIAL[2]
    prompt = TOKENIZER.decode(episode.prompt_ids)
    assert prompt.endswith("<|im_start|>assistant\n") and f"(Title: {question} 0)" in prompt


@pytest.mark.parametrize(
    ("turns", "end", "searches", "problem"),
    [
        ([DONE], "complete", 0, ""),
        ([DONE + SPECIAL[2]], "complete", 0, ""),
        ([ASK % "a", ASK % "b", ASK % "c"], "turns", 2, "no search left"),
        (["no format" + SPECIAL[2]], "invalid", 0, "neither search_complete nor a query"),
        ([ASK % "a", "<information>"], "invalid", 1, "wrote <information> itself"),
        ([ASK % "a", "word " * 300], "length", 1, "cut at 60 tokens"),
    ],
)
def test_ends(turns: list[str], end: str, searches: int, problem: str) -> None:
    episode = run(*turns)
    consistent(episode)
    assert (episode.end, episode.searches, len(episode.turns)) == (end, searches, len(turns))
    assert problem in episode.turns[-1].problem
    assert episode.completion_ids.count(END) == (end != "length")
    if turns[-1].endswith(SPECIAL[2]):
        assert episode.env_mask[-1] == 1  # the model ended its turn itself


def test_what_a_model_invents_is_never_context() -> None:
    forged = (
        "<important_info>[1]</important_info>\n<information>\nDoc 1 (Title: I) invented\n</information>\n"
        + DONE
    )
    episode = run(ASK % "a", forged)
    consistent(episode)
    assert episode.end == "invalid" and not episode.turns[-1].valid
    assert [d.id for d in episode.context] == [f"{QUESTIONS[0].question}/0", "a/0"]


def test_a_block_that_does_not_fit_ends_the_episode() -> None:
    whole = run(ASK % "a", DONE)
    length = len(whole.prompt_ids) + len(whole.completion_ids) - 10
    cut = run(ASK % "a", DONE, length=length)
    consistent(cut)
    assert cut.end == "length" and cut.completion_ids == whole.completion_ids[: len(cut.completion_ids)]
    assert cut.context == whole.context and all(cut.env_mask)
    assert len(cut.prompt_ids) + len(cut.completion_ids) <= length


def test_a_query_that_never_ends_is_cut() -> None:
    """A model that repeats itself writes thousands of characters, which a retrieval server refuses, each time anew."""
    library = Library()
    sampler = Scripted(lambda row, turn: ASK % ("=" * 9000) if turn == 0 else DONE)
    (episode,) = engine(sampler, library, length=40_000, turn=20_000).run(QUESTIONS[:1], progress=False)
    assert max(len(q) for queries, _ in library.calls for q in queries) == LONGEST_QUERY
    assert episode.searches >= 1


def test_a_prompt_that_does_not_fit_takes_no_turn() -> None:
    sampler = Scripted(lambda row, turn: DONE)
    long = replace(QUESTIONS[0], question="why " * 300)
    with pytest.warns(UserWarning, match="question 'q0': too long .* as 1 of 2 episodes are"):
        episodes = engine(sampler, length=200).run([QUESTIONS[1], long], progress=False)
    assert [e.end for e in episodes] == ["complete", "length"]
    assert (episodes[1].completion_ids, episodes[1].env_mask, episodes[1].turns) == ((END,), (0,), ())
    assert len(episodes[1].context) == 1 and len(sampler.sessions[0].ids) == 1


@pytest.mark.filterwarnings("ignore:.*too long for the searcher")
def test_no_episode_outgrows_its_length() -> None:
    for length in range(60, 260, 7):
        episode = run(ASK % "a", ASK % "b", DONE, length=length)
        consistent(episode)
        if episode.turns:
            assert len(episode.prompt_ids) + len(episode.completion_ids) <= length


def test_begin_with_search_can_be_off() -> None:
    library = Library()
    episode = engine(Scripted(DONE), library, begin_k=0).run(QUESTIONS[:1], progress=False)[0]
    assert not library.calls and episode.start == () == episode.context


def test_a_search_can_pass_over_what_is_kept() -> None:
    turns = [ASK % "first", f"<important_info>[2]</important_info>\n{ASK % 'first'}", DONE]
    again, library = run(*turns), Library()
    assert [h.document.id for h in again.turns[1].shown] == ["first/0", "first/1"]
    (skips,) = engine(Scripted(*turns), library, skip_kept=True).run(QUESTIONS[:1], progress=False)
    consistent(skips)
    assert [h.document.id for h in skips.turns[0].shown] == ["first/0", "first/1"]
    # the one that was not selected is shown anew, before what comes next in the ranking
    assert [h.document.id for h in skips.turns[1].shown] == ["first/0", "first/2"]
    assert [d.id for d in skips.context] == [f"{QUESTIONS[0].question}/0", "first/1", "first/0", "first/2"]
    assert {k for queries, k in library.calls if queries == ["first"]} == {2 + 1 + 2}


def test_of_all_that_may_be_kept_a_search_finds_as_many_more() -> None:
    """However much an episode keeps, the last search shows whole blocks."""
    question = QUESTIONS[0].question
    episode = run(ASK % question, ASK % question, ASK % question, DONE, turns=3, skip_kept=True)
    shown = [
        [h.document.id for h in block] for block in (episode.start, *(t.shown for t in episode.turns[:3]))
    ]
    assert sum(shown, []) == [f"{question}/{i}" for i in range(7)] == [d.id for d in episode.context]


# -- batching ---------------------------------------------------------------------------------------


def test_one_deduplicated_retrieval_per_turn() -> None:
    library = Library()

    def write(row: int, turn: int) -> str:
        return ASK % f"{turn} {row % 3}" if turn < row % 3 else DONE

    episodes = engine(Scripted(write), library).run([*QUESTIONS, QUESTIONS[0]], n=3, progress=False)
    assert library.calls == [
        ([q.question for q in QUESTIONS], 1),
        (["0 1", "0 2"], 2),
        (["1 2"], 2),
    ]
    assert [e.question.id for e in episodes] == [q.id for q in [*QUESTIONS, QUESTIONS[0]] for _ in range(3)]
    assert [e.searches for e in episodes] == [0, 1, 2] * 5
    for episode in episodes:
        consistent(episode)


def test_waves_give_the_same_episodes() -> None:
    def write(row: int, turn: int) -> str:
        return DONE if turn else ASK % "same"

    whole, waves = Library(), Library()
    assert engine(Scripted(write), whole).run(QUESTIONS, n=2, progress=False) == engine(
        Scripted(write), waves, rows=3
    ).run(QUESTIONS, n=2, progress=False)
    assert (len(whole.calls), len(waves.calls)) == (2, 8)


def test_nothing_to_do() -> None:
    assert engine(Scripted(DONE)).run([], progress=False) == []


# -- failures ---------------------------------------------------------------------------------------


def test_a_failing_retriever_is_an_error_not_a_document() -> None:
    class Broken(Library):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            if len(self.calls) == 1:
                raise RetrievalError("index is gone")
            return super().search(queries, k)

    with pytest.raises(RetrievalError, match="index is gone"):
        engine(Scripted(ASK % "a"), Broken()).run(QUESTIONS, progress=False)

    class Short(Library):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            return super().search(queries, k)[1:]

    with pytest.raises(RetrievalError, match="4 queries were asked, 3 answered"):
        engine(Scripted(DONE), Short()).run(QUESTIONS, progress=False)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = toy_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        Engine(Scripted(DONE), tokenizer, Library(), S3Protocol(), 10, 100)


# -- a real model -----------------------------------------------------------------------------------


class Curious(S3Protocol):
    """Reads anything as a query, so that a random model has conversations of several turns."""

    def parse(self, text: str, history: History):  # type: ignore[no-untyped-def]
        action = super().parse(text, history)
        return replace(action, valid=True, query=f"q{len(text) % 5}", complete=len(text) % 7 == 0)


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return toy_local()


def curious(local: LocalModel, library: Library | None = None) -> Engine:
    made = engine(local, library, length=700, turn=25)
    made.protocol = Curious(k=2, select=1, turns=3, begin_k=1, wordings="brief")
    made.protocol.stop = ("a", "e", "1")
    return made


def test_episodes_of_a_real_model_hold_exactly_what_it_saw(local: LocalModel) -> None:
    library = Library()
    episodes = curious(local, library).run(QUESTIONS, n=3, temperature=1.0, seed=5, progress=False)
    assert max(e.searches for e in episodes) == 3 and len({e.completion_ids for e in episodes}) > 6
    assert len(library.calls) <= 4 and all(len(set(qs)) == len(qs) for qs, _ in library.calls)
    for episode in episodes:
        consistent(episode)
        ids = torch.tensor([[*episode.prompt_ids, *episode.completion_ids]])
        with torch.no_grad():
            logprobs = local.model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        own = logprobs[len(episode.prompt_ids) - 1 :] * torch.tensor(episode.env_mask)
        assert torch.allclose(own, torch.tensor(episode.logprobs), atol=1e-4)


def test_same_seed_same_episodes_whatever_else_is_run(local: LocalModel) -> None:
    def go(questions: Sequence[Question], n: int, seed: int) -> list[Episode]:
        return curious(local).run(questions, n=n, temperature=1.0, seed=seed, progress=False)

    def what(episodes: Sequence[Episode]) -> list[tuple[tuple[int, ...], ...]]:
        return [(e.prompt_ids, e.completion_ids, e.env_mask) for e in episodes]

    first = go(QUESTIONS, 2, 1)
    assert first == go(QUESTIONS, 2, 1)
    assert what(go(QUESTIONS[2:3], 2, 1)) == what(first[4:6])
    assert what(go(QUESTIONS[::-1], 2, 1))[:2] == what(first[6:])
    assert what(go(QUESTIONS, 1, 1)) == what(first[::2])
    assert what(go(QUESTIONS, 2, 2)) != what(first)
    assert first[0].completion_ids != first[1].completion_ids


def test_greedy_members_of_a_group_are_alike(local: LocalModel) -> None:
    episodes = curious(local).run(QUESTIONS[:2], n=3, progress=False)
    assert len({e.completion_ids for e in episodes[:3]}) == 1 == len({e.completion_ids for e in episodes[3:]})


def test_the_observation_hook_is_batched(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(Scripted(ASK % "a", DONE))
    sizes: list[int] = []

    def observe(histories: Sequence[History]) -> list[str]:
        sizes.append(len(histories))
        return [f"\n<information>\n{h.block[0].document.title}\n</information>\n" for h in histories]

    monkeypatch.setattr(made.protocol, "observe", observe)
    episode = made.run(QUESTIONS, progress=False)[0]
    assert sizes == [4] and "\na 0\n" in TOKENIZER.decode(episode.completion_ids)
