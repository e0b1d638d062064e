"""Run the notebooks, in order, at any profile: what ``make reproduce`` does.

Each is executed by papermill into ``build/<profile>/notebooks/``, never over its source. Papermill only
warns of a parameter nobody reads; here it is an error. A notebook that fails is kept as far as it got.
"""

import ast
import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
import yaml

from ..errors import S3Error, StageError
from ..profile import ROOT, Profile, load_profile, shown_path
from ..runs.machine import cap_threads, machine
from ..runs.stages import atomic_write

INJECTED = "# Parameters"  # papermill's heading of the cell it injects
KERNEL = {"kernel_name": "python3", "language": "python"}  # this environment's, whatever the file says


class NotebookError(S3Error, RuntimeError):
    """A notebook failed, or was given a parameter it does not have."""


@dataclass(frozen=True, slots=True)
class Executed:
    """One executed notebook: where it lies, and how many seconds it took."""

    path: Path
    seconds: float


def find() -> list[Path]:
    """The notebooks of the checkout, named by two digits, sorted.

    Raises:
        StageError: there is none.
    """
    folder = ROOT / "notebooks"
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise StageError(f"{folder}: no notebooks here (run from a checkout, or set S3MINI_ROOT to one)")
    return notebooks


def parameter_names(notebook: Path) -> list[str]:
    """Names assigned in the notebook's cell tagged ``parameters``.

    Raises:
        NotebookError: the file cannot be read as a notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError) as error:
        raise NotebookError(f"{notebook}: not a notebook ({error}); restore it from git") from error
    tagged = (c["source"] for c in cells if "parameters" in c.get("metadata", {}).get("tags", []))
    return _assigned("".join(next(tagged, [])))


def _own_parameters(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the parameters that the notebook has."""
    names = parameter_names(notebook)
    return {name: value for name, value in parameters.items() if name in names}


def _assigned(source: str) -> list[str]:
    names = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def check_names(parameters: Mapping[str, Any], notebooks: Sequence[Path]) -> None:
    """Refuse a parameter that none of the notebooks has.

    Raises:
        NotebookError: names the parameter, the nearest spelling and the valid names.
    """
    valid = sorted({name for notebook in notebooks for name in parameter_names(notebook)})
    for name in parameters:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            names = ", ".join(valid) or "none"
            raise NotebookError(f"no notebook has a parameter {name!r}: {hint}valid: {names}")


def check_parameters() -> None:
    """Called inside a notebook: refuse what papermill injected but the parameters cell does not know.

    Does nothing in a plain JupyterLab session, where nothing is injected.

    Raises:
        NotebookError: an injected name that the cell tagged ``parameters`` does not assign.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    cells: list[str] = shell.user_ns.get("In", []) if shell is not None else []
    for known, injected in [
        (_assigned(a), _assigned(b)) for a, b in pairwise(cells) if b.startswith(INJECTED)
    ]:
        for name in injected:
            if name not in known:
                names = ", ".join(known) or "none"
                raise NotebookError(f"this notebook has no parameter {name!r}; valid: {names}")


def saved_profile(profile_name: str, overrides: Mapping[str, Any]) -> tuple[Profile, str]:
    """The profile and the value of PROFILE that notebooks need to load the same one.

    With overrides that is a file, ``build/<name>/profile.yaml``, holding the profile they make.

    Raises:
        ProfileError: unknown profile, key or value.
    """
    profile = load_profile(profile_name, **overrides)
    if not overrides:
        return profile, profile_name
    path = profile.build / "profile.yaml"
    atomic_write(path, yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return profile, str(path)


def prepare(notebooks: Sequence[Path], folder: Path, parameters: Mapping[str, Any]) -> list[Path]:
    """Copies of notebooks with other parameters, stored outputs kept, for nbval to check.

    ``folder`` is emptied of earlier copies first.
    """
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    check_names(parameters, notebooks)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ipynb"):
        old.unlink()
    copies = []
    for notebook in notebooks:
        given = _own_parameters(notebook, parameters)
        node = parameterize_notebook(load_notebook_node(str(notebook)), given, **KERNEL)
        copies.append(atomic_write(folder / notebook.name, nbformat.writes(node)))
    return copies


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> Executed:
    """Run one notebook by papermill in the checkout's root.

    Raises:
        NotebookError: a cell failed or the kernel died; names notebook, cell and error, and where the
            notebook is kept as far as it got.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    own, places = _own_parameters(notebook, parameters), (str(notebook), str(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        papermill.execute_notebook(*places, own, cwd=str(ROOT), start_timeout=180, **KERNEL)
    except (PapermillExecutionError, DeadKernelError, CellTimeoutError) as error:
        if isinstance(error, PapermillExecutionError):
            first = next((line.strip() for line in error.source.splitlines() if line.strip()), "")
            told = f", cell In [{error.exec_count}] ({first[:80]}): {error.ename}: {error.evalue}"
        else:
            told = (
                f": its kernel stopped ({error}); most often the memory ran out: close other programs or "
                "lower the profile's batch sizes, and run again: finished stages are found"
            )
        raise NotebookError(f"{notebook.name}{told}\n  the notebook as far as it got: {output}") from error
    return Executed(output, time.monotonic() - began)


def reproduce(
    profile_name: str = "mini",
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> list[Executed]:
    """Run every notebook in order and tell times, places and the results.

    Args:
        profile_name: value of PROFILE; ``overrides`` are dotted profile keys on top of it.
        seed: value of SEED.
        parameters: further notebook parameters, each of which some notebook must have.
        only: notebook names, or their beginnings, to run instead of all.

    Raises:
        ProfileError, NotebookError, StageError: see `saved_profile`, `execute`, `find`.
    """
    profile, value = saved_profile(profile_name, overrides or {})
    there = find()
    notebooks = [n for n in there if not only or n.name.startswith(tuple(only))]
    if not notebooks:
        names = ", ".join(n.name for n in there)
        raise NotebookError(f"no notebook begins with {', '.join(only)}: {names}")
    given = {"PROFILE": value, "SEED": seed, **(parameters or {})}
    check_names(given, notebooks)
    cap_threads(profile.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    here, count = machine(), len(notebooks)
    on = f"{here['cores']} cores, {here['processor']}"
    tell(f"profile {profile.name}, seed {seed}: {count} notebooks, {on}")
    done = []
    for number, notebook in enumerate(notebooks, 1):
        tell(f"[{number}/{count}] {notebook.name}")
        done.append(execute(notebook, profile.build / "notebooks" / notebook.name, given))
        tell(f"[{number}/{count}] {notebook.name}: {clock(done[-1].seconds)}")
    tell(summary(profile, done))
    return done


def clock(seconds: float) -> str:
    """Seconds as ``m:ss``."""
    return "{}:{:02d}".format(*divmod(round(seconds), 60))


def summary(profile: Profile, done: Sequence[Executed]) -> str:
    """Times, the average GenAcc of each method where there are results, and where everything lies."""
    times = {run.path.name: run.seconds for run in done} | {"all": sum(run.seconds for run in done)}
    width = max(map(len, times))
    lines = ["", "Time (min:s)"]
    lines += [f"  {name:<{width}} {clock(seconds):>6}" for name, seconds in times.items()]
    results = profile.build / "results.json"
    if results.is_file():
        lines += ["", "GenAcc, average over the question sets"]
        methods = json.loads(results.read_text(encoding="utf-8"))["methods"]
        lines += [f"  {name:<{width}} {m['average']['gen_acc']:>6.3f}" for name, m in methods.items()]
    lines += ["", "Results"]
    places = (results, profile.build / "report.html", profile.build / "notebooks")
    lines += [f"  {shown_path(place)}" for place in places if place.exists()]
    return "\n".join(lines)


def main(folder: Path, profile: str = "smoke", seed: int = 0) -> None:
    """``python -m s3mini.classroom.notebooks FOLDER --profile P --seed N``: copies for nbval (see `prepare`)."""
    try:
        load_profile(profile)
        copies = prepare(find(), folder, {"PROFILE": profile, "SEED": seed})
    except S3Error as error:
        sys.exit(f"error: {error}")
    print(f"{len(copies)} notebooks in {folder}, profile {profile}")


if __name__ == "__main__":
    typer.run(main)
