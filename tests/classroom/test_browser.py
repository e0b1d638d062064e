"""One notebook as a reader has it: opened in JupyterLab by a browser, run from first cell to last."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_toys import CHROMIUM, browser, jupyterlab, open_notebook, run_all

from s3mini.classroom.notebooks import find, prepare

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")


@pytest.mark.slow  # starts a server, a browser and a kernel; the notebook loads a model
def test_a_notebook_runs_in_jupyterlab(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab")
    pytest.importorskip("websocket")
    source = next(path for path in find() if path.name == "03_reward.ipynb")  # which needs no index
    folder, scratch = tmp_path / "notebooks", tmp_path / "scratch"
    scratch.mkdir()
    prepare([source], folder, {"PROFILE": "smoke"})
    with jupyterlab(folder, scratch) as address, browser(scratch) as page:
        open_notebook(page, address, source.name)
        shown = page.evaluate("document.body.innerText")
        assert "The reward: from an answer to a number" in shown
        told = run_all(page, 300)
    assert told["errors"] == []
    assert told["ran"] == told["cells"] > 10
