"""What was cut short or found nothing: counted from a stage's records, kept in its manifest, told at a command's end.

None of it is a failure, which would stop the run, yet each moves a figure. A stage keeps the counts as its fact
``omitted``; whoever opens it, new or found again, has them told (`runs.stages.Stage`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

REMEDIES = {
    "replies of the generator cut at its limit": "raise generator.max_new_tokens",
    "empty answers": "read them in the stage's answers.jsonl; they are scored as wrong",
    "questions for which nothing was found": "BM25 finds nothing for stop words or punctuation alone: rephrase them",
    "queries that found nothing": "BM25 finds nothing for stop words or punctuation alone; retrieval.kind=dense always does",
    "queries shortened": "a model that repeats itself: train it, or lower max_turn_tokens",
    "queries that are no boolean expression, searched as plain words": "train the model that writes them",
    "turns cut": "raise max_turn_tokens (s3's, or protocols.NAME's)",
    "episodes cut": "raise searcher.max_length (in training also grpo.max_completion_length), or lower k",
}
"""Every kind, and what to do about it."""
CUT, EMPTY, NO_HIT, NO_HITS, SHORTENED, MALFORMED, TURN_CUT, EPISODE_CUT = REMEDIES

_told: dict[str, Mapping[str, int]] = {}


def omissions(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many of each kind the records of answers hold (naive RAG's, or an evaluation's); kinds that there are."""
    found: Counter[str] = Counter()
    for record in records:
        cut = bool(record.get("cut"))
        found[CUT] += cut
        found[EMPTY] += not cut and not record["answer"]
        episode = record.get("episode")
        if episode is not None:
            found.update(in_episode(episode))
    return {kind: found[kind] for kind in REMEDIES if found[kind]}


def in_episode(episode: Mapping[str, Any]) -> Counter[str]:
    """The omissions of one stored episode (`records.episode_as_json`); ``problem`` names those that the engine noted."""
    problems = [turn["problem"] for turn in episode["turns"]]
    found = Counter(kind for text in problems for kind in (SHORTENED, MALFORMED, TURN_CUT) if kind in text)
    found[NO_HITS] = sum(turn["query"] is not None and not turn["shown"] for turn in episode["turns"])
    found[EPISODE_CUT] = episode["end"] == "length" and not found[TURN_CUT]
    return found


def note(stage: str, omitted: Mapping[str, int] | None) -> None:
    """Have a stage's counts told at the end of the command."""
    if omitted:
        _told[stage] = omitted


def told() -> list[str]:
    """A line for each kind that was noted, its remedy in it; nothing is told twice."""
    kinds = [kind for kind in REMEDIES if any(kind in counts for counts in _told.values())]
    lines = []
    for kind in kinds:
        where = {stage: counts[kind] for stage, counts in _told.items() if kind in counts}
        places = ", ".join(f"{count} in {stage}" for stage, count in where.items())
        lines.append(f"{sum(where.values())} {kind}: {REMEDIES[kind]} ({places})")
    _told.clear()
    return lines
