"""`make torture` with tiny counts: it is clean here, and it sees each kind of fault that is planted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blocks
import compare
import fuzz_imports
import fuzz_outputs
import fuzz_requests
import kills
import pytest
from noise import At, Outcome, damaged, drawn

import s3mini.profile
from s3mini.owndata.fields import Fields
from s3mini.protocols import wordings
from s3mini.protocols.s3 import S3Protocol
from s3mini.retrieval.http import server

REAL = s3mini.profile.ROOT


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    (tmp_path / "data").symlink_to(REAL / "data")
    return tmp_path


def kinds(findings: list[dict[str, str]]) -> set[str]:
    return {found["kind"] for found in findings}


def test_the_same_seed_draws_the_same() -> None:
    first, again, other = (
        [fuzz_outputs.output(drawn(seed, "outputs", i)) for i in range(50)] for seed in (0, 0, 1)
    )
    assert first == again != other and len(set(first)) > 40
    assert damaged(drawn(0, "x", 1), "good text", ["<"]) == damaged(drawn(0, "x", 1), "good text", ["<"])
    assert kills.shared(200, list(kills.PLANS)) == {
        "index": 40, "precompute": 40, "train": 30, "evaluate": 40, "import": 20, "served": 30,
    }  # fmt: skip


# -------------------------------------------------------------------------------------- outputs


def test_outputs(tmp_path: Path) -> None:
    outcome = fuzz_outputs.run(range(25), 0, tmp_path)
    assert outcome.findings == []
    assert outcome.counts["valid turns"] > 20 and outcome.counts["invalid turns"] > 20
    assert outcome.counts.total() == 25 * 6 * 2


def test_outputs_sees_a_parser_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Protocol, "parse", lambda *_: int("no number"))
    outcome = fuzz_outputs.run(range(3), 0, tmp_path)
    assert kinds(outcome.findings) == {"crashed"} and "ValueError" in outcome.findings[0]["what"]


def test_outputs_sees_a_document_that_becomes_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wordings, "neutralise", lambda text: text)
    found = fuzz_outputs.run(range(10), 0, tmp_path).findings
    assert kinds(found) == {"misread"} and any("became protocol" in one["what"] for one in found)


def lethal(numbers: range, seed: int, folder: Path, at: At) -> Outcome:
    """Number 2 ends the process."""
    outcome = Outcome()
    for number in numbers:
        at(number)
        if number == 2:
            os.abort()
        outcome.counts["tried"] += 1
    return outcome


def test_a_process_that_dies_is_a_finding_and_not_the_end(tmp_path: Path) -> None:
    outcome = blocks.run(5, 0, tmp_path, part="outputs", work=lethal)
    assert outcome.counts["tried"] == 4
    assert outcome.findings == [
        {"kind": "crashed", "where": "outputs 2", "what": "the process died (exit code -6)"}
    ]
    assert blocks.run(5, 0, tmp_path, part="outputs", work=None) == outcome  # type: ignore[arg-type]  # found again


# -------------------------------------------------------------------------------------- imports


def test_imports(root: Path) -> None:
    outcome = fuzz_imports.run(range(40), 0, root / "work")
    assert outcome.findings == [] and outcome.counts["read"] > 3 and outcome.counts["refused"] > 3


@pytest.mark.parametrize(
    ("planted", "kind"),
    [(lambda _, row, role, value: f"invented {value}", "misread"), (lambda *_: int("no number"), "crashed")],
)
def test_imports_sees_what_is_planted(
    root: Path, monkeypatch: pytest.MonkeyPatch, planted: Callable[..., Any], kind: str
) -> None:
    monkeypatch.setattr(Fields, "_text", planted)
    assert kinds(fuzz_imports.run(range(15), 0, root / "work").findings) == {kind}


# ------------------------------------------------------------------------------------- requests


def test_requests(tmp_path: Path) -> None:
    outcome = fuzz_requests.run(range(60), 0, tmp_path)
    assert outcome.findings == []
    assert outcome.counts["HTTP 200"] > 10 and outcome.counts["HTTP 422"] > 3 and outcome.counts.total() >= 55


def test_requests_sees_a_failing_and_a_wrong_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = server.check_ask

    def planted(queries: list[str], k: int, limits: Any) -> tuple[list[str], dict[int, str]]:
        if len(queries) == 1:
            raise KeyError("planted")
        texts, problems = honest(queries, k, limits)
        return texts[::-1], problems

    monkeypatch.setattr(server, "check_ask", planted)
    found = fuzz_requests.run(range(20), 0, tmp_path).findings
    assert kinds(found) == {"misread", "crashed"} and any("HTTP 500" in one["what"] for one in found)


# ---------------------------------------------------------------------------------------- kills


def test_kills_of_an_import_and_going_on(root: Path) -> None:
    """Two kills, then a third by the same command, which finds the first two."""
    folder = root / "kills"
    outcome = kills.run(2, 0, folder, ["import"])
    assert outcome.findings == [] and outcome.counts["kills, import"] == 2
    again = kills.run(2, 0, folder, ["import"])
    assert again.counts == outcome.counts
    made = folder / "killed" / "build" / "own" / "import"
    assert len((made / "corpus.jsonl").read_text(encoding="utf-8").splitlines()) == 2680
    (made / "sources.jsonl").unlink()
    found = list(compare.differences(folder / "straight" / "build", folder / "killed" / "build", ("own",)))
    assert found == [("lost", "own/import/sources.jsonl is missing")]


def test_kills_sees_a_command_that_ends_with_no_clear_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that cannot end well is given up, and told."""
    broken = kills.Plan((("own", "no-such-file", "--only-import"),), ("own",), 1.0)
    monkeypatch.setitem(kills.PLANS, "broken", broken)
    with pytest.raises(RuntimeError, match="does not get up again"):
        kills.run(1, 0, root / "kills", ["broken"])


RECORDS = [{"id": f"q{i}", "answer": "Sool", "gen_acc": 1.0, "seconds": 0.1 * i} for i in range(4)]


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (RECORDS, []),
        ([{**r, "seconds": 9.0} for r in RECORDS], []),
        (RECORDS[:3], [("lost", "rag/answers.jsonl: id q3")]),
        ([*RECORDS, RECORDS[1]], [("doubled", "rag/answers.jsonl: id q1, 2 times instead of 1")]),
        ([RECORDS[0], {**RECORDS[1], "gen_acc": 0.0}, *RECORDS[2:]], [("mis-scored", "rag/answers.jsonl: id q1")]),
        ([*RECORDS, {**RECORDS[1], "id": "x"}], [("doubled", "rag/answers.jsonl: id x, which the other has not")]),
    ],
)  # fmt: skip
def test_comparing_sees_what_is_lost_doubled_and_changed(
    tmp_path: Path, planted: list[dict[str, Any]], expected: list[tuple[str, str]]
) -> None:
    for name, records in (("straight", RECORDS), ("killed", planted)):
        path = tmp_path / name / "rag" / "answers.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert list(compare.differences(tmp_path / "straight", tmp_path / "killed", ["rag"])) == expected
