"""`make torture` with tiny counts: it is clean here, and it sees each kind of fault that is planted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blocks
import compare
import forked
import fuzz_imports
import fuzz_outputs
import fuzz_requests
import kills
import phases
import pytest
from noise import At, Outcome, damaged, drawn
from tqdm.auto import tqdm

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
        "evaluate": 40, "train": 30, "index": 40, "precompute": 40, "served": 30, "import": 20,
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
    """Three kills between two comparisons or more; the same command again finds them."""
    folder = root / "kills"
    outcome = kills.run(3, 0, folder, ["import"])
    assert outcome.findings == [] and outcome.cpu > 0
    counts = outcome.counts
    assert counts["kills of import"] == 3 == sum(counts[f"import, {name}"] for name in phases.PHASES)
    assert counts["compared, import"] >= 1
    assert kills.run(3, 0, folder, ["import"]) == outcome
    straight, killed = (folder / "import" / name / "build" for name in ("straight", "killed"))
    made = killed / "own" / "import"
    assert len((made / "corpus.jsonl").read_text(encoding="utf-8").splitlines()) == 2680
    (made / "sources.jsonl").unlink()
    found = list(compare.differences(straight, killed, ("own",)))
    assert found == [("lost", "own/import/sources.jsonl is missing")]


def test_kills_sees_a_command_that_ends_with_no_clear_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that cannot end well is given up, and told; what is worked at beside it ends, too."""
    broken = kills.Plan((("own", "no-such-file", "--only-import"),), ("own",), 1.0, 1)
    monkeypatch.setitem(kills.PLANS, "broken", broken)
    with pytest.raises(RuntimeError, match="does not get up again"):
        kills.run(1, 0, root / "kills", ["broken"])


@pytest.mark.parametrize(
    ("manifests", "answers", "expected"),
    [
        ({"old": {"complete": True}}, "", "before"),
        ({"new": {"open_since": 1}}, "", "opened"),
        ({"new": {"open_since": 1}}, "an answer", "within"),
        ({"old": {"complete": True}, "new": {"complete": True}}, "an answer", "after"),
    ],
)
def test_phases(tmp_path: Path, manifests: dict[str, dict[str, Any]], answers: str, expected: str) -> None:
    """By what was written since; an empty log, and what an earlier attempt left, count for nothing."""
    since = 1e9
    for name, manifest in manifests.items():
        folder = tmp_path / "smoke" / "rag" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / ".manifest.json.7.tmp").write_text(json.dumps(manifest))  # about to take its place
        (folder / "answers.jsonl").write_text(answers if name == "new" else "an answer")
        for file in folder.iterdir():
            os.utime(file, (since, since + 1 if name == "new" else since - 1))
    assert phases.phase(tmp_path, ("smoke/rag", "smoke/results.json"), since) == expected


@pytest.fixture
def ordeal(tmp_path: Path) -> Iterator[kills.Ordeal]:
    """A stage whose first result took 2 seconds of 10."""
    with tqdm(disable=True) as bar:
        ordeal = kills.Ordeal(tmp_path, "precompute", 0, bar)
        with ordeal.log:
            ordeal.log.extend([{"whole": 10.0, "first": 2.0, "cpu": 10}])
            yield ordeal


def test_moments(ordeal: kills.Ordeal) -> None:
    """Some come before the first result; those behind it are as far apart as the plan says; the same number draws the same."""
    drawn = [ordeal.draw(number)[1:] for number in range(2000)]
    before, behind = ([moment for early, moment in drawn if early is wanted] for wanted in (True, False))
    assert len(before) / 2000 == pytest.approx(ordeal.plan.early, abs=0.03) and max(before) < 2
    assert sum(behind) / len(behind) == pytest.approx(10 / ordeal.plan.often, rel=0.1)
    assert ordeal.draw(7) == ("command", *drawn[7])


@pytest.mark.parametrize(
    ("met", "missed"),
    [(["before"] * 6 + ["within"] * 4, True), (["before"] * 5 + ["opened", *["within"] * 6], False)],
)
def test_kills_that_miss_the_work_are_told(ordeal: kills.Ordeal, met: list[str], missed: bool) -> None:
    ordeal.log.extend({"killed": "command", "after": 1, "phase": phase, "cpu": 1} for phase in met)
    outcome = ordeal.outcome()
    assert kinds(outcome.findings) == ({"missed"} if missed else set())
    assert outcome.cpu == 10 + len(met)


def test_two_at_a_time_in_order_and_one_that_fails_ends_the_other() -> None:
    assert forked.side_by_side(lambda n: n * n, range(5)) == [0, 1, 4, 9, 16]

    def work(fails: bool) -> None:
        process = forked.start(time.sleep, 60)
        try:
            forked.wait(process, lambda: 1 // 0 == 0 if fails else False)
        finally:
            assert forked.kill(process)

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        forked.side_by_side(work, [False, True])
    assert time.monotonic() - began < 50


def test_the_clock_counts_what_is_done_and_not_what_is_slept() -> None:
    clock, processes = forked.Clock(), [forked.start(spin), forked.start(time.sleep, 60)]
    try:
        assert not forked.wait(processes[0], lambda: clock.read(processes) > 0.3)
        assert forked.Clock().read(processes[1:]) < 0.2
    finally:
        killed = [forked.kill(process) for process in processes]
    assert killed == [True, True]


def spin() -> None:
    while True:
        pass


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
    assert list(compare.differences(tmp_path / "straight", tmp_path / "killed", ["served"])) == [
        ("missed", "served: nothing there to compare")
    ]
