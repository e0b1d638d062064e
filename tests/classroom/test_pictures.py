"""The pictures are drawn from the package's own names and an episode's own tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.image import imread
from test_episodes import TOKENIZER, run

from s3mini.classroom.pictures import (
    COLUMNS,
    kinds_of_tokens,
    loop_picture,
    rooms_picture,
    strips,
    surprise_strip,
    token_strip,
)
from s3mini.records import Episode
from s3mini.report.plots import Plot

ASK = '<search_complete>False</search_complete>\n<query>{"query": " a"}</query>'
DONE = "<search_complete>True</search_complete>"


@pytest.fixture(scope="module")
def episode() -> Episode:
    return run(ASK, DONE)


def size(plot: Plot) -> tuple[int, int]:
    import io

    height, width, _ = imread(io.BytesIO(plot.png())).shape
    return width, height


def words(plot: Plot) -> set[str]:
    return {text.get_text() for axes in plot.figure.axes for text in axes.texts}


def test_the_rooms_have_the_names_that_the_package_gives_them() -> None:
    shown = words(rooms_picture())
    assert {"corpus", "retrieval", "rag", "episodes", "generator", "reward", "grpo", "evaluation"} <= shown
    assert {"read_corpus", "Engine", "answer_questions", "score_answers", "train", "evaluate"} <= shown
    assert {"Documents", "Questions", "Hits", "Scores"} <= shown


def test_no_text_leaves_its_picture() -> None:
    for plot in (loop_picture(), rooms_picture()):
        plot.png()
        canvas = plot.figure.bbox
        for text in plot.figure.axes[0].texts:
            box = text.get_window_extent()
            assert canvas.x0 <= box.x0 and box.x1 <= canvas.x1, text.get_text()
            assert canvas.y0 <= box.y0 and box.y1 <= canvas.y1, text.get_text()


def test_a_strip_shows_every_token_by_its_writer(episode: Episode) -> None:
    kinds = kinds_of_tokens(episode)
    assert len(kinds) == len(episode.prompt_ids) + len(episode.completion_ids)
    assert kinds.count("own") == sum(episode.env_mask) and kinds[-1] == "environment"
    plot = token_strip(episode, TOKENIZER)
    assert f"{sum(episode.env_mask)} own" in repr(plot)
    letters = "".join(text.get_text() for text in plot.figure.axes[0].texts)
    assert "search_complete" in letters and "information" in letters
    assert size(plot)[0] > size(plot)[1] / 3


def test_surprise_shades_what_the_policy_wrote(episode: Episode) -> None:
    logprobs = [-0.1] * len(episode.completion_ids)
    told = episode.env_mask.index(1)
    logprobs[told] = -5.0
    logprobs[episode.env_mask.index(0)] = -9.0
    plot = surprise_strip(episode.completion_ids, episode.env_mask, logprobs, TOKENIZER)
    piece = TOKENIZER.decode([episode.completion_ids[told]]).strip()
    assert f"{sum(episode.env_mask)} tokens" in repr(plot) and f"most: {piece!r} 5.0" in repr(plot)
    assert {"0 nats", "4 nats", "8 nats"} <= words(plot)


def test_a_long_token_breaks_no_row(episode: Episode) -> None:
    long = TOKENIZER("x" * (3 * COLUMNS), add_special_tokens=False)["input_ids"]
    many = replace(episode, completion_ids=tuple(long), env_mask=(1,) * len(long))
    assert "own" in repr(token_strip(many, TOKENIZER))


def test_strips_are_one_bar_an_episode(episode: Episode) -> None:
    plot = strips({"s3": episode, "again": episode})
    told = {text.get_text().strip() for text in plot.figure.axes[0].texts}
    assert told == {f"1 search, {sum(episode.env_mask)} own tokens"}
    assert "s3, again" in repr(plot)
