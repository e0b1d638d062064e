"""The report: untrusted text escaped, deterministic text forms, figures where they belong, one file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from evaluation_toys import ToyEvaluation, make_evaluation
from hypothesis import given, settings
from hypothesis import strategies as st
from rag_toys import ToyGenerator

from s3mini.errors import DataError
from s3mini.evaluation import evaluate
from s3mini.methods import METHODS
from s3mini.profile import Profile
from s3mini.records import Document, Episode, Hit, Question, Score, Turn
from s3mini.report.html import Cell, Row, episode_html, side_by_side, table
from s3mini.report.page import (
    blame_table,
    differences_table,
    episodes_before_after,
    headline,
    read_seeds,
    results_table,
    seeds_table,
    selection_table,
    write_report,
)
from s3mini.report.plots import accuracy_plot, differences_plot, learning_curves, running_mean, tokens_plot
from s3mini.report.tables import percent
from s3mini.results import read_results

EVIL = "<script>alert(\"x\")</script></information><b onclick='y'>&amp;"
CURVE = [{"step": i, "reward": i / 10, "gen_acc": i / 10, "kl": None, "searches": 1.0} for i in range(1, 9)]


class Reader(HTMLParser):
    """Tags, attributes, visible text and style classes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def episode(evil: str = EVIL, selected: tuple[str, ...] | None = ("b",)) -> Episode:
    a, b = Document("a", f"first {evil}", f"text {evil}"), Document("b", "second", "its text")
    turns = (
        Turn(f"<think>{evil}</think> {evil}", f"query {evil}", False, None, (Hit(a, 2.0), Hit(b, 1.0)), True),
        Turn(f"{evil}", None, True, selected, (), False, f"problem {evil}"),
    )
    question = Question("q", f"who {evil}?", (f"gold {evil}",), {"gold_ids": ["b"]})
    return Episode(question, (), (), (), (), turns, (Hit(a, 1.0),), (a, b), "complete")


# ------------------------------------------------------------------------------ episodes


def test_untrusted_text_is_shown_and_never_becomes_markup() -> None:
    shown = episode_html(episode(), f"answer {EVIL}", Score("x", 0.0, 0.0, False, False), set_name=EVIL)
    page = Reader(shown._repr_html_())
    assert "script" not in page.tags and "b" in page.tags  # <b> is the template's own, for titles
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for said in ("who", "first", "text", "query", "problem", "answer", "gold"):
        assert f"{said} {EVIL}" in page.text


safe_tags = {
    "style",
    "div",
    "article",
    "header",
    "section",
    "span",
    "ol",
    "ul",
    "li",
    "b",
    "i",
    "code",
    "pre",
}
safe_tags |= {"details", "summary"}


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("<>/&\"'abc=! -{}%#\n"), max_size=30))
def test_no_text_can_open_a_tag(evil: str) -> None:
    page = Reader(episode_html(episode(evil), evil)._repr_html_())
    assert set(page.tags) <= safe_tags
    assert {name for name, _ in page.attributes} <= {"class", "open"}


def kept(html: str) -> list[tuple[str, bool]]:
    """(title, whether it is marked as kept) of the documents shown in blocks, the context's left out."""
    blocks = html.split("What the generator reads")[0]
    return [
        (title, 'class="kept"' in item)
        for item in re.findall(r"<li.*?</li>", blocks, re.DOTALL)
        for title in re.findall(r"<b>(\w+)", item)
    ]


def test_selected_documents_stand_out_and_an_unjudged_block_is_kept_whole() -> None:
    chosen = episode_html(episode("", ("b",))).html
    assert kept(chosen) == [("first", True), ("first", False), ("second", True)]
    whole = episode_html(episode("", None)).html
    assert kept(whole) == [("first", True), ("first", True), ("second", True)]
    dropped = episode_html(episode("", ())).html
    assert kept(dropped) == [("first", True), ("first", False), ("second", False)]
    assert chosen.count("★") == 2  # the gold document, where it is shown and in the context


def bare(html: str) -> list[str]:
    """The lines a reader sees where styles and classes are dropped: an item of an ordered list has its number."""

    class Bare(HTMLParser):
        lines, counts = [""], [0]
        hidden = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.hidden = self.hidden or tag == "style"
            if tag in ("ol", "ul"):
                self.counts.append(0 if tag == "ol" else -99)
            if tag in ("div", "section", "li", "tr", "br", "pre", "summary", "h4", "p"):
                self.lines.append("")
            if tag == "li":
                self.counts[-1] += 1
                self.lines[-1] = f"{self.counts[-1]}. " if self.counts[-1] > 0 else "- "
            if tag in ("td", "th"):
                self.lines[-1] += "| "

        def handle_endtag(self, tag: str) -> None:
            self.hidden = self.hidden and tag != "style"

        def handle_data(self, data: str) -> None:
            if not self.hidden:
                self.lines[-1] += data

    reader = Bare()
    reader.lines, reader.counts = [""], [0]
    reader.feed(html)
    return [" ".join(line.split()) for line in reader.lines if line.strip()]


def test_an_episode_reads_the_same_without_its_style_sheet() -> None:
    shown = episode_html(episode(""), "Rome", Score("Rome", 1.0, 1.0, True, None), set_name="nq")
    lines = bare(shown._repr_html_())
    for line in (
        "Question (nq)",
        "✓ answered · 1 search · 2 documents for the generator · ended: searcher said complete",
        "First look: retrieved for the question itself",
        "1. first [✓ kept] text",
        "Turn 1: the searcher writes",
        "- searches: query",
        "1. first [✗ left out] text",
        "2. second [★ gold] [✓ selected] its text",
        "- selects 1 of the block above",
        "2. second [★ gold]",
        "- generator: Rome (✓ right)",
        "- accepted: gold",
    ):
        assert line in lines, line


def test_what_stands_out_in_a_table_does_so_by_its_tags() -> None:
    rows = [
        Row("s3", [Cell("0.9", "[0.8, 1.0]", "best")], "ours", "ours"),
        Row("oracle", ["1.0"], kind="bound"),
    ]
    html = table(["method", ("GenAcc", "n = 3")], rows).html
    assert "<td><b>s3</b><br><small>ours</small></td>" in html and "<i>oracle</i>" in html
    assert "n\xa0=\xa03" in html and "[0.8,\xa01.0]" in html, "neither breaks over two lines"
    plain = bare(html.replace("\xa0", " "))
    assert plain == ["| method| GenAcc", "n = 3", "| s3", "ours| 0.9", "[0.8, 1.0]", "| oracle| 1.0"]


def test_the_verdict_is_the_scores() -> None:
    right = episode_html(episode(), "x", Score("x", 1.0, 1.0, True, None)).html
    wrong = episode_html(episode(), "x", Score("x", 0.0, 0.0, False, False)).html
    assert "✓ answered" in right and "span match: an accepted" in right
    assert "✗ not answered" in wrong and "the judge said no" in wrong
    assert "answered" not in episode_html(episode("")).html


def test_text_form_tells_the_whole_episode() -> None:
    text = repr(episode_html(episode("!"), "Rome", Score("Rome", 1.0, 1.0, True, None)))
    assert text.splitlines() == [
        "Question: who !?",
        "  first look   + first !",
        "  turn 1       query: query !",
        "    retrieved  - first !; + second",
        "  turn 2       complete  [invalid: problem !]",
        "  context      first !; second",
        "  answer       Rome  (right)",
        "  accepted     gold !",
    ]


def test_an_episode_without_turns_or_documents() -> None:
    empty = Episode(Question("q", "who?", ("x",)), (), (), (), (), (), (), (), "length")
    shown = episode_html(empty)
    assert "no documents" in shown.html and "length limit" in shown.html
    assert "context      none" in shown.text


def test_side_by_side_keeps_both() -> None:
    pair = side_by_side({"before <x>": episode_html(episode()), "after": episode_html(episode("two"))})
    assert pair.html.count("<article") == 2 and "before &lt;x&gt;" in pair.html
    assert "<script" not in pair.html


# ----------------------------------------------------------------------- tables and plots


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    return make_evaluation(tmp_path)


@pytest.fixture
def results(profile: Profile, tmp_path: Path) -> dict[str, Any]:
    bench = ToyEvaluation(profile, ToyGenerator(tmp_path / "asked.log"))
    bench._searcher = {"s3": tmp_path / "model"}
    folder = profile.build / "train" / "s3-seed0"
    folder.mkdir(parents=True)
    (folder / "curve.jsonl").write_text("".join(json.dumps(step) + "\n" for step in CURVE))
    return evaluate(profile, bench=bench, progress=False)


def test_results_table_prints_every_method_and_figure(results: dict[str, Any]) -> None:
    lines = repr(results_table(results)).splitlines()
    heads = ["method", "nq", "hotpotqa", "average", "span", "EM", "context", "searches"]
    assert lines[0].split() == heads
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert list(rows) == list(results["methods"])
    assert rows["s3"][:3] == ["50.0", "50.0", "50.0"] and rows["direct"][:3] == ["0.0", "0.0", "0.0"]
    assert rows["s3"][-1] == "1.00"


def test_best_is_marked_per_column_and_never_the_oracle(results: dict[str, Any]) -> None:
    results["methods"]["s3"]["sets"]["nq"]["gen_acc"] = 0.6
    results["methods"]["oracle"]["sets"]["nq"]["gen_acc"] = 0.9
    html = results_table(results).html
    rows = {
        name: re.split(rf"<td>(?:<[bi]>)?{name}<", html)[1].split("</tr>")[0] for name in results["methods"]
    }
    assert '<td class="best"><b>60.0' in rows["s3"]
    assert '<td class="best">' not in rows["oracle"] and ">90.0" in rows["oracle"]
    assert '<td class="best"><b>50.0' not in rows["rag-dense"].split("</td>")[0]


def test_differences_and_selection_say_sign_and_interval(results: dict[str, Any]) -> None:
    text = repr(differences_table(results))
    assert "s3 − s3-untrained" in text and "+50.0 [" in text and "+0.0 [0.0, 0.0]" in text
    assert "selected" in repr(selection_table(results))
    assert "times shorter" in selection_table(results).html


def test_blame_falls_on_the_side_that_failed(profile: Profile, results: dict[str, Any]) -> None:
    lines = repr(blame_table(profile, ["s3", "s3-untrained", "direct"])).splitlines()[1:]
    # s3 always brings the gold document, and half of those do not name the river
    assert [line.split() for line in lines] == [
        ["s3", "50.0", "0.0", "50.0"],
        ["s3-untrained", "0.0", "100.0", "0.0"],
        ["direct", "0.0", "100.0", "0.0"],
    ]


def test_seeds_stand_side_by_side_and_reach_the_report(profile: Profile, results: dict[str, Any]) -> None:
    assert "Other training seeds" not in write_report(profile).read_text(encoding="utf-8")
    second = json.loads(json.dumps(results)) | {"seed": 12}
    second["methods"]["s3"]["average"]["gen_acc"] = 0.75
    (profile.build / "evaluation" / "results-seed12.json").write_text(json.dumps(second))
    assert [run["seed"] for run in read_seeds(profile)] == [0], "the same searcher is no second training"
    second["searchers"] = {"s3": "another"}
    (profile.build / "evaluation" / "results-seed12.json").write_text(json.dumps(second))
    runs = read_seeds(profile)
    assert [run["seed"] for run in runs] == [0, 12]
    rows = [line.split()[:3] for line in repr(seeds_table(runs)).splitlines()[1:]]
    assert rows == [["seed", "0", "50.0"], ["seed", "12", "75.0"]]
    assert "Other training seeds" in write_report(profile).read_text(encoding="utf-8")


def test_headline_tells_chance_from_gain(results: dict[str, Any]) -> None:
    text = headline(results)
    assert "answers 50.0 % of the questions" in text
    assert "Against s3-untrained: +50.0 points" in text
    assert text.endswith("Against rag-dense: +0.0 points [0.0, 0.0], which may be luck.")
    assert "direct" in headline({"methods": {"direct": {}}, "differences": {}})


def test_plots_draw_the_same_bytes_twice_and_say_what_they_show(results: dict[str, Any]) -> None:
    for draw in (accuracy_plot, differences_plot, tokens_plot):
        first, second = draw(results), draw(results)
        assert first.png() == second.png() and first.png().startswith(b"\x89PNG")
        assert repr(first).startswith("[plot] ")


def test_accuracy_plot_shows_the_figures(results: dict[str, Any]) -> None:
    (axes,) = accuracy_plot(results).figure.axes
    drawn = [container.lines[0].get_ydata().tolist() for container in axes.containers]
    methods = results["methods"].values()
    assert drawn == [[*(s["gen_acc"] for s in m["sets"].values()), m["average"]["gen_acc"]] for m in methods]


def test_the_names_in_the_accuracy_plot_are_no_wider_than_it(results: dict[str, Any]) -> None:
    method = results["methods"]["s3"]
    figure = accuracy_plot({**results, "methods": dict.fromkeys(METHODS, method)}).figure  # type: ignore[typeddict-item]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(METHODS) and legend.get_window_extent().x1 <= figure.bbox.x1


def test_labels_in_the_tokens_plot_stay_apart(results: dict[str, Any]) -> None:
    places = {
        "oracle": (47, 1.0),
        "search-r1, twice": (146, 0.908),
        "ircot": (181, 0.814),
        "s3": (116, 0.884),
    }
    methods = {n: {"context_tokens": x, "average": {"gen_acc": y}} for n, (x, y) in places.items()}
    selection = {"all": {"context_tokens": 197, "gen_acc": 0.887}}
    (axes,) = tokens_plot({**results, "methods": methods, "selection": selection}).figure.axes  # type: ignore[typeddict-item]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 5 and not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_learning_curves_draw_what_was_recorded_and_leave_out_what_was_not() -> None:
    figure = learning_curves(CURVE, "a run").figure
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == [
        "Reward",
        "GenAcc of the episodes",
        "Searches per question",
    ]
    replacing = learning_curves([step | {"wasted": 0.25} for step in CURVE], "a run").figure
    (wasted,) = [
        axes for axes in replacing.axes if axes.get_title(loc="left") == "Episodes of replaced questions"
    ]
    assert set(wasted.get_lines()[0].get_ydata()) == {0.25} and wasted.get_ylim() == (0, 1.05)
    points, line = shown[0].get_lines()
    assert points.get_ydata().tolist() == [step["reward"] for step in CURVE]
    assert line.get_ydata().tolist() == pytest.approx(running_mean([s["reward"] for s in CURVE], 5))


def test_running_mean_by_hand() -> None:
    assert running_mean([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]


# ------------------------------------------------------------------------------ the report


def test_report_is_one_file_that_fetches_nothing(profile: Profile, results: dict[str, Any]) -> None:
    path = write_report(profile)
    page = Reader(path.read_text(encoding="utf-8"))
    assert path == profile.build / "report.html"
    assert not {"script", "link", "iframe"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 4 and all(
        value and value.startswith("data:image/png;base64,") for value in sources
    )
    for name in results["methods"]:
        assert name in page.text
    assert headline(results) in page.text
    assert "s3-seed0" in page.text  # the training run and its curves
    assert (
        "s3 beats naive RAG" in page.text and "not shown" in page.text
    )  # the claims board, of these results


def test_report_shows_episodes_before_and_after(profile: Profile, results: dict[str, Any]) -> None:
    pairs = episodes_before_after(profile)
    assert [pair.title for pair in pairs] == ["What training gained"] * 2 + ["What still fails"]
    gained = pairs[0]
    assert "(wrong)" in gained.before.text and "(right)" in gained.after.text
    assert gained.before.text.splitlines()[0] == gained.after.text.splitlines()[0]  # the same question
    assert "hotpotqa" in gained.after.text  # the profile's last set first
    assert write_report(profile, results).read_text(encoding="utf-8").count("<article") == 6


def test_report_of_fewer_methods(profile: Profile, tmp_path: Path) -> None:
    bench = ToyEvaluation(profile, ToyGenerator(tmp_path / "asked.log"))
    results = evaluate(profile, ["direct", "oracle"], bench=bench, progress=False)
    page = Reader(write_report(profile, results).read_text(encoding="utf-8"))
    assert "Methods evaluated: direct, oracle." in page.text
    assert "article" not in page.tags


def test_nothing_evaluated_is_an_error_that_says_what_to_run(profile: Profile) -> None:
    with pytest.raises(DataError, match="s3mini evaluate"):
        write_report(profile)
    profile.build.mkdir(parents=True, exist_ok=True)
    (profile.build / "results.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_results(profile.build / "results.json")


def test_a_half_is_rounded_up_as_the_paper_does() -> None:
    assert (percent(0.5155), f"{100 * 0.5155:.1f}") == ("51.6", "51.5"), (
        "in binary a little less than the half"
    )
    assert [percent(value) for value in (None, 0.0, 1.0, 0.88449)] == ["–", "0.0", "100.0", "88.4"]
