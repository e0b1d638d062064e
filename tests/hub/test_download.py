"""Downloads: against a stand-in of the hub, with cut connections, damaged parts, refusals, a full disk and a kill."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hub_toys import COMMIT, ToyHub, benchmark, corpus_lines, filled, flat_index
from toy_model import toy_model, toy_tokenizer

import s3mini.hub.download as downloads
import s3mini.hub.sizes
import s3mini.profile
from s3mini.corpus import load_questions, read_corpus, read_questions
from s3mini.errors import DataError, DownloadError
from s3mini.hub import unpack
from s3mini.hub.catalogue import TABLE
from s3mini.hub.client import Hub, Source
from s3mini.hub.download import download, items, look, plan
from s3mini.models.local import load_model
from s3mini.profile import ModelSpec, Profile, load_profile
from s3mini.retrieval import prebuilt_index

CHOICE = {"medqa": 3, "mmlu": 2}
DATA = ("corpus", "index", "questions", "mirage", "medcorp", "s3-data")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyHub]:
    """A filled hub; the client is pointed at it, and at empty folders."""
    import huggingface_hub.constants as constants
    import huggingface_hub.file_download as client

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("s3mini.hub.client.WAIT", 0.0)
    for module in (s3mini.profile, downloads, s3mini.hub.sizes):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(unpack, "MIRAGE", CHOICE)
    with filled(ToyHub()).running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        raw = Source("Teddy-XiongGZ/MIRAGE", url=f"{running.endpoint}/raw/benchmark.json")
        table = tuple(replace(i, sources=(raw,)) if i.name == "mirage" else i for i in TABLE)
        monkeypatch.setattr(downloads, "TABLE", table)
        yield running


def toy(**settings: Any) -> Profile:
    return load_profile(
        "paper", **{"name": "toy", "data.corpus": "d/wiki.jsonl", "data.questions": "d/q", **settings}
    )


def test_everything_comes_in_the_packages_own_formats_and_is_found_again(hub: ToyHub, tmp_path: Path) -> None:
    profile, folder = toy(), tmp_path / "d"
    told: list[str] = []
    download(profile, DATA, tell=told.append)

    assert (folder / "wiki.jsonl").read_bytes() == corpus_lines(400)
    assert (folder / "e5_Flat.index").read_bytes() == flat_index(400)
    assert [q.id for q in load_questions(profile, "2wiki", "test")] == [f"2wiki/dev_{i}" for i in range(3)]
    assert not (folder / "q" / "arc").exists()
    choice = read_questions(folder / "mirage" / "medqa" / "test.jsonl")
    assert (len(choice), choice[0].stem, choice[0].golden_answers) == (3, "Which nerve?", ("B",))
    assert choice[0].question == "Which nerve? Options: (A) ulnar (B) median"
    assert choice[0].metadata["options"] == ["ulnar", "median"]
    snippets = read_corpus(folder / "medcorp.jsonl")
    assert [d.id for d in snippets] == [
        "Anatomy_0",
        "Anatomy_1",
        "p1_0",
        "p1_1",
        "p1_2",
        "p2_0",
        "w_0",
        "w_1",
    ]
    assert (snippets[0].title, snippets[0].text) == ("Anatomy 0", "text “0”")
    rows = read_questions(folder / "s3_processed" / "nq" / "train.jsonl")
    assert (len(rows), rows[0].question, rows[0].golden_answers) == (5, "who 1?", ("x1", "y1"))

    assert not list(folder.rglob("*.gz")) and not list(folder.rglob("*.part")), "what was unpacked is gone"
    facts = look(profile, items(profile, ["corpus"])[0]).stage.manifest["facts"]
    assert facts["lines"] == 400
    assert facts["commits"] == {"PeterJinGo/wiki-18-corpus": COMMIT}
    assert len(told) == 11
    hub.requests.clear()
    download(profile, DATA, tell=told.append)
    assert not hub.requests
    assert all(line.endswith(": here") for line in told[11:])

    assert prebuilt_index(profile) == folder / "e5_Flat.index", "where the index is built, it is taken"
    (folder / "e5_Flat.index").write_bytes(b"cut short")
    assert not look(profile, items(profile, ["index"])[0]).done
    (folder / "wiki.jsonl").write_bytes(b"cut short\n")
    download(profile, ["corpus"])
    assert (folder / "wiki.jsonl").read_bytes() == corpus_lines(400)


def test_a_cut_connection_goes_on_where_it_stopped(hub: ToyHub, tmp_path: Path) -> None:
    whole = len(hub.files["dataset", "PeterJinGo/wiki-18-e5-index"]["part_aa"])
    hub.cuts = {"part_aa": [1024, 512, 2048], "part_ab": [0]}
    download(toy(), ["index"])
    assert (tmp_path / "d" / "e5_Flat.index").read_bytes() == flat_index(400)
    assert hub.gets("part_aa") == [None, "bytes=1024-", "bytes=1536-", "bytes=3584-"]
    assert hub.sent <= 2 * whole + 64, "nothing came twice"


def test_a_connection_that_never_brings_anything_is_given_up(hub: ToyHub, tmp_path: Path) -> None:
    hub.cuts = {"part_aa": [0] * 200}
    with pytest.raises(DownloadError, match=r"part_aa.*run the same command again to go on"):
        download(toy(), ["index"])
    assert not (tmp_path / "d" / "e5_Flat.index").exists()
    hub.cuts = {}
    download(toy(), ["index"])


@pytest.mark.parametrize("path", ["part_ab", "nq/dev.jsonl"])
def test_a_damaged_file_is_fetched_again_once(
    hub: ToyHub, tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Large files are checked by SHA-256, small ones by their git hash: sizes alone would pass both."""
    name = "index" if path.startswith("part") else "questions"
    hub.corrupt = {path: 1}
    download(toy(), [name])
    assert len(hub.gets(path)) == 2
    assert "fetching it again" in caplog.text


def test_a_file_damaged_twice_is_an_error_and_the_others_still_come(hub: ToyHub, tmp_path: Path) -> None:
    hub.corrupt = {"part_ab": 9}
    with pytest.raises(DownloadError, match=r"1 of 2 items .*\n.*part_ab: its SHA-256 differs, twice"):
        download(toy(), ["index", "corpus"])
    assert not (tmp_path / "d" / "e5_Flat.index").exists()
    assert (tmp_path / "d" / "wiki.jsonl").exists()
    hub.corrupt, before = {}, len(hub.gets("part_aa"))
    download(toy(), ["index", "corpus"])
    assert len(hub.gets("part_aa")) == before, "the sound part was kept"


def test_a_started_file_of_another_version_is_not_continued(hub: ToyHub, tmp_path: Path) -> None:
    hub.cuts = {"part_aa": [1024, *[0] * 200]}
    with pytest.raises(DownloadError):
        download(toy(), ["index"])
    hub.cuts, other = {}, flat_index(300)
    hub.files["dataset", "PeterJinGo/wiki-18-e5-index"] = {"part_aa": other[:5000], "part_ab": other[5000:]}
    download(toy(), ["index"])
    assert (tmp_path / "d" / "e5_Flat.index").read_bytes() == other


KILLED = """
import huggingface_hub.constants as constants, s3mini.cli
constants.DOWNLOAD_CHUNK_SIZE = 1 << 14
s3mini.cli.main(["download", "--profile", "paper", "--only", "corpus", "--set", "data.corpus=d/wiki.jsonl"])
"""


def test_a_killed_download_goes_on_in_the_middle_of_the_file(hub: ToyHub, tmp_path: Path) -> None:
    import random

    noise = random.Random(0).randbytes(1 << 21).hex()  # so that it does not shrink to nothing
    line = json.dumps({"id": "0", "contents": f'"T"\n{noise}'}).encode() + b"\n"
    packed = gzip.compress(line, 1, mtime=0)
    hub.files["dataset", "PeterJinGo/wiki-18-corpus"]["wiki-18.jsonl.gz"] = packed
    hub.pace = {"wiki-18.jsonl.gz": 0.1}
    places = {"S3MINI_ROOT": str(tmp_path), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **places, "TRANSFORMERS_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint}
    child = subprocess.Popen([sys.executable, "-c", KILLED], env=environment, stderr=subprocess.DEVNULL)
    part: list[Path] = []
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not (part and part[0].stat().st_size > 1 << 18):
        part = list((tmp_path / "d").rglob("*.part")) if (tmp_path / "d").exists() else []
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    had = part[0].stat().st_size
    assert 1 << 18 < had < len(packed)
    hub.pace = {}
    subprocess.run(
        [sys.executable, "-c", KILLED], env=environment, check=True, capture_output=True, timeout=120
    )
    assert hub.gets("wiki-18.jsonl.gz") == [None, f"bytes={had}-"]
    assert (tmp_path / "d" / "wiki.jsonl").read_bytes() == line


def test_room_is_made_sure_of_before_anything_comes(hub: ToyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1, used=1, free=20_000))
    with pytest.raises(DownloadError, match=r"too little room.*GB needed.*--only"):
        download(toy(), ["corpus", "index"])
    assert not hub.gets("part_aa") and not hub.gets("wiki-18.jsonl.gz")
    download(toy(), ["questions"])


def test_offline_mode_is_honoured(hub: ToyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    download(toy(), ["corpus"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    download(toy(), ["corpus"])  # it is here
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids"):
        download(toy(), ["corpus", "index"])
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids"):
        download(toy(), ["models"])
    assert not hub.requests


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "no such repository"), (403, "hf auth login"), (503, "keeps failing")],
)
def test_refusals_say_what_to_do(hub: ToyHub, status: int, told: str) -> None:
    hub.status = {"PeterJinGo/wiki-18-corpus": status}
    with pytest.raises(DownloadError, match=told):
        download(toy(), ["corpus"])


@pytest.mark.parametrize(
    "error",
    [
        ImportError("Using SOCKS proxy, but the 'socksio' package is not installed."),
        ValueError("Unknown scheme for proxy URL URL('nonsense://%5B')"),
        httpx.InvalidURL("Invalid port: 'x'"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_at_once(error: Exception) -> None:
    tried = []

    def attempt() -> None:
        tried.append(1)
        raise error

    with pytest.raises(DownloadError, match=r"a/b: .*ALL_PROXY.*httpx\[socks\].*HF_ENDPOINT") as caught:
        Hub()._persist(attempt, "a/b")
    assert str(error).rstrip(".") in str(caught.value) and len(tried) == 1


def test_a_token_goes_to_the_hub_only(hub: ToyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    download(toy(), ["index", "questions", "mirage"])
    assert {host for host, _ in hub.tokens} == {"127.0.0.1"}
    asked = [path for _, host, path, _ in hub.requests if host == "127.0.0.1"]
    assert len(hub.tokens) == len(asked) - sum("/raw/" in path for path in asked)


def test_a_name_outside_the_folder_is_not_written(hub: ToyHub, tmp_path: Path) -> None:
    hub.files["dataset", "MedRAG/pubmed"]["chunk/../../../../evil.jsonl"] = b"{}\n"
    with pytest.raises(DownloadError, match="outside its own folder"):
        download(toy(), ["medcorp"])
    assert not list(tmp_path.rglob("evil*"))


# -------------------------------------------------------------------------------------- models


@pytest.fixture
def model_files(tmp_path: Path) -> dict[str, bytes]:
    tokenizer = toy_tokenizer()
    toy_model(len(tokenizer)).save_pretrained(tmp_path / "made")
    tokenizer.save_pretrained(tmp_path / "made")
    files = {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()}
    return {
        **files,
        "pytorch_model.bin": b"a pickle",
        "onnx/model.safetensors": b"x",
        "onnx/config.json": b"{}",
    }


def models_only(name: str) -> Profile:
    spec = {"path": name, "wordings": "brief", "max_length": 512}
    return load_profile(
        "mini", **{f"{role}.{k}": v for role in ("searcher", "generator") for k, v in spec.items()}
    )


def test_models_come_as_safetensors_into_the_cache_and_load_offline(
    hub: ToyHub, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["model", "org/toy"] = model_files
    hub.corrupt = {"model.safetensors": 1}
    profile = models_only("org/toy")
    (made,) = items(profile)
    assert (made.name, made.about) == ("models", "searcher, generator")
    download(profile)
    assert look(profile, made).done
    asked = {path.rpartition("/resolve/")[2] for _, _, path, _ in hub.requests if "/resolve/" in path}
    assert not any("bin" in path or "onnx" in path for path in asked)
    assert len(hub.gets("model.safetensors")) == 2, "it came damaged the first time"

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked_before = len(hub.requests)
    loaded = load_model(ModelSpec(path="org/toy", wordings="brief", max_length=512, max_new_tokens=2))
    assert len(loaded.reply([[{"role": "user", "content": "hi"}]])) == 1
    assert len(hub.requests) == asked_before


def test_a_model_without_safetensors_is_refused(hub: ToyHub) -> None:
    hub.files["model", "org/pickled"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    item = next(i for i in items(models_only("org/pickled")) if i.key == "org--pickled")
    with pytest.raises(DownloadError, match="publishes no safetensors"):
        downloads.listed(look(models_only("org/pickled"), item), Hub())


def test_the_paper_needs_all_and_mini_needs_nothing() -> None:
    assert items(load_profile("mini")) == []
    wanted = items(load_profile("paper"))
    assert {item.name for item in wanted} >= {"corpus", "index", "questions", "mirage", "models"}
    names = {item.sources[0].repo for item in wanted if item.model}
    assert {"intfloat/e5-base-v2", "pat-jj/s3-8-3-3-20steps", "Qwen/Qwen2.5-7B-Instruct"} <= names
    with pytest.raises(DataError, match="unknown item 'corpse': choose from corpus"):
        items(load_profile("paper"), ["corpse"])


# ------------------------------------------------------------------------ what is not as it should be


@pytest.mark.parametrize(
    ("repo", "path", "data", "only", "told"),
    [
        ("PeterJinGo/wiki-18-corpus", "wiki-18.jsonl.gz", gzip.compress(corpus_lines(9), mtime=0)[:-9], "corpus", "not a whole gzip"),
        ("PeterJinGo/wiki-18-corpus", "wiki-18.jsonl.gz", gzip.compress(b'{"id": "0"}\n', mtime=0), "corpus", "missing field 'contents'"),
        ("PeterJinGo/wiki-18-e5-index", "part_aa", b"IxF2" + b"0" * 99, "index", "not a FAISS flat inner-product index"),
        ("PeterJinGo/wiki-18-e5-index", "part_ab", b"short", "index", "fetch it again"),
        ("RUC-NLPIR/FlashRAG_datasets", "nq/dev.jsonl", b'{"id": "1", "question": "q?"}\n', "questions", "golden_answers"),
        ("MedRAG/pubmed", "chunk/p1.jsonl", b'{"id": "1", "title": "t"}\n', "medcorp", "p1.jsonl:1: not a MedRAG snippet"),
        ("raw", "benchmark.json", benchmark({"medqa": 3, "mmlu": 1}), "mirage", "where the benchmark has"),
        ("raw", "benchmark.json", benchmark(CHOICE).replace(b'"answer": "B"', b'"answer": "E"'), "mirage", "medqa/0000"),
        ("raw", "benchmark.json", b"<html>", "mirage", "not MIRAGE's benchmark.json"),
    ],
)  # fmt: skip
def test_a_file_of_another_format_is_told_and_leaves_nothing(
    hub: ToyHub, tmp_path: Path, repo: str, path: str, data: bytes, only: str, told: str
) -> None:
    kind = "raw" if repo == "raw" else "dataset"
    hub.files[kind, repo][path] = data
    with pytest.raises(DownloadError, match=told):
        download(toy(), [only])
    item = next(i for i in items(toy(), [only]))
    assert not look(toy(), item).done
    assert not list(tmp_path.rglob("*.tmp"))


def test_parquet_of_another_make_is_told(hub: ToyHub) -> None:
    import io

    import pyarrow as arrow
    import pyarrow.parquet as parquet

    out = io.BytesIO()
    parquet.write_table(arrow.table({"question": ["who?"]}), out)
    hub.files["dataset", "pat-jj/s3_processed_data"] = {"a.parquet": out.getvalue()}
    with pytest.raises(
        DownloadError, match="data_source, reward_model and extra_info expected; it has question"
    ):
        download(toy(), ["s3-data"])


# ----------------------------------------------------------------------------------------- the command


def test_the_command_tells_and_its_exit_code_too(
    hub: ToyHub, run: Callable[..., tuple[int, str, str]]
) -> None:
    settings = ("--set", "data.corpus=d/wiki.jsonl", "--set", "data.questions=d/q")
    code, out, _ = run("download", "--only", "corpus", "--only", "index", "--dry-run", *settings)
    assert code == 0
    assert "wiki-18" in out and "index" in out
    assert not hub.gets("part_aa")
    code, out, _ = run("download", "--only", "corpus", *settings)
    assert (code, out) == (0, "corpus: fetched and verified, 0.00 GB, 400 lines\n")
    hub.status = {"PeterJinGo/wiki-18-e5-index": 403}
    code, _, err = run("download", "--only", "index", *settings)
    assert code == 1
    assert err.startswith("error: 1 of 1 items are not here\n") and "Traceback" not in err
    assert run("download", "--profile", "mini") == (0, "the profile mini needs nothing from the hub\n", "")


def test_a_hub_out_of_reach_is_tried_once_not_for_every_item(
    hub: ToyHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"8 of 8 items are not here"):
        download(toy(), ["corpus", "index", "questions"])
    assert caplog.text.count("trying again") == 4
    assert not any(one.listed for one in plan(toy(), ["corpus", "index"]))


def test_a_plan_guesses_where_the_hub_cannot_be_asked(hub: ToyHub) -> None:
    hub.status = {"PeterJinGo/wiki-18-corpus": 503}
    (one,) = plan(toy(), ["corpus"])
    assert not one.listed
    assert one.to_fetch == pytest.approx(5.1e9)
