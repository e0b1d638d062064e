"""Means with bootstrap intervals, and paired differences between two methods on the same questions.

The resampling is `scipy.stats.bootstrap` (percentile method): questions are the unit, drawn with
replacement *within* each question set, and an average over sets is the mean of the sets' means, as in
the paper's tables. The interval therefore speaks of other questions of the same sets; of other training seeds as
well speaks only `across_seeds`, which wants several trainings.

Known limit: with all values alike (every answer wrong, say) the percentile interval has no width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .errors import DataError

Values = Mapping[str, Mapping[str, float]]  # by question set and question id
CONFIDENCE = 0.95
_BATCH_CELLS = 20_000_000  # resampled values held at once, about 160 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its interval and the number of questions behind it."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def as_json(self, name: str = "mean") -> dict[str, Any]:
        """``{"n", name, "ci95"}``, the shape used in ``results.json``."""
        return {"n": self.n, name: round(self.mean, 6), "ci95": [round(self.low, 6), round(self.high, 6)]}

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _mean_of_means(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean([np.mean(sample, axis=axis) for sample in samples], axis=0)


def bootstrap_average(groups: Sequence[Sequence[float]], resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean over groups of each group's mean, with a bootstrap interval stratified by group.

    Args:
        groups: one sequence of values per question set; every set counts the same, whatever its size.
        resamples: bootstrap draws.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        DataError: no group, or an empty one.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    if not arrays or any(array.size == 0 for array in arrays):
        raise DataError("an interval needs at least one value in every group: was a question set left empty?")
    total = sum(array.size for array in arrays)
    mean = float(_mean_of_means(*arrays))
    if all(np.all(array == array[0]) for array in arrays):
        return Estimate(mean, mean, mean, total)  # nothing varies: scipy would resample constants
    # scipy wants two values a sample; a single one can only be drawn again and again
    arrays = [np.repeat(array, 2) if array.size == 1 else array for array in arrays]
    interval = stats.bootstrap(
        arrays,
        _mean_of_means,
        n_resamples=resamples,
        batch=max(1, _BATCH_CELLS // total),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), total)


def bootstrap_mean(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of one set of values with its bootstrap interval."""
    return bootstrap_average([values], resamples, seed)


def paired_values(a: Mapping[str, float], b: Mapping[str, float]) -> list[float]:
    """``a - b`` question by question, in ``a``'s order.

    Raises:
        DataError: the two did not answer the same questions, so nothing is paired.
    """
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())
        raise DataError(
            f"a paired difference needs the same questions on both sides; {len(odd)} differ, e.g. {odd[0]!r}: "
            "evaluate both methods on the same question sets"
        )
    return [value - b[key] for key, value in a.items()]


def _paired(a: Values, b: Values) -> list[list[float]]:
    if a.keys() != b.keys():
        raise DataError(f"a paired difference needs the same sets on both sides: {sorted(a)} and {sorted(b)}")
    return [paired_values(a[name], b[name]) for name in a]


def paired_difference(a: Values, b: Values, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Average over sets of the mean of ``a - b``."""
    return bootstrap_average(_paired(a, b), resamples, seed)


def across_seeds(
    ours: Sequence[Values], theirs: Sequence[Values] = (), resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean over training seeds of ``ours``, minus that of ``theirs``, with an interval over seeds and questions.

    The pigeonhole bootstrap (Owen 2007), percentile interval: seeds and questions are crossed, as every training answers
    the same questions. So each draw takes seeds with replacement, of either side by itself, and questions with
    replacement within each set, the same ones for all seeds and both sides.

    Known limit: of few seeds the bootstrap understates how trainings scatter: of three by a third, in variance.

    Args:
        ours, theirs: a training each; the two need not have as many.

    Raises:
        DataError: no training, or not the same sets and questions everywhere.
    """
    if not ours:
        raise DataError("an interval over seeds needs at least one training")
    for other in (*ours[1:], *theirs):
        _paired(other, ours[0])  # raises unless both answered the same questions
    rng = np.random.default_rng(seed)
    sides = [(_seed_weights(len(side), resamples, rng), side) for side in (ours, theirs) if side]
    mean, drawn = 0.0, np.zeros(resamples)
    for name, first in ours[0].items():
        weights = rng.multinomial(len(first), np.full(len(first), 1 / len(first)), resamples) / len(first)
        for sign, (chosen, side) in zip((1, -1), sides, strict=False):
            values = np.array([[run[name][key] for key in first] for run in side])  # seeds, questions
            mean += sign * float(values.mean()) / len(ours[0])
            drawn += sign * np.einsum("rs,sq,rq->r", chosen, values, weights, optimize=True) / len(ours[0])
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(mean, float(low), float(high), sum(map(len, ours[0].values())))


def _seed_weights(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of ``count`` trainings is drawn, as a share: (resamples, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), resamples) / count
