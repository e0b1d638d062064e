"""The tables and the plot of the experiments, on small made-up entries."""

from __future__ import annotations

from typing import Any

from s3mini.report.beside_paper import ablation_table, efficiency_plot, markdown_ablation, paper_table
from s3mini.report.human_check import agreement_table
from s3mini.report.page import cost_table


def figures(value: float) -> dict[str, Any]:
    return {
        "n": 10,
        "gen_acc": value,
        "ci95": [value - 0.1, value + 0.1],
        "em": value,
        "span": value,
        "f1": value,
    }


def method(value: float) -> dict[str, Any]:
    costs = {"searches_per_question": 1.5, "searcher_tokens": 40, "context_tokens": 90, "generator_tokens": 120,
             "seconds_per_question": 0.25}  # fmt: skip
    return {"sets": {"nq": figures(value), "own": figures(value)}, "average": figures(value), **costs}


RESULTS = {"methods": {"rag-dense": method(0.4), "s3": method(0.9), "oracle": method(1.0)}}
ARM = {
    "settings": {},
    **method(0.5),
    "difference": {"n": 10, "mean": -0.2, "ci95": [-0.3, -0.1]},
    "seconds": 1.0,
}
ENTRY = {"seed": 0, "n": 10, "arms": {"full": ARM, "no selection": ARM, "no begin": ARM}}


def test_the_papers_figures_stand_beside_ours_where_it_has_the_set() -> None:
    text = paper_table(RESULTS).text
    assert "40.0" in text and "66.5" in text  # rag-dense on nq
    assert "58.9" in text and "–" in text  # s3's average; a set of our own


def test_costs_are_per_question() -> None:
    assert "1.50" in cost_table(RESULTS).text and "0.250" in cost_table(RESULTS).text


def test_an_ablation_shows_difference_and_the_papers_average() -> None:
    text = ablation_table("loop", ENTRY).text
    assert "-20.0 [-30.0, -10.0]" in text and "55.1" in text  # the paper's average without begin
    lines = markdown_ablation({"loop": ENTRY, "efficiency": {"curves": {}}}).splitlines()
    assert len(lines) == 2 + 3 and lines[2].startswith("| loop | full | 0.500 [0.400, 0.600] | – |")


def test_the_efficiency_plot_says_the_best_of_each() -> None:
    curve = [{"examples": x, "seconds": x, "gen_acc": y, "ci95": [y, y]} for x, y in ((0, 0.4), (100, 0.8))]
    plot = efficiency_plot(
        {"seed": 0, "n": 10, "threads": 1, "curves": {"s3": curve, "search-r1": curve[:1]}}
    )
    assert "s3 80.0 %" in plot.caption and "search-r1 40.0 %" in plot.caption
    assert plot.png().startswith(b"\x89PNG")


def test_agreement_names_its_numbers() -> None:
    side = {"mean": 0.75, "ci95": [0.5, 1.0], "n": 4}
    table = agreement_table({"em": {"finds": side, "false": side}}, (51, 45))
    assert "75.0" in table.text and "n\xa0=\xa051" in table._repr_html_()
