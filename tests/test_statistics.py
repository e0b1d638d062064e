"""Bootstrap intervals against an independent implementation and known coverage; paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3mini.errors import DataError
from s3mini.statistics import (
    across_seeds,
    bootstrap_average,
    bootstrap_mean,
    paired_difference,
    paired_values,
)


def plain_bootstrap(groups: list[list[float]], resamples: int, seed: int) -> tuple[float, float]:
    """The same interval, written out with loops and a different way of drawing."""
    rng = np.random.RandomState(seed)  # a generator that the package does not use
    means = []
    for _ in range(resamples):
        drawn = [np.asarray(g)[rng.randint(0, len(g), len(g))] for g in groups]
        means.append(sum(float(d.mean()) for d in drawn) / len(drawn))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize("sizes", [[150], [150, 150], [20, 200, 60]])
def test_interval_agrees_with_a_plain_implementation(sizes: list[int]) -> None:
    rng = np.random.default_rng(1)
    groups = [list((rng.random(n) < p).astype(float)) for n, p in zip(sizes, (0.3, 0.6, 0.8), strict=False)]
    ours = bootstrap_average(groups, resamples=4000, seed=3)
    low, high = plain_bootstrap(groups, 4000, seed=7)
    assert ours.mean == pytest.approx(np.mean([np.mean(g) for g in groups]))
    assert (ours.low, ours.high) == (pytest.approx(low, abs=0.012), pytest.approx(high, abs=0.012))
    assert ours.n == sum(sizes)


def test_every_set_counts_the_same_whatever_its_size() -> None:
    estimate = bootstrap_average([[1.0] * 10, [0.0] * 990])
    assert estimate.mean == 0.5
    assert (estimate.low, estimate.high) == (0.5, 0.5)  # sets are resampled within, so nothing varies


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = (0.2 + 0.5 + 0.7) / 3
    hits = 0
    for trial in range(300):
        groups = [list((rng.random(60) < p).astype(float)) for p in (0.2, 0.5, 0.7)]
        found = bootstrap_average(groups, resamples=500, seed=trial)
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / 300 <= 0.98  # three standard errors of a share of 0.95 are 0.038


def test_width_of_a_share_is_the_textbook_one() -> None:
    found = bootstrap_mean([1.0] * 80 + [0.0] * 120, resamples=4000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * (0.4 * 0.6 / 200) ** 0.5, rel=0.08)


def test_same_seed_same_interval() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1.0, 0.0]])
def test_tiny_samples_have_an_interval_around_the_mean(values: list[float]) -> None:
    found = bootstrap_mean(values)
    assert found.low <= found.mean <= found.high


def test_mixed_with_a_single_value() -> None:
    found = bootstrap_average([[1.0], [0.0, 1.0, 1.0]])
    assert found.n == 4
    assert found.low <= found.mean == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("groups", [[], [[]], [[1.0], []]])
def test_an_empty_group_is_an_error(groups: list[list[float]]) -> None:
    with pytest.raises(DataError, match="at least one value"):
        bootstrap_average(groups)


shares = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.booleans(), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(shares, st.integers(0, 2**16))
def test_difference_is_antisymmetric_and_its_mean_exact(a: dict[str, bool], seed: int) -> None:
    rng = np.random.default_rng(seed)
    left = {"s": {k: float(v) for k, v in a.items()}}
    right = {"s": {k: float(rng.random() < 0.5) for k in reversed(list(a))}}  # order must not matter
    forward = paired_difference(left, right, resamples=100)
    back = paired_difference(right, left, resamples=100)
    assert forward.mean == pytest.approx(
        np.mean(list(left["s"].values())) - np.mean(list(right["s"].values()))
    )
    assert forward.mean == pytest.approx(-back.mean)
    assert forward.low <= forward.mean + 1e-9 and forward.mean <= forward.high + 1e-9


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(2)
    hard = (rng.random(200) < 0.5).astype(float)  # both methods fail on the same questions
    a = {str(i): float(v) for i, v in enumerate(hard)}
    b = {k: v if int(k) % 10 else 0.0 for k, v in a.items()}
    paired = paired_difference({"s": a}, {"s": b})
    assert paired.excludes_zero and paired.mean > 0
    alone = bootstrap_mean(list(a.values()))
    assert paired.high - paired.low < 0.7 * (alone.high - alone.low)


def test_no_difference_does_not_exclude_zero() -> None:
    same = {"s": {"a": 1.0, "b": 0.0}}
    found = paired_difference(same, same)
    assert (found.mean, found.low, found.high, found.excludes_zero) == (0.0, 0.0, 0.0, False)


def test_questions_must_be_the_same() -> None:
    with pytest.raises(DataError, match="'c'"):
        paired_values({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0, "c": 1.0})
    with pytest.raises(DataError, match="same sets"):
        paired_difference({"x": {"a": 1.0}}, {"y": {"a": 1.0}})


def alike(*levels: float, n: int = 50) -> list[dict[str, dict[str, float]]]:
    """Trainings whose every answer scores the same, so that only seeds vary."""
    return [{"s": {str(i): level for i in range(n)}} for level in levels]


def test_seeds_alone_scatter_as_draws_of_them_do() -> None:
    # of three draws from (0, 0, 1) none is 1 with 8/27, one 12/27, two 6/27, all 1/27: more than 2.5 %
    found = across_seeds(alike(0, 0, 1), resamples=4000)
    assert (found.mean, found.low, found.high) == (pytest.approx(1 / 3), 0, pytest.approx(1))
    # the sides are drawn apart: +1 has a chance of (1/27)(8/27), +2/3 or more one of 9 %
    both = across_seeds(alike(0, 0, 1), alike(0, 0, 1), resamples=4000)
    assert (both.mean, both.low, both.high) == (0, pytest.approx(-2 / 3), pytest.approx(2 / 3))
    shifted = across_seeds(alike(0.75, 0.75), alike(0.5, 0.5, 0.5), resamples=50)
    assert (shifted.mean, shifted.low, shifted.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_same_training_again_makes_no_interval_narrower() -> None:
    """Drawing questions anew for each seed would, by the root of their number."""
    rng = np.random.default_rng(4)
    a, b = ({"s": {str(i): float(x) for i, x in enumerate(rng.random(200) < p)}} for p in (0.7, 0.5))
    once = paired_difference(a, b, resamples=4000)
    thrice = across_seeds([a] * 3, [b] * 3, resamples=4000)
    assert thrice.mean == pytest.approx(once.mean) and thrice.n == once.n == 200
    assert (thrice.low, thrice.high) == (
        pytest.approx(once.low, abs=0.015),
        pytest.approx(once.high, abs=0.015),
    )


def test_seeds_count_sets_alike_and_want_the_same_questions() -> None:
    run = {"big": {str(i): 0.0 for i in range(90)}, "small": {str(i): 1.0 for i in range(10)}}
    assert across_seeds([run, run]).mean == 0.5
    with pytest.raises(DataError, match="same questions"):
        across_seeds([run], [{**run, "small": {"x": 1.0}}])
    with pytest.raises(DataError, match="at least one training"):
        across_seeds([])
