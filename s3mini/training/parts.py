"""What a GRPO run works with: the policy, the engine that rolls it out, the scorer, the questions.

`open_parts` makes them from a profile; tests and other methods hand `grpo.train` parts of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..bench import Bench, protocol_class
from ..corpus import load_questions
from ..profile import ModelSpec, Profile
from ..rag import Earned, RagCache, precompute, training_filter
from ..records import Collected, Document, Episode, Question, Score, hit_ids
from ..reward import DOCUMENT_REWARDS, Reward, gbr, nearness, recall

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..episodes import Engine
    from ..retrieval import Retriever


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one episode fared: its reward, the answer's score, and what the generator had to read (tokens).

    ``score`` is None where nobody answered; ``gbr`` there as well, and where naive RAG's accuracy is not known. ``earned`` is the reward before searches were paid for, None
    where they cost nothing.
    """

    reward: float
    score: Score | None
    gbr: float | None
    context_tokens: int
    earned: float | None = None


Scorer = Callable[[Sequence[Episode]], list[Outcome]]
FAILED = ("invalid", "length")
"""Ends of episodes whose last turn was in no valid form, or was cut."""


@dataclass
class Parts:
    """``model`` is trained in place and is the engine's own; ``start`` is the model it began as, where that is kept.

    ``engine`` may be anything that runs episodes as `episodes.Engine` does.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    questions: Sequence[Question]
    engine: Engine
    score: Scorer
    start: PreTrainedModel | None = None


@dataclass
class AnswerScorer:
    """The frozen generator answers from what an episode collected; the named reward values the answer.

    ``own``: the episode's own answer is valued instead (Search-R1); none is an empty one.
    """

    bench: Bench
    reward: Reward
    rag: RagCache
    own: bool = False

    def __call__(self, episodes: Sequence[Episode]) -> list[Outcome]:
        """One outcome per episode; equal contexts of a question are read once.

        Raises:
            ModelError: the generator or the judge failed.
        """
        questions = [episode.question for episode in episodes]
        collected = [Collected(e.context, e, (e.answer or "") if self.own else None) for e in episodes]
        answers = self.bench.answer(questions, collected)
        scores = self.reward.score(answers, questions, self.bench.judge)
        gains = [gbr(s.gen_acc, self.rag.lookup(q)) for s, q in zip(scores, questions, strict=True)]
        tokens = [self.bench.count_tokens(episode.context) for episode in episodes]
        return [
            Outcome(*row) for row in zip(self.reward(questions, scores), scores, gains, tokens, strict=True)
        ]


@dataclass
class DocumentScorer(AnswerScorer):
    """Values what was retrieved, whatever the generator makes of it (DeepRetrieval).

    ``answered``: the generator answers beside, so that GenAcc is measured; if not, it is never opened.
    """

    value: Callable[[Question, Sequence[Document]], float] = recall
    answered: bool = True

    def __call__(self, episodes: Sequence[Episode]) -> list[Outcome]:
        """One outcome per episode, its reward the value of its context."""
        rewards = [self.value(episode.question, episode.context) for episode in episodes]
        if self.answered:
            return [replace(o, reward=r) for o, r in zip(super().__call__(episodes), rewards, strict=True)]
        tokens = [self.bench.count_tokens(episode.context) for episode in episodes]
        return [Outcome(reward, None, None, count) for reward, count in zip(rewards, tokens, strict=True)]


@dataclass
class RankScorer:
    """Half of what another scorer says, and half `reward.nearness` of what the loop began with and of an episode's queries.

    Not of the question itself to that depth: a query would earn nothing before it is better than that. An episode that ends
    by a turn in no valid form earns nothing: paid for what it had collected, the form is soon lost.
    """

    scorer: Scorer
    retriever: Retriever
    depth: int = 1000

    def __call__(self, episodes: Sequence[Episode]) -> list[Outcome]:
        """One outcome per episode; raises what the scorer and the retriever raise."""
        asked = [[turn.query for turn in e.turns if turn.query and turn.shown] for e in episodes]
        distinct = list(dict.fromkeys(query for queries in asked for query in queries))
        found = self.retriever.search(distinct, self.depth) if distinct else []
        ranked = {query: hit_ids(hits) for query, hits in zip(distinct, found, strict=True)}
        outcomes = []
        for e, queries, outcome in zip(episodes, asked, self.scorer(episodes), strict=True):
            near = nearness(e.question, [hit_ids(e.start), *(ranked[query] for query in queries)])
            reward = 0.0 if e.end in FAILED else (outcome.reward + near) / 2
            outcomes.append(replace(outcome, reward=reward))
        return outcomes


@dataclass
class PricedScorer:
    """What another scorer says, less ``cost`` for each of an episode's searches (``grpo.search_cost``).

    A reward alone does not say when to search: where a search is free, one more never hurts.
    """

    scorer: Scorer
    cost: float

    def __call__(self, episodes: Sequence[Episode]) -> list[Outcome]:
        """One outcome per episode; raises what the scorer raises."""
        return [
            replace(outcome, reward=outcome.reward - self.cost * episode.searches, earned=outcome.reward)
            for episode, outcome in zip(episodes, self.scorer(episodes), strict=True)
        ]


def open_parts(profile: Profile, protocol: str = "s3", reward: str = "gbr", sharded: bool = False) -> Parts:
    """The parts of a profile and a protocol; naive RAG's cache is completed first, where an answer is to be compared with it.

    A reward of `reward.DOCUMENT_REWARDS` values the documents, any other an answer. ``sharded``: the model only rolls out, and a copy of it
    is trained elsewhere, so its weights may be as coarse as the profile has them.

    Raises:
        DataError: unknown protocol or reward, malformed data, nothing left to train on.
        RetrievalError, ModelError: a part cannot be opened.
    """
    from ..models.local import LocalModel, load_model
    from ..retrieval.hit_cache import CachedRetriever

    bench = Bench(profile)
    questions = training_questions(profile)
    method, value = protocol_class(protocol), DOCUMENT_REWARDS.get(reward)
    # A reward for documents asks no generator; where whole groups may be replaced, most answers would be thrown away.
    answered = value is None or not profile.grpo.resample
    cache = precompute(profile, splits=("train",), bench=bench) if answered else RagCache()
    if profile.grpo.filtered and method.filtered:
        success = cache if value is None else Earned(bench, questions, reward)
        questions = training_filter(questions, success)[0]
    spec = bench.start(protocol)
    # The model as it was is kept where somebody reads it: the measured KL, a generator or judge of the same weights,
    # a protocol's reader. With a KL term TRL has its own reference (the model without its adapters, or a copy).
    others = any(m.engine == "local" and m.path == spec.path for m in (profile.generator, profile.judge))
    kept = not profile.grpo.beta or others or method.needs_reader
    if not sharded:
        spec = _fine(spec)
    loaded = load_model(spec, shared=kept)
    trained = copy.deepcopy(loaded.model) if kept else loaded.model
    trained.train()
    if not profile.grpo.lora_rank and not sharded:
        trained.float()  # the last bit of a bfloat16 weight is a hundred times an update at 1e-6, and would swallow it
    policy = LocalModel(spec, trained, loaded.tokenizer)
    retriever = CachedRetriever(bench.retriever(method.retriever))
    engine = bench.engine(protocol, policy, policy.tokenizer, retriever, reader=loaded)
    scorer: Scorer = (
        DocumentScorer(bench, Reward("gen_acc"), cache, value=value, answered=answered)
        if value
        else AnswerScorer(bench, Reward(reward, cache.lookup), cache, method.own_answer)
    )
    if reward == "gold_rank":
        scorer = RankScorer(scorer, bench.retriever(method.retriever))
    return Parts(policy.model, policy.tokenizer, questions, engine, scorer, loaded.model if kept else None)


def _fine(spec: ModelSpec) -> ModelSpec:
    """What is fastest on a machine is for reading and writing; what training adds needs finer weights, the same on every one."""
    return spec.model_copy(update={"dtype": "float32"}) if spec.dtype == "fastest" else spec


def identity(
    profile: Profile, seed: int, protocol: str, reward: str
) -> tuple[dict[str, str], dict[str, Any]]:
    """Everything a run depends on: inputs by content, settings by value."""
    bench = Bench(profile)
    inputs, settings = bench.depends_on(training_questions(profile))
    inputs |= bench.searcher_depends_on(protocol, _fine(bench.start(protocol)))
    # These came later: switched off, older runs stay valid.
    off = {key for key in ("search_cost", "share_prompts") if not getattr(profile.grpo, key)}
    settings |= {
        "seed": seed,
        **profile.grpo.model_dump(
            exclude={"save_steps", "keep_steps", "vllm", "vllm_url", "vllm_memory", *off}
        ),
        "reward": reward,
        "rag": profile.rag,
    }
    return inputs, settings


def training_questions(profile: Profile) -> list[Question]:
    """The training questions of all sets trained on, unfiltered."""
    return [q for name in profile.data.train_sets for q in load_questions(profile, name, "train")]
