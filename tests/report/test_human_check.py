"""The person's check: the shipped labels can be read, and agreement is counted per side."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3mini.errors import DataError
from s3mini.report.human_check import agreement, read_labelled
from s3mini.reward import Judge

SHIPPED = Path(__file__).parents[2] / "data" / "mini" / "labelled.jsonl"


class Yes:
    def reply(self, conversations: list[object], *_: object, **__: object) -> list[str]:
        return ["yes"] * len(conversations)


def test_the_shipped_labels() -> None:
    labelled = read_labelled(SHIPPED)
    assert len(labelled) >= 90 and 0.3 < sum(one.accepted for one in labelled) / len(labelled) < 0.7
    assert {"negation", "hedge", "shortened", "sentence", "bare"} <= {one.kind for one in labelled}


def test_agreement_counts_each_side(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    line = '{{"question": "q", "golden_answers": ["Tarn"], "output": "{}", "accepted": {}, "kind": "k"}}\n'
    cases = (("Tarn", "true"), ("It is Tarn.", "true"), ("Holm", "false"), ("not Tarn", "false"))
    path.write_text("".join(line.format(*case) for case in cases))
    found = agreement(read_labelled(path), Judge(Yes(), "brief"))
    assert found["em"]["finds"]["mean"] == 0.5 and found["em"]["false"]["mean"] == 0
    assert found["span"]["finds"]["mean"] == 1 and found["span"]["false"]["mean"] == 0.5
    assert found["judge"]["false"]["mean"] == 1 and found["judge"]["finds"]["n"] == 2


def test_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"question": "q"}\n')
    with pytest.raises(DataError, match="l.jsonl:1"):
        read_labelled(path)
    path.write_text(
        '{"question": "q", "golden_answers": ["T"], "output": "T", "accepted": true, "kind": "k"}\n'
    )
    with pytest.raises(DataError, match="both"):
        agreement(read_labelled(path), Judge(Yes(), "brief"))
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path / "none.jsonl")
