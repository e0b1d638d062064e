"""Stages survive kills, full disks and changed inputs; logs lose nothing and double nothing."""

from __future__ import annotations

import errno
import json
import mmap
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3mini.profile
from s3mini.errors import StageError
from s3mini.profile import Profile, load_profile
from s3mini.runs.machine import (
    THREAD_VARIABLES,
    WAITING,
    _resident,
    cap_threads,
    cores,
    give_back_memory,
    machine,
    versions,
)
from s3mini.runs.stages import JsonlLog, Stage, atomic_dir, atomic_write, plain, read_manifest, stage_times


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr(s3mini.profile, "ROOT", tmp_path)
    return load_profile("smoke")


def _full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


# atomic writes


def test_atomic_write_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    atomic_write(path, "ü\n")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "old")
    monkeypatch.setattr(os, broken, _full)
    with pytest.raises(StageError, match=r"a\.txt: no space left on the disk; free some room .* resumes"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_read_only_folder_is_told_apart_from_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a.txt"))

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(
        StageError, match=r"a\.txt: cannot be written \(Permission denied\); check the folder"
    ):
        atomic_write(tmp_path / "a.txt", "x")


def test_a_place_where_nothing_can_lie_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(StageError, match=re.escape(f"{tmp_path / 'a'}: nothing can lie there")):
        atomic_write(tmp_path / "a", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_other_errors_of_the_system_pass_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        atomic_write(tmp_path / "a", "x")


def test_atomic_dir_takes_the_place_of_the_old_one_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with atomic_dir(path) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(ValueError, match="half-way"), atomic_dir(path) as folder:
        (folder / "two").write_text("2")
        raise ValueError("half-way")
    assert [p.name for p in path.iterdir()] == ["one"]
    with atomic_dir(path) as folder:
        (folder / "three").write_text("3")
    assert [p.name for p in path.iterdir()] == ["three"]
    assert list(tmp_path.iterdir()) == [path]


# logs

records = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.floats(allow_nan=False)))


@given(records, st.data())
def test_a_log_cut_anywhere_keeps_every_whole_record(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, object]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    with JsonlLog(path) as log:
        log.extend(written)
    raw = path.read_bytes()
    cut = data.draw(st.integers(0, len(raw)))
    path.write_bytes(raw[:cut])
    kept = raw[:cut].count(b"\n")
    with JsonlLog(path) as log:
        assert log.records == written[:kept]
        log.extend(written[kept:])
    assert path.read_bytes() == raw
    assert JsonlLog(path).records == written


def test_a_last_line_of_garbage_is_dropped_and_an_inner_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n\0\0\0\0\n')
    with JsonlLog(path) as log:
        assert log.records == [{"a": 1}]
        log.append({"a": 2})
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(StageError, match=r"log\.jsonl:2: not a JSON line.*delete the line"):
        JsonlLog(path)


def test_a_log_on_a_full_disk_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    log = JsonlLog(path)
    log.append({"n": 1})
    write: Callable[[int, bytes], int] = os.write
    calls = []

    def fills_up(fd: int, data: bytes) -> int:
        calls.append(len(data))
        return write(fd, data[:7]) if len(calls) == 1 else _full()

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(StageError, match="no space left"):
        log.extend([{"n": 2}, {"n": 3}])
    monkeypatch.undo()
    assert len(calls) == 2
    assert path.read_bytes() == b'{"n": 1}\n'
    log.append({"n": 2})
    assert JsonlLog(path).records == log.records == [{"n": 1}, {"n": 2}]
    assert len(log) == 2
    assert list(log) == log.records


def test_a_closed_log_refuses_to_write(tmp_path: Path) -> None:
    with JsonlLog(tmp_path / "log.jsonl") as log:
        pass
    with pytest.raises(StageError, match="closed"):
        log.append({})


KILLED = """
import sys
from s3mini.runs.stages import JsonlLog
log = JsonlLog(sys.argv[1])
for i in range(len(log), 500):
    log.append({"i": i})
    print(i, flush=True)
"""


def test_a_process_killed_while_writing_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    on_disk = len(JsonlLog(path))
    assert acknowledged < on_disk < 500
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert [r["i"] for r in JsonlLog(path)] == list(range(500))


# stages


def test_a_stage_runs_once(profile: Profile) -> None:
    def run(settings: dict[str, object]) -> bool:
        with Stage(profile, "rag/nq", {"corpus": "abc"}, settings) as stage:
            if stage.done:
                return False
            atomic_write(stage.dir / "answers.txt", "yes")
            stage.finish(answers=1)
        return True

    assert run({"k": 3, "sets": ("nq",)})
    assert not run({"sets": ["nq"], "k": 3})
    manifest = read_manifest(profile.build / "rag" / "nq")
    assert manifest["complete"] is True
    assert manifest["inputs"] == {"corpus": "abc"}
    assert manifest["settings"] == {"k": 3, "sets": ["nq"]}
    assert manifest["outputs"] == ["answers.txt"]
    assert manifest["facts"] == {"answers": 1}
    assert manifest["resumed"] is False
    assert manifest["seconds"] >= 0
    assert manifest["versions"] == versions()
    assert manifest["machine"]["cores"] == cores()
    assert stage_times(profile) == {"rag/nq": {"seconds": manifest["seconds"], "resumed": False}}


def test_looking_at_a_stage_touches_nothing(profile: Profile) -> None:
    stage = Stage(profile, "x", {})
    assert not stage.done
    assert stage.manifest == {}
    with stage:
        pass
    assert not profile.build.exists()


def test_an_interrupted_stage_resumes_and_adds_its_seconds(profile: Profile) -> None:
    with pytest.raises(KeyboardInterrupt), Stage(profile, "x", {"a": "1"}) as stage:
        (stage.dir / "part").write_text("1")
        raise KeyboardInterrupt
    assert not Stage(profile, "x", {"a": "1"}).done
    manifest = read_manifest(stage.path)
    assert manifest["complete"] is False
    (stage.path / "manifest.json").write_text(json.dumps({**manifest, "seconds": 100.0}))
    with Stage(profile, "x", {"a": "1"}) as again:
        assert (again.dir / "part").read_text() == "1"
        again.finish()
    assert again.manifest["resumed"] is True
    assert again.manifest["seconds"] >= 100.0


def test_a_killed_stage_counts_the_seconds_up_to_its_last_file(profile: Profile) -> None:
    stage = Stage(profile, "x", {})
    part = stage.dir / "part"
    part.write_text("1")
    began = read_manifest(stage.path)["open_since"]
    os.utime(part, (began + 50, began + 50))  # killed 50 s in, the manifest still open
    with Stage(profile, "x", {}) as again:
        again.dir.joinpath("rest").write_text("2")
        again.finish()
    assert 50 <= again.manifest["seconds"] < 60


@pytest.mark.parametrize(
    ("inputs", "settings", "told"),
    [
        ({"corpus": "NEW"}, {"k": 3}, "inputs.corpus changed"),
        ({"corpus": "abc"}, {"k": 4}, "settings.k changed"),
        ({"corpus": "abc"}, {"k": 3, "b": 1}, "settings.b changed"),
        ({}, {"k": 3}, "inputs.corpus changed"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_changed_inputs_redo_the_stage_and_say_so(
    profile: Profile,
    caplog: pytest.LogCaptureFixture,
    inputs: dict[str, str],
    settings: dict[str, int],
    told: str,
    complete: bool,
) -> None:
    stage = Stage(profile, "x", {"corpus": "abc"}, {"k": 3})
    (stage.dir / "old").write_text("1")
    if complete:
        stage.finish()
    changed = Stage(profile, "x", inputs, settings)
    assert not changed.done
    assert list(changed.dir.glob("old")) == []
    assert told in caplog.text
    assert (profile.build / "x.old" / "old").exists()
    changed.finish()
    assert changed.done
    assert changed.manifest["resumed"] is False
    assert list(stage_times(profile)) == ["x"]


def test_a_lost_output_or_a_torn_manifest_is_not_done(profile: Profile) -> None:
    stage = Stage(profile, "x", {})
    (stage.dir / "out").write_text("1")
    stage.finish()
    assert stage.done
    (stage.path / "out").unlink()
    assert not stage.done
    stage.finish()
    assert stage.done
    (stage.path / "manifest.json").write_text('{"complete": tr')
    assert not stage.done


def test_a_full_disk_inside_a_stage_is_a_stage_error_and_leaves_it_resumable(profile: Profile) -> None:
    with pytest.raises(StageError, match="no space left"), Stage(profile, "x", {}) as stage:
        (stage.dir / "part").write_text("1")
        _full()
    assert read_manifest(stage.path)["complete"] is False
    with Stage(profile, "x", {}) as again:
        assert (again.dir / "part").exists()


def test_a_library_that_hides_the_full_disk_is_seen_through(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_free(_: object) -> object:
        return type("Usage", (), {"free": 0})()

    with (
        pytest.raises(StageError, match="no space left") as caught,
        Stage(profile, "x", {}) as stage,
    ):
        _ = stage.dir
        monkeypatch.setattr("shutil.disk_usage", nothing_free)
        raise RuntimeError("unexpected pos 64 vs 0")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_other_failures_pass_through_a_stage(profile: Profile) -> None:
    with pytest.raises(ZeroDivisionError), Stage(profile, "x", {}) as stage:
        _ = stage.dir
        _ = 1 / 0


def test_plain_equals_what_json_gives_back(profile: Profile) -> None:
    value = {"spec": profile.rag, "sets": ("a", "b"), "path": Path("x"), "names": {"b", "a"}}
    assert plain(value) == {"spec": {"k": 3}, "sets": ["a", "b"], "path": "x", "names": ["a", "b"]}
    assert plain(plain(value)) == plain(value)


# the machine


def test_machine_and_versions_name_what_is_here() -> None:
    assert versions()["s3mini"] == "0.1.0"
    assert machine()["cores"] >= 1
    assert machine()["processor"]


def test_threads_are_capped_at_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert cap_threads(2) == 2
    assert os.environ["MKL_NUM_THREADS"] == "2"
    assert cap_threads(8) == 3, "the caller's environment is a cap as well"


KEPT = """
import torch
from s3mini.runs.machine import _resident, give_back_memory, memory_kept
with {}:
    torch.zeros(50_000_000)
    held = _resident()
    give_back_memory()
    print(held - _resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its memory is glibc's")
@pytest.mark.parametrize(
    ("within", "kept"),
    [
        ("memory_kept(False)", False),
        ("memory_kept()", True),
        ("memory_kept(), memory_kept(False)", False),
    ],
)
def test_freed_memory_is_kept_until_it_is_given_back(within: str, kept: bool) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KEPT.format(within)], capture_output=True, text=True, check=True
    )
    assert (int(ran.stdout) > 150_000_000) is kept  # of 200


AFTER = """
import torch
from s3mini.runs.machine import _resident, memory_kept
with memory_kept():
    with memory_kept(False):
        pass
    torch.zeros(50_000_000)
    held = _resident()
print(held - _resident())
torch.zeros(50_000_000)
print(_resident() - held)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its memory is glibc's")
def test_memory_is_kept_no_longer_than_asked_for() -> None:
    ran = subprocess.run([sys.executable, "-c", AFTER], capture_output=True, text=True, check=True)
    given_back, then = map(int, ran.stdout.split())
    assert given_back > 150_000_000 and then < -150_000_000  # of 200


def test_memory_is_given_back_where_enough_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(
        "s3mini.runs.machine.ctypes",
        SimpleNamespace(CDLL=lambda _: SimpleNamespace(malloc_trim=trimmed.append)),
    )
    held = iter([50, 60, 69, 70, 40, 49])  # looked at after each trim, and before each that may be
    monkeypatch.setattr("s3mini.runs.machine._resident", lambda: next(held))
    give_back_memory()
    for _ in range(4):
        give_back_memory(beyond=20)
    assert len(trimmed) == 2 and next(held, None) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process holds")
def test_what_a_process_holds_is_known() -> None:
    before = _resident()
    with mmap.mmap(-1, 64 << 20) as block:  # the system's own, where freed memory may lie about for any other
        block.write(bytes(len(block)))
        assert _resident() - before > len(block) // 2


@pytest.mark.parametrize(
    ("running", "asked", "waits"),
    [(1, {}, None), (2, {}, "PASSIVE"), (2, {"GOMP_SPINCOUNT": "7"}, None), ("?", {}, None)],
)
def test_threads_sleep_while_they_wait_where_others_are_at_work(
    running: object, asked: dict[str, str], waits: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "loadavg"
    said.write_text(f"2.20 2.00 1.90 {running}/345 6789\n")
    monkeypatch.setattr("s3mini.runs.machine.LOAD", said)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in (*WAITING, *THREAD_VARIABLES):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    cap_threads(1)
    assert os.environ.get("OMP_WAIT_POLICY") is None, "one thread waits for none"
    monkeypatch.delenv("OMP_NUM_THREADS")
    cap_threads(max(cores(), 2))
    assert os.environ.get("OMP_WAIT_POLICY") == waits
