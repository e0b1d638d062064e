"""The notebooks' house rules, and their runner: parameters, failures, copies for nbval."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import s3mini
import s3mini.classroom.notebooks
import s3mini.profile
from s3mini.classroom.notebooks import (
    NotebookError,
    check_parameters,
    clock,
    find,
    parameter_names,
    prepare,
    reproduce,
    saved_profile,
)
from s3mini.errors import StageError
from s3mini.profile import ROOT, load_profile

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
CHECKED = "nbval-check-output"
ABSOLUTE = re.compile(r"""["'](/(?:home|Users|root|tmp|work|opt|mnt|content)\b|[A-Za-z]:\\)""")


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def plain_python(source: str) -> str:
    """The cell without the lines only IPython understands."""
    return "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())


def test_the_road_is_complete() -> None:
    assert [n.name[:2] for n in NOTEBOOKS] == [f"{i:02d}" for i in range(len(NOTEBOOKS))]
    assert len(NOTEBOOKS) >= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestRules:
    def test_one_title_on_top(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        text = re.sub(r"```.*?```", "", text, flags=re.S)
        assert len(re.findall(r"^# ", text, flags=re.M)) == 1
        assert cells[0].cell_type == "markdown"
        assert cells[0].source.startswith("# ")

    def test_profile_and_seed_are_its_parameters(self, path: Path) -> None:
        assert {"PROFILE", "SEED"} <= set(parameter_names(path))
        (tagged,) = (c for c in code_cells(path) if "parameters" in c.metadata.get("tags", []))
        defaults: dict[str, object] = {}
        exec(tagged.source, defaults)
        command_line = inspect.signature(reproduce).parameters
        assert defaults["PROFILE"] == command_line["profile_name"].default
        assert defaults["SEED"] == command_line["seed"].default, "JupyterLab and make would train apart"

    def test_checked_cells_have_something_to_check(self, path: Path) -> None:
        """nbval passes a checked cell without stored outputs in silence."""
        for cell in code_cells(path):
            if CHECKED in cell.metadata.get("tags", []):
                assert [o for o in cell.outputs if o.output_type != "error"], cell.source
                assert not any(o.output_type == "stream" and o.name == "stderr" for o in cell.outputs)

    def test_no_stored_error(self, path: Path) -> None:
        assert not [o for cell in code_cells(path) for o in cell.outputs if o.output_type == "error"]

    def test_cells_are_short_and_hold_no_class(self, path: Path) -> None:
        for cell in code_cells(path):
            assert len(cell.source.splitlines()) <= 25, cell.source
            tree = ast.parse(plain_python(cell.source))
            assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree)), cell.source

    def test_no_absolute_path_and_no_install(self, path: Path) -> None:
        for cell in code_cells(path):
            assert not ABSOLUTE.search(cell.source), cell.source
            assert "pip install" not in cell.source
        stored = "".join(str(cell.outputs) for cell in code_cells(path))
        assert str(Path.home()) + "/" not in stored
        assert not re.search(r"/(home|Users|root|work)/", stored), "a stored output names a machine's folder"


# the frame that notebooks share

ROWS = ["You learn", "Reads", "Writes", "Package", "Paper", "Needs"]
SETUP = """\
from s3mini import load_profile
from s3mini.classroom.notebooks import check_parameters
from s3mini.runs.machine import cap_threads, machine, versions

check_parameters()
profile = load_profile(PROFILE)
cap_threads(profile.threads)
print(versions(), machine(), sep="\\n")"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestFrame:
    def test_it_opens_like_the_others(self, path: Path) -> None:
        head, parameters, setup = nbformat.read(path, as_version=4).cells[:3]
        assert head.source.startswith(f"# {int(path.name[:2])}. ")
        assert re.findall(r"^\| ([A-Z].*?) \|", head.source, flags=re.M) == ROWS
        assert parameters.metadata.tags == ["parameters"]
        assert setup.source == SETUP

    def test_sections_are_numbered_in_order(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        number = int(path.name[:2])
        found = re.findall(r"^## (\d+)\.(\d+) ", text, flags=re.M)
        assert found == [(str(number), str(i)) for i in range(1, len(found) + 1)]
        assert len(found) == len(re.findall(r"^## ", text, flags=re.M))

    def test_the_names_of_the_package_come_from_the_package(self, path: Path) -> None:
        front = {(room, name) for room, names in s3mini._NAMES.items() for name in names}
        for cell in code_cells(path):
            for node in ast.walk(ast.parse(plain_python(cell.source))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("s3mini."):
                    room = str(node.module).split(".")[1]
                    assert not [a.name for a in node.names if (room, a.name) in front], cell.source

    def test_it_ends_with_exercises_and_what_comes_next(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        last = path == NOTEBOOKS[-1]
        assert last or re.search(r"^Next: notebook \d\d ", cells[-1].source, flags=re.M)
        assert any('print(check("' in cell.source for cell in code_cells(path))
        assert (
            "<details><summary>Solution</summary>" in cells[-1].source + cells[-2].source + cells[-3].source
        )

    def test_links_between_notebooks_hold(self, path: Path) -> None:
        names = {p.name for p in NOTEBOOKS}
        cells = nbformat.read(path, as_version=4).cells
        linked = {n for c in cells for n in re.findall(r"\]\((\w+\.ipynb)\)", c.source)}
        assert linked <= names


def test_some_cells_are_checked() -> None:
    tags = [tag for path in NOTEBOOKS for cell in code_cells(path) for tag in cell.metadata.get("tags", [])]
    assert tags.count(CHECKED) >= len(NOTEBOOKS)


# the runner

PARAMETERS = new_code_cell('PROFILE: str = "mini"\nSEED = 0', metadata={"tags": ["parameters"]})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(s3mini.profile, "ROOT", tmp_path)
    monkeypatch.setattr(s3mini.classroom.notebooks, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def write(root: Path, name: str, *sources: str) -> Path:
    cells = [new_markdown_cell("# T"), PARAMETERS, *(new_code_cell(s) for s in sources)]
    path = root / "notebooks" / name
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_notebooks_run_in_order_in_the_root_with_their_parameters(root: Path) -> None:
    write(root, "01_b.ipynb", "open('log', 'a').write(f'b {PROFILE} {SEED}\\n');")
    write(root, "00_a.ipynb", "open('log', 'a').write(f'a {PROFILE} {SEED}\\n');")
    told: list[str] = []
    done = reproduce("smoke", 4, tell=told.append)
    assert (root / "log").read_text() == "a smoke 4\nb smoke 4\n"
    assert [d.path for d in done] == [
        root / "build/smoke/notebooks" / n for n in ("00_a.ipynb", "01_b.ipynb")
    ]
    assert all(d.path.exists() for d in done)
    assert "[1/2] 00_a.ipynb" in told
    assert str(Path("build/smoke/notebooks")) in told[-1]


def test_a_failing_notebook_is_named_kept_and_stops_the_road(root: Path) -> None:
    write(root, "00_a.ipynb", "x = 1", "# why\nraise ValueError('no luck')", "y = 2")
    write(root, "01_b.ipynb", "open('log', 'w');")
    with pytest.raises(NotebookError) as caught:
        reproduce("smoke", tell=lambda _: None)
    message = str(caught.value)
    assert message.startswith("00_a.ipynb, cell In [4] (# why): ValueError: no luck")
    assert "build/smoke/notebooks/00_a.ipynb" in message
    kept = code_cells(root / "build/smoke/notebooks/00_a.ipynb")
    assert [o.ename for cell in kept for o in cell.outputs if o.output_type == "error"] == ["ValueError"]
    assert not (root / "log").exists()


def test_a_misspelt_parameter_runs_nothing(root: Path) -> None:
    write(root, "00_a.ipynb", "open('log', 'w');")
    with pytest.raises(NotebookError, match=r"'SED': did you mean SEED\? valid: PROFILE, SEED"):
        reproduce("smoke", parameters={"SED": 1}, tell=lambda _: None)
    assert not (root / "log").exists()
    assert not (root / "build").exists()


def test_nothing_to_run_is_an_error(root: Path) -> None:
    with pytest.raises(StageError, match="no notebooks here"):
        find()
    write(root, "00_a.ipynb")
    with pytest.raises(NotebookError, match=r"no notebook begins with 07: 00_a\.ipynb"):
        reproduce("smoke", only=["07"], tell=lambda _: None)
    (root / "notebooks" / "bad.ipynb").write_text("{")
    with pytest.raises(NotebookError, match=r"bad\.ipynb: not a notebook"):
        parameter_names(root / "notebooks" / "bad.ipynb")


def test_overrides_travel_as_a_profile_file(root: Path) -> None:
    assert saved_profile("smoke", {}) == (load_profile("smoke"), "smoke")
    profile, value = saved_profile("smoke", {"name": "other", "grpo.steps": 9})
    assert value == str(root / "build/other/profile.yaml")
    assert load_profile(value) == profile
    assert profile.grpo.steps == 9


def test_copies_for_nbval_keep_outputs_and_change_parameters(root: Path) -> None:
    path = write(root, "00_a.ipynb", "SEED + 1")
    book = nbformat.read(path, as_version=4)
    book.cells[-1].outputs = [new_output("execute_result", {"text/plain": "1"}, execution_count=2)]
    nbformat.write(book, path)
    (root / "copies").mkdir()
    (root / "copies" / "gone.ipynb").write_text("{}")
    (copy,) = prepare([path], root / "copies", {"PROFILE": "smoke", "SEED": 5})
    assert list((root / "copies").iterdir()) == [copy]
    cells = code_cells(copy)
    assert 'PROFILE = "smoke"' in cells[1].source
    assert "SEED = 5" in cells[1].source
    assert cells[2].outputs[0].data["text/plain"] == "1"
    with pytest.raises(NotebookError, match="no notebook has a parameter 'OTHER'"):
        prepare([path], root / "copies", {"OTHER": 1})


def test_inside_a_notebook_injected_names_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    history = ["", 'PROFILE = "mini"', '# Parameters\nPROFLE = "smoke"\n']
    shell = SimpleNamespace(user_ns={"In": history})
    monkeypatch.setitem(__import__("sys").modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with pytest.raises(NotebookError, match="no parameter 'PROFLE'; valid: PROFILE"):
        check_parameters()
    history[2] = '# Parameters\nPROFILE = "smoke"\n'
    check_parameters()
    shell.user_ns = {"In": ["", "x = 1"]}
    check_parameters()


def test_clock() -> None:
    assert [clock(s) for s in (0.4, 59.6, 61, 3600)] == ["0:00", "1:00", "1:01", "60:00"]
