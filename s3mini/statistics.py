"""Means with bootstrap intervals, and paired differences between two methods on the same questions.

The resampling is `scipy.stats.bootstrap` (percentile method): questions are the unit, drawn with
replacement *within* each question set, and an average over sets is the mean of the sets' means, as in
the paper's tables. The interval therefore speaks of other questions of the same sets; it says nothing
about other training seeds, which are reported by training more than once.

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


def paired_difference(a: Values, b: Values, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Average over sets of the mean of ``a - b``."""
    if a.keys() != b.keys():
        raise DataError(f"a paired difference needs the same sets on both sides: {sorted(a)} and {sorted(b)}")
    return bootstrap_average([paired_values(a[name], b[name]) for name in a], resamples, seed)
