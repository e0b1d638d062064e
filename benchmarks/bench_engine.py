"""What each of the engine's savings is worth, as ratios within one run on this machine.

    python benchmarks/bench_engine.py [--profile mini] [--questions 12] [--group 8] [--threads N] [--cpu-time]

Every variant plays the same episodes (same seed, same questions, sampled at temperature 1; the last column
counts those equal token by token, where other batch shapes may round a rare draw the other way), with one
saving taken away:

- ``cache dropped``: every turn reads its whole history again;
- ``nothing shared``: each member of a group reads the shared prompt for itself;
- ``queries repeated``: every episode's query goes to the retriever, duplicates included;
- ``a call per query``: the retriever is called once per episode and turn;
- ``one by one``: a batch of one, on the first episode of each question, scaled up.

Times are the best of ``--repeats``; variants take turns, so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from s3mini.corpus import load_questions
from s3mini.episodes import Engine
from s3mini.models.base import Sample
from s3mini.models.local import LocalModel, load_model
from s3mini.models.session import LocalSession
from s3mini.profile import Profile, load_profile
from s3mini.protocols import REGISTRY
from s3mini.records import Episode, Hit, Question
from s3mini.retrieval import open_retriever


@dataclass
class Counts:
    """What one run asked of model and retriever."""

    seconds: float = 0.0
    read: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    calls: int = 0
    queries: int = 0
    episodes: list[Episode] = field(default_factory=list)


class Forgetful:
    """A session that keeps token ids but no cache."""

    def __init__(self, model: LocalModel, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> None:
        self.model, self.ids, self.seeds = model, [list(p) for p in prompts], list(seeds)

    def sample(
        self,
        rows: Sequence[int],
        max_new_tokens: int | Sequence[int],
        temperature: float,
        stop: Sequence[str],
    ) -> list[Sample]:
        session = self.model.start([self.ids[r] for r in rows], [self.seeds[r] for r in rows])
        samples = session.sample(range(len(rows)), max_new_tokens, temperature, stop)
        for row, sample in zip(rows, samples, strict=True):
            self.ids[row] += sample.ids
        return samples

    def append(self, row: int, ids: Sequence[int]) -> None:
        self.ids[row] += ids


class Unshared(LocalSession):
    """A session whose rows read for themselves."""

    def _alike(self, rows: Sequence[int]) -> list[list[int]]:
        return [[row] for row in rows]


class Starts:
    """A sampler over one model with a given kind of session."""

    def __init__(self, model: LocalModel, kind: type[LocalSession | Forgetful]) -> None:
        self.model, self.kind = model, kind

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> object:
        if issubclass(self.kind, LocalSession):
            return self.kind(self.model.model, prompts, seeds, self.model.stops, self.model.positions)
        return self.kind(self.model, prompts, seeds)


class Repeating(Engine):
    """Sends duplicates to the retriever too."""

    def _search(self, queries: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        return [tuple(hits) for hits in self.retriever.search(list(queries), k)] if queries else []


class OneCallEach(Engine):
    """Calls the retriever once per query."""

    def _search(self, queries: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        return [tuple(self.retriever.search([query], k)[0]) for query in queries]


class Counting:
    """Counts what passes through a session's ``forward`` and a retriever's ``search``."""

    def __init__(self, retriever: object, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.inner, self.counts = retriever, Counts()
        forward = LocalSession.forward

        def counting(session: LocalSession, tokens: torch.Tensor, *args: Any, reading: bool) -> torch.Tensor:
            begin = self.clock()
            out = forward(session, tokens, *args, reading)
            if reading:
                self.counts.read += tokens.numel()
            else:
                self.counts.steps += 1
                self.counts.step_seconds += self.clock() - begin
            return out

        LocalSession.forward = counting  # type: ignore[method-assign]
        self.name, self.fingerprint = retriever.name, retriever.fingerprint  # type: ignore[attr-defined]

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.counts.calls += 1
        self.counts.queries += len(queries)
        return self.inner.search(queries, k)  # type: ignore[attr-defined]


def variants(
    profile: Profile, model: LocalModel, counting: Counting, group: int
) -> dict[str, Callable[..., list]]:
    """Name to a function of questions that plays them."""
    spec = profile.s3

    def engine(kind: type[LocalSession | Forgetful] = LocalSession, cls: type[Engine] = Engine) -> Engine:
        protocol = REGISTRY["s3"](spec.k, spec.select, spec.turns, spec.begin_k, profile.searcher.wordings)
        sampler = Starts(model, kind)
        return cls(
            sampler, model.tokenizer, counting, protocol, spec.max_turn_tokens, profile.searcher.max_length
        )

    def play(made: Engine) -> Callable[[Sequence[Question]], list[Episode]]:
        return lambda questions: made.run(questions, n=group, temperature=1.0, progress=False)

    def singly(questions: Sequence[Question]) -> list[Episode]:
        return [e for q in questions for e in engine().run([q], n=1, temperature=1.0, progress=False)]

    return {
        "all savings": play(engine()),
        "cache dropped": play(engine(Forgetful)),
        "nothing shared": play(engine(Unshared)),
        "queries repeated": play(engine(cls=Repeating)),
        "a call per query": play(engine(cls=OneCallEach)),
        "one by one": singly,
    }


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor seconds: steadier on a busy machine"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    profile = load_profile(options.profile)
    model = load_model(profile.searcher)
    clock = time.process_time if options.cpu_time else time.perf_counter
    counting = Counting(open_retriever(profile), clock)
    sets = profile.data.train_sets
    share = -(-options.questions // len(sets))
    questions = [q for s in sets for q in load_questions(profile, s, "train")[:share]][: options.questions]
    plays = variants(profile, model, counting, options.group)
    plays["all savings"](questions)  # warm up: tokenizer tables, the retriever's first queries
    best: dict[str, Counts] = {}
    for _ in range(options.repeats):
        for name, play in plays.items():
            counting.counts = Counts()
            begin = clock()
            counting.counts.episodes = play(questions)
            counting.counts.seconds = clock() - begin
            if name not in best or counting.counts.seconds < best[name].seconds:
                best[name] = counting.counts
    whole = best["all savings"]
    per_episode = whole.seconds / len(whole.episodes)
    rows = []
    for name, c in best.items():
        stride = len(whole.episodes) // len(c.episodes)
        pairs = zip(c.episodes, whole.episodes[::stride], strict=True)
        same = sum(a.completion_ids == b.completion_ids for a, b in pairs)
        n = len(c.episodes)
        rows.append(
            [name, n / c.seconds, c.seconds / n / per_episode, c.read / n, 1e3 * c.step_seconds / c.steps,
             c.steps, c.calls, c.queries, f"{same}/{n}"]
        )  # fmt: skip
    head = [
        "variant",
        "episodes/s",
        "× slower",
        "read/episode",
        "ms/step",
        "steps",
        "calls",
        "queries",
        "same",
    ]
    print(f"{len(whole.episodes)} episodes, {torch.get_num_threads()} threads, profile {profile.name}")
    print(" | ".join(f"{h:>16}" for h in head))
    for row in rows:
        print(" | ".join(f"{cell:16.2f}" if isinstance(cell, float) else f"{cell!s:>16}" for cell in row))


if __name__ == "__main__":
    main()
