"""Progress bars: tqdm's own in a terminal; in a notebook a line of text that is replaced, and ends at what was done."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from s3mini.runs.progress import in_notebook, tqdm, without_bars
from s3mini.training.recorder import BESIDE_THE_BAR


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a notebook shows: one list an output, of the texts it held in turn."""
    outputs: list[list[str]] = []

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        texts = [data["text/plain"]]
        outputs.append(texts)
        return SimpleNamespace(update=lambda data, raw: texts.append(data["text/plain"]))

    module = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return outputs


def test_a_finished_bar_says_so(shown: list[list[str]]) -> None:
    assert in_notebook()
    for _ in tqdm(range(3), desc="encoding", unit="doc"):
        pass
    (texts,) = shown
    assert texts[0].startswith("encoding:   0%") and "0/3" in texts[0]
    assert texts[-1].startswith("encoding: 100%") and "3/3" in texts[-1]
    assert not any(sign in text for text in texts for sign in "\r\n\x1b")


def test_the_bar_of_a_training_is_whole(shown: list[list[str]]) -> None:
    with tqdm(total=100, desc="GRPO", unit="step") as bar:
        bar.start_t -= 100 * 59.0  # hours at a minute a step
        bar.set_postfix(dict.fromkeys(BESIDE_THE_BAR, "-0.95"), refresh=False)
        bar.update(100)
    assert shown[0][-1].endswith(f"{BESIDE_THE_BAR[-1]}=-0.95]")


def test_bars_of_their_own_lines(shown: list[list[str]]) -> None:
    with tqdm(total=2, desc="outer") as outer:
        for _ in tqdm(range(2), desc="inner"):
            outer.update()
    assert [texts[-1][:11] for texts in shown] == ["outer: 100%", "inner: 100%"]


def test_a_hidden_bar_shows_nothing(shown: list[list[str]]) -> None:
    assert list(tqdm(range(2), disable=True)) == [0, 1]
    assert shown == []


def test_elsewhere_it_is_tqdms(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)  # type: ignore[arg-type]
    assert not in_notebook()
    list(tqdm(range(2), desc="answers"))
    assert "answers: 100%" in capsys.readouterr().err


def test_loading_is_silent_and_the_bars_come_back() -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    with without_bars():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled() is before
