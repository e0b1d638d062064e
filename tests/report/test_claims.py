"""The claims board: verdicts follow from the intervals, and what was not run is not measured."""

from __future__ import annotations

from typing import Any

import pytest

from s3mini.report import beside_paper
from s3mini.report.causes import NOT_MEASURED
from s3mini.report.claims import claims, claims_table, markdown_claims, side
from s3mini.report.shipped import Records, all_shipped


def estimate(mean: float, half: float = 0.01) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - half, mean + half], "n": 1200}


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.1, "shown"), (0.005, "not shown"), (-0.005, "not shown"), (-0.1, "contradicted")]
)
def test_a_verdict_is_where_the_interval_lies(mean: float, verdict: str) -> None:
    assert side(estimate(mean)) == verdict


def board(
    results: dict[str, Any] | None = None, experiments: dict[str, Any] | None = None, profile: str = "mini"
) -> dict[str, Any]:
    return {claim.text: claim for claim in claims(Records(profile, results, experiments or {}))}


def test_without_results_nothing_is_measured() -> None:
    empty = board()
    assert {claim.verdict for claim in empty.values()} == {"not measured"}
    assert (
        empty["s3 beats every baseline"].theirs == "+1.0"
    )  # the means of the printed sets; the printed averages differ by 1.1
    assert empty["beginning with a search helps"].theirs == "+4.2"
    assert empty["s3 needs far fewer examples than its opponents"].theirs == "71 × fewer"


def test_the_best_baseline_is_the_one_to_beat() -> None:
    methods = {
        name: {"average": {"gen_acc": value}}
        for name, value in (
            ("rag-dense", 0.4),
            ("ircot", 0.8),
            ("s3-untrained", 0.9),
            ("s3", 0.7),
            ("oracle", 1),
        )
    }
    found = board({"methods": methods, "differences": {"s3 - ircot": {"average": estimate(-0.1)}}})
    claim = found["s3 beats every baseline"]
    assert claim.verdict == "contradicted" and "to ircot" in claim.ours
    assert claim.cause is not None and "ends before" in claim.about


def test_to_beat_every_baseline_the_trained_ones_must_have_been_run() -> None:
    methods = {name: {"average": {"gen_acc": 0.5}} for name in ("s3", "rag-dense", "search-r1")}
    differences = {f"s3 - {name}": {"average": estimate(0.1)} for name in methods}
    claim = board({"methods": methods, "differences": differences})["s3 beats every baseline"]
    assert (claim.verdict, claim.why) == ("not shown", "without deepretrieval, not trained here")
    methods["deepretrieval"] = {"average": {"gen_acc": 0.4}}
    claim = board({"methods": methods, "differences": differences})["s3 beats every baseline"]
    assert (claim.verdict, claim.why) == ("shown", "")


def test_over_seeds_the_hardest_opponent_is_the_one_to_beat() -> None:
    results = {
        "methods": {"s3": {"average": {"gen_acc": 0.9}}, "search-r1": {"average": {"gen_acc": 0.8}}},
        "differences": {"s3 - search-r1": {"average": estimate(0.1)}},
    }
    assert board(results)["s3 beats every baseline"].ours == "+10.0 [+9.0, +11.0] (to search-r1)"
    arms = {
        name: {"average": {"gen_acc": gen_acc}, "difference": estimate(mean)}
        for name, gen_acc, mean in (("s3", 0.95, 0), ("a", 0.8, -0.1), ("b", 0.92, 0.02))
    }
    found = board(results, {"opponents": {"arms": arms, "seeds": [0, 1, 2]}})["s3 beats every baseline"]
    assert found.ours == "-2.0 [-3.0, -1.0] (to b; over 3 seeds)"
    assert found.verdict == "contradicted"


def curve(*points: tuple[int, float]) -> list[dict[str, Any]]:
    return [{"examples": x, "seconds": 2.0 * x, "gen_acc": y, "ci95": [y, y]} for x, y in points]


def test_examples_are_counted_to_the_best_opponents_accuracy() -> None:
    curves = {"s3": curve((0, 0.4), (100, 0.7), (400, 0.9)), "search-r1": curve((0, 0.5), (1200, 0.6)),
              "deepretrieval": curve((1200, 0.5))}  # fmt: skip
    found = board(experiments={"efficiency": {"curves": curves, "n": 600}})
    claim = found["s3 needs far fewer examples than its opponents"]
    assert claim.verdict == "shown" and claim.ours.startswith("12.0 ×")
    curves["search-r1"] = curve((100, 0.95))
    assert (
        board(experiments={"efficiency": {"curves": curves, "n": 600}})["… and less time"].verdict
        == "contradicted"
    )


def test_trainings_that_shared_the_machine_are_not_timed() -> None:
    curves = {"s3": curve((0, 0.9)), "search-r1": [{**point, "seconds": None} for point in curve((100, 0.8))]}
    found = board(experiments={"efficiency": {"curves": curves, "n": 600}})
    assert found["… and less time"].verdict == "not measured"
    assert found["s3 needs far fewer examples than its opponents"].verdict == "shown"


def test_an_ablation_is_read_as_full_minus_arm() -> None:
    arms = {
        "full": {},
        "no selection": {"difference": estimate(0.0)},
        "no begin": {"difference": estimate(-0.2)},
    }
    found = board(experiments={"loop": {"arms": arms}})
    assert found["beginning with a search helps"].verdict == "shown"
    assert found["beginning with a search helps"].ours.startswith("+20.0")
    assert found["selecting documents helps"].verdict == "not shown"


def test_boards_stand_side_by_side_and_name_the_profile_of_a_cause() -> None:
    arms = {"full": {}, "no selection": {"difference": estimate(0.1)}}
    mini, wiki = (claims(Records(name, None, {"loop": {"arms": arms}})) for name in ("mini", "wiki"))
    lines = markdown_claims({"mini": mini, "wiki": wiki}).splitlines()
    assert len(lines) == len(mini) + 2
    assert lines[0] == "| Claim | Paper | At `mini` | n | Verdict | At `wiki` | n | Verdict |"
    table = claims_table({"mini": mini, "wiki": wiki})
    assert "not measured" in table.text and "mini: This generator is not misled" in table.html
    assert "wiki: " not in table.html and "mini: " not in claims_table({"mini": mini}).html


def test_a_board_on_which_nothing_is_measured_is_a_sentence() -> None:
    mini = claims(
        Records("mini", None, {"loop": {"arms": {"full": {}, "other": {"difference": estimate(0.1)}}}})
    )
    none = claims(Records("wiki"))
    table = claims_table({"mini": mini, "wiki": none})
    assert "wiki" not in table.text and "At wiki no claim is measured yet." in table.html
    assert "wiki" in claims_table({"wiki": none}).text, "the only one is shown"


def test_a_cause_is_shown_only_where_its_claim_fails_and_only_at_its_profile() -> None:
    text, better = "selecting documents helps", {"full": {}, "no selection": {"difference": estimate(-0.1)}}
    worse = {"full": {}, "no selection": {"difference": estimate(0.1)}}
    assert board(experiments={"loop": {"arms": better}})[text].cause is None
    assert board()[text].cause is None
    assert board(experiments={"loop": {"arms": worse}})[text].cause is not None
    assert board(experiments={"loop": {"arms": worse}}, profile="smoke")[text].cause is None


def test_every_claim_that_fails_at_mini_has_a_cause_and_a_control_that_was_recorded() -> None:
    (mini,) = (records for records in all_shipped() if records.profile == "mini")
    failing = [claim for claim in claims(mini) if claim.fails]
    assert failing
    for claim in failing:
        assert claim.cause is not None, claim.text
        assert not any(letter.isdecimal() for letter in claim.cause.text.replace("s3", "").replace("R1", ""))
        found = [control.found(mini) for control in claim.cause.controls]
        assert any(figure != NOT_MEASURED for figure in found), claim.text
        assert {control.found(Records("mini")) for control in claim.cause.controls} == {NOT_MEASURED}


def test_the_papers_averages_are_those_it_prints() -> None:
    printed = {"qwen-7b": 56.1, "qwen-14b": 57.6, "claude-3-haiku": 58.9}
    assert {g: round(100 * (beside_paper.average("s3", g) or 0), 1) for g in printed} == printed
    assert beside_paper.average("search-o1", "qwen-7b") is None
    assert beside_paper.ablation("loop", 9) is None and beside_paper.ablation("filter", 0) is None
