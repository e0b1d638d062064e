"""No figure in the README or in a notebook's text is typed by hand: they come from the records, or from the paper."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from s3mini.classroom.notebooks import find
from s3mini.errors import DataError
from s3mini.models.local import load_model
from s3mini.profile import load_profile
from s3mini.report.beside_paper import paper
from s3mini.report.human_check import LABELLED, agreement, read_labelled
from s3mini.report.readme import BEGIN, END, PICTURE, overview, results_section, write_readme
from s3mini.reward import Judge

ROOT = Path(__file__).parents[2]
NOT_RESULTS = {"3.11", "2505.14146", "2.0"}  # Python, the paper, the licence


@pytest.fixture(scope="module")
def section() -> str:
    profile = load_profile("mini")
    judge = Judge(load_model(profile.judge), profile.judge.wordings)
    people = agreement(read_labelled(profile.resolve(LABELLED)), judge)
    return results_section(ROOT / "data" / "mini" / "results", people)


def decimals(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+", text))


def test_the_readme_shows_the_records(section: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert BEGIN + section + END in text, "run `s3mini readme`"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    assert decimals(before + after) <= NOT_RESULTS


def test_the_readmes_picture_shows_the_records() -> None:
    records = ROOT / "data" / "mini" / "results"
    drawn, shipped = BytesIO(overview(records).png(dpi=150)), records / PICTURE
    assert np.allclose(imread(drawn), imread(shipped), atol=0.01), "run `s3mini readme`"


@pytest.mark.parametrize("notebook", find(), ids=lambda path: path.stem)
def test_a_notebooks_text_holds_figures_of_the_paper_only(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", text, flags=re.DOTALL)
    chapter = int(notebook.stem[:2])
    sections = {number for number in decimals(text) if number.startswith(f"{chapter}.")}
    assert decimals(text) - sections <= set(map(str, figures(paper()))) | NOT_RESULTS


def figures(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for v in value.values() for x in figures(v)]
    if isinstance(value, list):
        return [x for v in value for x in figures(v)]
    return [value] if isinstance(value, float) else []


def test_writing_replaces_what_stands_between_the_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}old\n{END}after\n")
    write_readme(readme, "new\n")
    assert readme.read_text() == f"before\n{BEGIN}new\n{END}after\n"
    readme.write_text("no marks")
    with pytest.raises(DataError, match="no <!--"):
        write_readme(readme, "new\n")
