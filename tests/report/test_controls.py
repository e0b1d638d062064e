"""How the searcher searches: figures and pictures of made-up entries, and what is said where nothing was recorded."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from matplotlib.path import Path

from s3mini.report.controls import (
    controls_table,
    hops_plot,
    markdown_controls,
    price_plot,
    searches_table,
    seeds_plot,
)
from s3mini.report.html import Rich
from s3mini.report.plots import Plot
from s3mini.report.shipped import Records
from s3mini.results import searching

HOPS = {"a": 1, "b": 1, "c": 2, "d": 3}


def searched(*searches: int) -> dict[str, Any]:
    """Four questions in two sets, and how often each was searched for."""
    answers: Any = [{"id": i, "searches": n} for i, n in zip(HOPS, searches, strict=True)]
    return searching({"single": answers[:2], "chains": answers[2:]}, HOPS)


def arm(gen_acc: float, *searches: int) -> dict[str, Any]:
    average = {"n": 4, "gen_acc": gen_acc, "ci95": [gen_acc - 0.1, gen_acc + 0.1]}
    return {
        "average": average,
        "searches_per_question": sum(searches) / 4,
        "searches": searched(*searches),
    }


PRICE = {"price": {"arms": {"free": arm(0.9, 3, 3, 3, 3), "0.1 a search": arm(0.8, 1, 1, 2, 3)}}}


def test_searches_by_hops_by_hand() -> None:
    found = searched(1, 2, 2, 3)
    assert found["sets"]["single"] == {"n": 2, "mean": 1.5, "hops": {"1": 1.5}, "correlation": None}
    assert found["sets"]["chains"]["hops"] == {"2": 2.0, "3": 3.0}
    assert found["sets"]["chains"]["correlation"] == 1.0
    assert found["all"]["correlation"] == pytest.approx(0.8528, abs=1e-4)
    assert searched(3, 3, 3, 3)["all"]["correlation"] is None


def test_controls_say_what_was_recorded_and_what_was_not() -> None:
    shown = [Records("mini", None, PRICE), Records("wiki")]
    text = markdown_controls(shown)
    assert "free: GenAcc 0.900 [0.800, 1.000], 3.00 searches<br>0.1 a search: GenAcc 0.800" in text
    assert "0.1 a search: 1.00, 2.00, 3.00 by 1/2/3 hops, r = +1.00" in text
    assert all(line.endswith("| not measured |") for line in text.splitlines()[2:])
    lines = controls_table(shown).text.splitlines()
    assert len(lines) == 1 + 1 + 2 + 2 + 1 + 1 + 1 + 3 and sum("not measured" in line for line in lines) == 9


def test_an_entry_without_searches_by_set_is_not_taken_for_one_with() -> None:
    old = {"price": {"arms": {"free": {k: v for k, v in arm(0.9, 3, 3, 3, 3).items() if k != "searches"}}}}
    assert "free: not measured" in markdown_controls([Records("mini", None, old)])
    assert isinstance(price_plot(old), Plot)
    for drawn in (hops_plot(old), searches_table(old), price_plot({})):
        assert isinstance(drawn, Rich) and "not recorded" in drawn.text


def test_searches_are_told_by_set_with_their_correlation() -> None:
    text = searches_table(PRICE).text
    assert text.splitlines()[0].split() == ["price", "single", "(1)", "chains", "(2/3)", "all", "(1/2/3)"]
    assert "2.50 r = +1.00" in text and "r = –" not in text


def test_the_price_plot_shows_accuracy_against_searches() -> None:
    plot = price_plot(PRICE)
    assert isinstance(plot, Plot) and "free 3.00, 0.1 a search 1.75" in plot.caption
    line, *_ = plot.figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [3.0, 1.75] and list(line.get_ydata()) == [0.9, 0.8]


def test_a_longer_training_is_a_line_of_its_own() -> None:
    longer = {"free, 40 steps": arm(0.95, 3, 3, 3, 3), "0.1 a search, 40 steps": arm(0.94, 1, 1, 1, 2)}
    plot = price_plot(PRICE | {"price-longer": {"arms": longer}})
    assert isinstance(plot, Plot) and plot.caption.endswith(
        "free, 40 steps 3.00, 0.1 a search, 40 steps 1.25)"
    )
    lines = [line for line in plot.figure.axes[0].get_lines() if len(line.get_xdata()) == 2]
    assert [list(line.get_ydata()) for line in lines if line.get_linestyle() == "-"] == [
        [0.9, 0.8],
        [0.95, 0.94],
    ]


def test_the_prices_stand_clear_of_the_intervals() -> None:
    found = {"free": (2.99, 0.884), "0.02 a search": (2.08, 0.874), "0.05 a search": (1.34, 0.868)}
    found |= {"0.1 a search": (1.20, 0.870), "0.2 a search": (0.92, 0.858)}
    arms = {
        name: arm(gen_acc, 3, 3, 3, 3) | {"searches_per_question": x} for name, (x, gen_acc) in found.items()
    }
    for one in arms.values():
        one["average"]["ci95"] = [one["average"]["gen_acc"] - 0.015, one["average"]["gen_acc"] + 0.015]
    plot = price_plot({"price": {"arms": arms}})
    assert isinstance(plot, Plot)
    (axes,) = plot.figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 5
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    (bars,) = axes.collections
    for bar in map(axes.transData.transform, bars.get_segments()):
        assert not any(Path(bar).intersects_bbox(box, filled=False) for box in boxes)


def test_the_hops_plot_has_a_panel_for_each_arm_and_a_point_for_each_set() -> None:
    plot = hops_plot(PRICE)
    assert isinstance(plot, Plot) and plot.png().startswith(b"\x89PNG")
    free, paid = plot.figure.axes
    assert (
        free.get_title(loc="left") == "free\nr = –"
        and paid.get_title(loc="left") == "0.1 a search\nr = +1.00"
    )
    every, single, chains = paid.get_lines()
    assert list(every.get_ydata()) == [1.0, 2.0, 3.0]
    assert list(single.get_ydata()) == [1.0] and list(chains.get_ydata()) == [2.0, 3.0]


def test_the_seeds_plot_has_every_seed_beside_its_interval() -> None:
    means = {"s3, 20 steps": 0.8, "rival, 20 steps": 0.8, "lost, 20 steps": 0.3}
    entry = {name: {**arm(mean, 1, 1, 1, 1), "by_seed": [0.7, 0.8, 0.9]} for name, mean in means.items()}
    plot = seeds_plot({"opponents": {"arms": entry}})
    assert isinstance(plot, Plot) and plot.caption.endswith("rival, 20 steps 0.800, lost, 20 steps 0.300")
    bar, seeds, *others = plot.figure.axes[0].get_lines()
    assert len(others) == 2, "what is far off is told, not drawn"
    assert list(bar.get_xdata()) == pytest.approx([0.7, 0.9])
    assert list(seeds.get_xdata()) == [0.7, 0.8, 0.9]
    said = markdown_controls([Records("mini", None, {"opponents": {"arms": entry}})])
    assert "rival, 20 steps: GenAcc 0.800 [0.700, 0.900], by seed 0.700, 0.800, 0.900" in said
    assert "opponents: not recorded" in seeds_plot({}).text  # type: ignore[union-attr]
