"""What the cold start left to learn, measured: turns in valid format, and how often a group of episodes holds one success.

A success found every gold document. GRPO learns from groups that differ; so what counts before it is that most groups hold
a success (pass@k), while the searcher's first choice (greedy) still finds little. And what its queries are: where every
success asked the question itself, that is all there is to reinforce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..bench import Bench
from ..models.local import LocalModel
from ..protocols.base import everything
from ..records import Episode, Question
from ..reward import recall
from ..statistics import bootstrap_mean
from .coldstart import TURNS
from .fetch import bare


def found(episode: Episode) -> bool:
    """Whether every gold document is among those that the episode was shown."""
    return recall(episode.question, everything(episode)) == 1.0


def examine_searcher(
    bench: Bench,
    model: LocalModel,
    questions: Sequence[Question],
    samples: int = 8,
    seed: int = 0,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Of s3: ``samples`` episodes a question at ``temperature``, and a greedy one; of every other protocol a greedy one.

    Args:
        bench: opens retrievers and engines; ``model`` plays the searcher.
        questions: with gold documents.

    Returns:
        By protocol ``valid``, the share of turns in valid format; for s3 also, each as an estimate over questions: ``greedy``
        success, ``sampled`` success, ``pass`` (one of ``samples`` succeeds), ``differ`` (some do, some do not); the same as
        ``left``, over the questions that the loop's first documents leave; and ``queries``, the shares of `kinds` among the
        sampled ones, and among those of successes.
    """
    report: dict[str, Any] = {
        "n": len(questions),
        "samples": samples,
        "temperature": temperature,
        "valid": {},
    }
    for protocol in TURNS:
        engine = bench.engine(protocol, model, model.tokenizer, reader=model)
        greedy = engine.run(questions, seed=seed)
        report["valid"][protocol] = round(valid(greedy), 4)
        if protocol != "s3":
            continue
        drawn = engine.run(questions, n=samples, temperature=temperature, seed=seed)
        report["valid"]["s3, sampled"] = round(valid(drawn), 4)
        groups = [[found(e) for e in drawn[i : i + samples]] for i in range(0, len(drawn), samples)]
        first = [found(e) for e in greedy]
        report |= _shares(first, groups)
        left = [i for i, e in enumerate(greedy) if recall(e.question, [h.document for h in e.start]) < 1.0]
        if left:
            report["left"] = _shares([first[i] for i in left], [groups[i] for i in left])
        report["queries"] = {"sampled": kinds(drawn), "of successes": kinds([e for e in drawn if found(e)])}
    return report


def _shares(first: Sequence[bool], groups: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Estimates over questions, of the greedy episodes' success and of each group's."""
    figures = {
        "greedy": [float(one) for one in first],
        "sampled": [sum(group) / len(group) for group in groups],
        "pass": [float(any(group)) for group in groups],
        "differ": [float(any(group) and not all(group)) for group in groups],
    }
    return {name: bootstrap_mean(values).as_json() for name, values in figures.items()}


def kinds(episodes: Sequence[Episode]) -> dict[str, float]:
    """What queries are: the question itself, a gold document's title, other words that were shown, or words from nowhere.

    Returns:
        By kind its share of all queries, which sum to 1; nothing where nobody searched.
    """
    counts: Counter[str] = Counter()
    for episode in episodes:
        question, shown = episode.question, [hit.document for hit in episode.start]
        titles = {bare(title).casefold() for title in question.metadata.get("gold_titles", ())}
        for turn in episode.turns:
            if turn.query is None:
                continue
            query = turn.query.casefold().strip()
            text = "\n".join([question.stem, *(document.contents for document in shown)]).casefold()
            if query == question.stem.casefold().strip():
                kind = "the question"
            elif query in titles:
                kind = "a gold title"
            else:
                kind = "words shown" if query in text else "words from nowhere"
            counts[kind] += 1
            shown += [hit.document for hit in turn.shown]
    return {kind: round(count / counts.total(), 4) for kind, count in counts.most_common()}


def valid(episodes: Sequence[Episode]) -> float:
    """Share of all turns in valid format."""
    turns = [turn.valid for episode in episodes for turn in episode.turns]
    return sum(turns) / max(1, len(turns))
