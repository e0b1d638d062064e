"""No figure in the README or in a notebook's text is typed by hand: they come from the records, or from the paper."""

from __future__ import annotations

import json
import re
import shutil
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
from s3mini.report.readme import (
    BEGIN,
    CLAIMS,
    END,
    PICTURE,
    claims_page,
    overview,
    results_section,
    write_readme,
)
from s3mini.report.shipped import PEOPLE, all_shipped, shipped_records
from s3mini.reward import Judge

ROOT = Path(__file__).parents[2]
NOT_RESULTS = {"3.11", "2505.14146", "2.0"}  # Python, the paper, the licence


RECORDS = ROOT / "data" / "mini" / "results"


def decimals(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+", text))


def test_the_readme_shows_the_records() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert BEGIN + results_section(RECORDS) + END in text, "run `s3mini readme`"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    assert decimals(before + after) <= NOT_RESULTS


def test_the_page_of_claims_shows_the_records() -> None:
    assert (ROOT / CLAIMS).read_text(encoding="utf-8") == claims_page(), "run `s3mini readme`"


def test_the_record_of_what_people_accept_is_what_the_judge_says() -> None:
    profile = load_profile("mini")
    judge = Judge(load_model(profile.judge), profile.judge.wordings)
    said = agreement(read_labelled(profile.resolve(LABELLED)), judge)
    assert json.loads((RECORDS / PEOPLE).read_text()) == said, "run `s3mini judge --record`"


def test_records_of_another_profile_stand_beside(tmp_path: Path) -> None:
    """Those of wiki, when they ship: here mini's main run, under that name and without experiments."""
    mini = all_shipped()[0]
    other = load_profile("wiki").model_copy(update={"records": str(tmp_path)})
    assert shipped_records(other) is None
    shutil.copy(RECORDS / "seed0.json", tmp_path)
    wiki = shipped_records(other)
    assert wiki is not None and (wiki.profile, wiki.experiments, wiki.people) == ("wiki", {}, None)
    page = claims_page([mini, wiki])
    assert "| At `mini` | n | Verdict | At `wiki` | n | Verdict |" in page
    assert re.search(r"At `wiki`: paper \+1\.0, .*\*\*contradicted\*\*\.\nNo cause is known\.", page)
    assert "At the profile `wiki`, in the same form" in results_section(RECORDS, [mini, wiki])


def test_the_readmes_picture_shows_the_records() -> None:
    drawn, shipped = BytesIO(overview(RECORDS).png(dpi=150)), RECORDS / PICTURE
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
