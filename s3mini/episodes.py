"""The episode engine: many multi-turn rollouts of one protocol at once.

Per turn: the model writes in all live episodes (one batch), the protocol reads each text, all queries go
to the retriever in one de-duplicated call, the observations are appended. Inference, evaluation and
training share this loop. Token ids are concatenated and never encoded again; the model's segments and the
environment's are each encoded on their own, so what the model sampled is exactly what training sees.

A chat template is applied once, to open an episode: it is all one assistant's turn. What a template does to earlier
turns (some drop their reasoning) never happens, and a template that opens the reasoning itself is heard as the model.

An episode's end is marked by the tokenizer's end token, as an environment token when the model did not
write it. A truncated episode (``end == "length"``) gets none, so TRL counts it as truncated; only one whose
prompt alone is too long holds that single token, since TRL cannot take an empty completion.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from transformers import PreTrainedTokenizerBase

from .errors import ModelError, RetrievalError
from .models.base import Sample, Sampler
from .models.chat import block_ids, chat_ids, opening
from .protocols.base import History, Protocol
from .records import Episode, Hit, Question, Turn
from .retrieval.base import Retriever
from .runs.omissions import MALFORMED, SHORTENED, TURN_CUT
from .runs.progress import tqdm

LONGEST_QUERY = 2000
"""Characters that are searched for: a model that repeats itself writes more, which servers refuse."""


@dataclass(slots=True)
class _Rollout:
    """One episode in the making."""

    history: History
    prompt: tuple[int, ...]
    seed: int
    lead: str = ""  # what the template itself has begun the first turn with
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end: str = ""
    answer: str | None = None

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.ids)

    def wrote(self, sample: Sample) -> None:
        self.ids += sample.ids
        self.mask += [1] * len(sample.ids)
        self.logprobs += sample.logprobs

    def noted(self, problem: str, holds: bool = True) -> None:
        """Add to the last turn's problem."""
        turns = self.history.turns
        if holds:
            turns[-1] = replace(turns[-1], problem="; ".join(filter(None, [turns[-1].problem, problem])))

    def saw(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.mask += [0] * len(ids)
        self.logprobs += [0.0] * len(ids)


class Engine:
    """Runs episodes of a protocol.

    Args:
        sampler: the searcher.
        tokenizer: the searcher's; needs a chat template and an end token.
        retriever: answers queries, batched.
        protocol: what is said, how it is read.
        max_turn_tokens: the model's budget per turn, in tokens.
        max_length: the most tokens an episode may have, prompt included.
        max_rows: episodes in flight at a time (their cache must fit in memory); each wave of that many
            makes one retrieval call per turn.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        retriever: Retriever,
        protocol: Protocol,
        max_turn_tokens: int,
        max_length: int,
        max_rows: int = 512,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError("the searcher's tokenizer has no end token: set eos_token in its configuration")
        self.sampler, self.tokenizer, self.retriever, self.protocol = sampler, tokenizer, retriever, protocol
        self.max_turn_tokens, self.max_length, self.max_rows = max_turn_tokens, max_length, max_rows

    def run(
        self,
        questions: Sequence[Question],
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        progress: bool = True,
        before: Mapping[str, int] | None = None,
    ) -> list[Episode]:
        """``n`` consecutive episodes per question, in the questions' order.

        The same arguments give the same episodes. An episode depends on its question, its number among that
        question's episodes and ``seed``, not on what else is run (up to rounding, see ``Sampler.start``).
        ``before`` tells, by question id, how many episodes another process runs first: the numbers go on from there.

        Raises:
            RetrievalError: the retriever failed or answered another number of queries than asked.
        """
        seen: Counter[str] = Counter(before)
        episodes: list[Episode] = []
        per_wave = max(1, self.max_rows // n)
        with tqdm(
            total=len(questions) * n, desc=self.protocol.name, unit="episode", disable=not progress
        ) as bar:
            for begin in range(0, len(questions), per_wave):
                rollouts = self._open(questions[begin : begin + per_wave], n, seed, seen)
                self._advance(rollouts, temperature, bar)
                episodes += [self._close(r) for r in rollouts]
        return episodes

    def _open(self, questions: Sequence[Question], n: int, seed: int, seen: Counter[str]) -> list[_Rollout]:
        """The first retrieval and the prompts."""
        k = self.protocol.start_k
        starts = self._search([q.stem for q in questions], k) if k else [()] * len(questions)
        lead = opening(self.tokenizer)
        prompts = chat_ids(
            self.tokenizer,
            [
                self.protocol.start(q.stem, [hit.document for hit in hits])
                for q, hits in zip(questions, starts, strict=True)
            ],
        )
        rollouts = []
        for question, hits, prompt in zip(questions, starts, prompts, strict=True):
            for _ in range(n):
                key = f"{seed}\0{question.id}\0{seen[question.id]}".encode()
                seen[question.id] += 1
                stream = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
                rollouts.append(_Rollout(History(question, hits), tuple(prompt), stream, lead))
        return rollouts

    def _advance(self, rollouts: Sequence[_Rollout], temperature: float, bar: tqdm) -> None:
        """Take turns until every rollout has ended."""
        room = self.max_length - 1  # the last place is the end token's
        fits = [r for r in rollouts if r.length < room]
        if len(fits) < len(rollouts):
            place = next(r.history.question.where for r in rollouts if r.length >= room)
            warnings.warn(
                f"{place}: too long for the searcher with its first documents, as {len(rollouts) - len(fits)} of {len(rollouts)} "
                "episodes are, which take no turn: raise searcher.max_length",
                stacklevel=3,
            )
        for rollout in rollouts:
            if rollout.length >= room:
                rollout.end = "length"
                bar.update()
        session = self.sampler.start([r.prompt for r in fits], [r.seed for r in fits])
        live = list(range(len(fits)))
        while live:
            budgets = [min(self.max_turn_tokens, room - fits[i].length) for i in live]
            samples = session.sample(live, budgets, temperature, self.protocol.stop)
            read = [
                (i, self._read(fits[i], sample, budget))
                for i, sample, budget in zip(live, samples, budgets, strict=True)
            ]
            asking = [(i, query) for i, query in read if query is not None]
            found = self._search([query for _, query in asking], self.protocol.reach)
            for (i, query), hits in zip(asking, found, strict=True):
                turns, new = fits[i].history.turns, self._new(hits, fits[i].history)
                turns[-1] = replace(turns[-1], query=query, shown=new[: self.protocol.k])
                fits[i].noted("all that was found is kept already", bool(hits) and not new)
                fits[i].noted(f"{SHORTENED} to {LONGEST_QUERY} characters", len(query) > LONGEST_QUERY)
                fits[i].noted(MALFORMED, query[:LONGEST_QUERY] in getattr(self.retriever, "malformed", ()))
            ongoing = [i for i in live if not fits[i].end]
            shown = self.protocol.observe([fits[i].history for i in ongoing]) if ongoing else []
            blocks = block_ids(self.tokenizer, shown)
            for i, ids in zip(ongoing, blocks, strict=True):
                if fits[i].length + len(ids) >= room:
                    fits[i].end = "length"  # the block does not fit: it was found, and counts as context
                    fits[i].noted("no room for what was found")
                else:
                    session.append(i, ids)
                    fits[i].saw(ids)
            still = [i for i in live if not fits[i].end]
            bar.update(len(live) - len(still))
            live = still

    def _read(self, rollout: _Rollout, sample: Sample, budget: int) -> str | None:
        """Record one turn as the protocol reads it; returns the query to run, if any."""
        history = rollout.history
        text = sample.text if history.turns else rollout.lead + sample.text
        rollout.wrote(sample)
        action = self.protocol.parse(text, history)
        selected, query, notes = None, action.query, [action.problem]
        if action.selected is not None:
            selected = tuple(history.block[i - 1].document.id for i in action.selected)
        if sample.stopped is None and not action.complete:
            rollout.end, query = "length", None
            whole = budget == self.max_turn_tokens
            notes.append(f"{TURN_CUT if whole else 'no room left: cut'} at {len(sample.ids)} tokens")
        elif not action.valid:
            rollout.end, query = "invalid", None
        elif query is not None and history.searches >= self.protocol.turns:
            rollout.end, query = "turns", None
            notes.append("no search left: the query was not run")
        elif action.complete:
            rollout.end, rollout.answer = "complete", action.answer
        elif query is None:
            rollout.end = "turns"  # neither done nor asking: nothing more can happen
        problem = "; ".join(filter(None, notes))
        history.turns.append(Turn(text, None, action.complete, selected, (), action.valid, problem))
        return query

    def _new(self, hits: tuple[Hit, ...], history: History) -> tuple[Hit, ...]:
        """Without those that the episode keeps already, where the protocol skips them."""
        kept = {d.id for d in self.protocol.context(history)} if self.protocol.skip_kept else ()
        return tuple(hit for hit in hits if hit.document.id not in kept)

    def _search(self, queries: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        """One call for all distinct queries; hits in the order of ``queries``."""
        queries = [query[:LONGEST_QUERY] for query in queries]
        distinct = list(dict.fromkeys(queries))
        if not distinct:
            return []
        found = self.retriever.search(distinct, k)
        if len(found) != len(distinct):
            raise RetrievalError(
                f"{len(distinct)} queries were asked, {len(found)} answered: the retriever is broken"
            )
        by_query = {query: tuple(hits) for query, hits in zip(distinct, found, strict=True)}
        return [by_query[query] for query in queries]

    def _close(self, rollout: _Rollout) -> Episode:
        end_id = self.tokenizer.eos_token_id
        if not rollout.ids or (rollout.end != "length" and rollout.ids[-1] != end_id):
            rollout.saw([end_id])
        return Episode(
            question=rollout.history.question,
            prompt_ids=rollout.prompt,
            completion_ids=tuple(rollout.ids),
            env_mask=tuple(rollout.mask),
            logprobs=tuple(rollout.logprobs),
            turns=tuple(rollout.history.turns),
            start=rollout.history.start,
            context=tuple(self.protocol.context(rollout.history)),
            end=rollout.end,
            answer=rollout.answer,
        )
