"""The doctor: what it computes, what it says is missing, its exit code; on machines of other sizes and half-installed ones."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import s3mini.doctor.examine as doctor
import s3mini.doctor.footprint as footprint
from s3mini.cli import main
from s3mini.doctor.examine import Examination, Gpu, examine
from s3mini.doctor.footprint import served, trained
from s3mini.hub.sizes import QWEN25, Shape, shape_of
from s3mini.profile import Profile, load_profile

Run = Callable[..., tuple[int, str]]
BIG = 2_000_000_000_000


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        return int(left.value.code or 0), capsys.readouterr().out

    return command


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A machine that has all but the files: six cards, memory, disk, packages."""
    cards = [Gpu("NVIDIA A100-SXM4-80GB", 85e9)] * 6
    monkeypatch.setattr(doctor, "list_gpus", lambda: cards)
    monkeypatch.setattr(doctor, "cores", lambda: 64)
    here = {"system": "Linux", "processor": "x", "memory_gib": 512.0, "cores": 64}
    monkeypatch.setattr(doctor, "machine", lambda: here)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=BIG, used=0, free=BIG))
    monkeypatch.setattr(doctor, "_trouble", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return load_profile("paper")


def missing(found: Examination) -> set[str]:
    return {check.what for check in found.missing}


# ------------------------------------------------------------------------------------ arithmetic


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [  # as the hub lists their files
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", 5.58),
        ("Qwen/Qwen2.5-7B-Instruct", 15.23),
        ("Qwen/Qwen2.5-1.5B-Instruct", 3.09),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.99),
    ],
)
def test_sizes_agree_with_the_published_files(name: str, gigabytes: float) -> None:
    shape = shape_of(name)
    assert shape is not None
    assert shape.file_bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_a_models_own_configuration_is_read() -> None:
    shape = shape_of("data/mini/model")
    assert shape is not None
    weights = Path(footprint.ROOT / "data/mini/model/model.safetensors").stat().st_size
    assert shape.file_bytes == pytest.approx(weights, rel=0.05)
    assert shape_of("somebody/else") is None


def test_adapters_are_counted_as_peft_makes_them() -> None:
    """Two matrices a layer's matrix; checked against peft itself where it is installed."""
    shape = QWEN25["1.5"]
    assert shape.lora_parameters(32) == 2 * shape.lora_parameters(16) == 36_929_536
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from toy_model import toy_model

    model = toy_model(300)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    toy = Shape(2, 32, 48, 4, 2, 8, 300, True)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == toy.lora_parameters(4)


def test_the_profiles_fit_the_cards_they_are_laid_out_for() -> None:
    for name in ("gpu", "paper"):
        profile = load_profile(name)
        parts = footprint.gpu_parts(profile, training=True)
        assert parts is not None and profile.gpu is not None
        assert footprint.total(parts) < profile.gpu.count * profile.gpu.memory_gb * 1e9
        assert (
            footprint.total(footprint.gpu_parts(profile, training=False) or {})
            < 2 * profile.gpu.memory_gb * 1e9
        )
    assert footprint.total(footprint.gpu_parts(load_profile("gpu"), training=False) or {}) < 24e9
    whole = load_profile("gpu", **{"grpo.lora_rank": 0})
    assert footprint.total(footprint.gpu_parts(whole, True) or {}) > 24e9, (
        "which is why the profile trains adapters"
    )
    half = load_profile("gpu", **{"grpo.lora_rank": 0, "searcher.path": "Qwen/Qwen2.5-0.5B-Instruct"})
    assert footprint.total(footprint.gpu_parts(half, True) or {}) < 24e9


def test_each_card_of_a_sharded_training_holds_its_share() -> None:
    """All that `paper` needs, card by card: one serves, five train and hold a whole copy each to roll out with."""
    paper = load_profile("paper")
    roles = dict(footprint.gpu_parts(paper, training=True) or {})
    server = sum(part.size for part in roles["generator"]) + footprint.CONTEXT
    parts = {part.what: part.size for part in roles["searcher, trained"]}
    assert footprint.launched(paper) == 5 and parts["copy that rolls out"] == pytest.approx(
        5 * 15.2e9, rel=0.01
    )
    training = (sum(parts.values()) + sum(part.size for part in roles["encoder"])) / 5 + footprint.CONTEXT
    assert max(server, training) < 80e9
    share = footprint.server_share(load_profile("gpu"), load_profile("gpu").generator, 24e9)
    assert share == pytest.approx((5.6 + 1.7 + 1.5 + 1.0) / 24, abs=0.01), "vLLM would take 0.92 of the card"
    assert footprint.server_share(paper, paper.generator, 80e9) is None, "it has a card of its own"


def test_the_figures_in_the_profiles_are_those_computed() -> None:
    """The comment of gpu.yaml names totals; they are the doctor's."""
    text = (footprint.ROOT / "s3mini/profiles/gpu.yaml").read_text()
    gpu = load_profile("gpu")
    for profile, training in (
        (gpu, True),
        (gpu, False),
        (load_profile("gpu", **{"grpo.lora_rank": 0}), True),
    ):
        assert f"{footprint.total(footprint.gpu_parts(profile, training) or {}) / 1e9:.1f}" in text
    paper = load_profile("paper")
    text = " ".join((footprint.ROOT / "s3mini/profiles/paper.yaml").read_text().split())
    assert f"{footprint.total(footprint.gpu_parts(paper, True) or {}) / 1e9:.0f} on the GPUs to train" in text
    assert f"To evaluate {footprint.total(footprint.gpu_parts(paper, False) or {}) / 1e9:.0f}." in text


def test_the_index_is_counted_by_its_kind_as_the_growth_record_measured_it() -> None:
    def part(what: str, **keys: object) -> float:
        profile = load_profile("paper", **{f"retrieval.dense.{key}": value for key, value in keys.items()})
        (size,) = (p.size for p in footprint.memory_parts(profile) if p.what == what)
        return size

    assert part("dense index") == footprint.WIKI18 * 768 * 4 == 2 * part("dense index", dtype="float16")
    record = json.loads((footprint.ROOT / "data/mini/results/scaling.json").read_text())
    largest = max(row["n"] for row in record["rows"])
    weights = {row["part"]: row["bytes"] / row["n"] for row in record["rows"] if row["n"] == largest}
    # the record's vectors have 384 numbers; of the bytes of an inverted file 8 are an id
    assert part("its sq8", index="sq8") / footprint.WIKI18 == pytest.approx(2 * weights["sq8"], rel=0.01)
    for kind in ("ivf-sq8", "ivf-pq"):
        found = part(f"its {kind}", index=kind) / footprint.WIKI18 - 8
        assert found == pytest.approx(2 * (weights[kind] - 8), rel=0.1)
    assert part("documents") / footprint.WIKI18 == pytest.approx(weights["documents"], rel=0.1)


def test_full_training_counts_float32_state_and_a_reference_only_with_a_kl_term() -> None:
    profile = load_profile("paper")
    shape = shape_of(profile.searcher.path)
    assert shape is not None
    whats = {part.what: part.size for part in trained(shape, profile.searcher, profile.grpo, 1000)}
    assert whats["weights, gradients, AdamW"] == 16.0 * shape.parameters
    assert "reference of the KL term" in whats
    free = profile.grpo.model_copy(update={"beta": 0.0})
    assert "reference of the KL term" not in {p.what for p in trained(shape, profile.searcher, free, 1000)}
    (weights, cache) = served(shape, profile.searcher, 1000, 10)
    assert weights.size == pytest.approx(shape.parameters * 2)
    assert cache.size == 10 * 1000 * 2 * 2 * 28 * 4 * 128


def test_the_papers_numbers_stand_in_its_profile() -> None:
    """Appendix A.2 and the training script."""
    paper = load_profile("paper")
    grpo, dense = paper.grpo, paper.retrieval.dense
    assert (grpo.steps, grpo.questions_per_step, grpo.num_generations) == (20, 120, 5)
    assert (grpo.learning_rate, grpo.beta, grpo.temperature, grpo.epsilon) == (1e-6, 0.001, 0.6, 0.2)
    assert (paper.s3.k, paper.s3.select, paper.s3.turns, paper.s3.begin_k, paper.s3.max_turn_tokens) == (
        8,
        3,
        3,
        3,
        500,
    )
    assert (dense.encoder, dense.query_prefix, dense.passage_prefix) == (
        "intfloat/e5-base-v2",
        "query: ",
        "passage: ",
    )
    assert (dense.max_query_tokens, dense.max_passage_tokens) == (256, 180)
    assert (paper.searcher.path, paper.generator.path, paper.generator.max_length) == (
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-14B-Instruct-GPTQ-Int4",
        8192,
    )
    assert paper.judge.path == paper.generator.path
    assert paper.searcher.max_length >= 2000 + paper.s3.turns * (500 + 1400)
    assert paper.grpo.questions_per_step * paper.grpo.num_generations % paper.grpo.micro_batch == 0


# ------------------------------------------------------------------------------------- verdicts


def test_mini_is_ready_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out = run("doctor", "--profile", "mini")
    assert code == 0
    assert "Ready for mini." in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_small_machine_is_told_what_the_paper_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "list_gpus", list)
    monkeypatch.setenv("COLUMNS", "120")
    code, out = run("doctor", "--profile", "paper")
    assert code == 1
    for told in (
        "6 × A100 (80 GB)",
        "s3mini download --profile paper",
        "HF_HUB_OFFLINE is set",
        "Not ready for paper.",
    ):
        assert told in out
    assert max(map(len, out.splitlines())) <= 120


def test_a_server_lacks_only_the_files(server: Profile) -> None:
    found = examine(server)
    assert missing(found) == {"hub", *(check.what for check in found.data)}
    generator = next(check for check in found.machine if check.what == "generator, judge")
    assert generator.state == "note" and "s3mini serve generator --profile paper" in generator.remedy


def test_with_the_files_it_is_ready(server: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_there", lambda *_: True)
    assert examine(server).ready


@pytest.mark.parametrize(("memory", "state"), [(20e9, "missing"), (200e9, "note"), (500e9, "ok")])
def test_a_card_may_do_to_evaluate_and_not_to_train(
    server: Profile, monkeypatch: pytest.MonkeyPatch, memory: float, state: str
) -> None:
    monkeypatch.setattr(doctor, "list_gpus", lambda: [Gpu("NVIDIA H200", memory)])
    gpu = next(check for check in examine(server).machine if check.what == "GPU")
    assert gpu.state == state


def test_too_little_memory_and_disk_are_missing(server: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "machine", lambda: {"system": "", "processor": "", "memory_gib": 16.0})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=9, used=0, free=10**9))
    told = missing(examine(server))
    assert "memory" in told
    assert any(name.startswith("disk of") for name in told)


def test_what_wheels_bring_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3mini.profile.ROOT", tmp_path)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    wiki = load_profile("wiki")
    told = {check.what: check.remedy for check in doctor._local_data(wiki, [])}
    assert set(told.values()) == {"s3mini download --profile wiki"} and {"corpus", "generator"} <= told.keys()
    own = load_profile("wiki", **{"generator.path": "elsewhere/model"})
    told = {check.what: check.remedy for check in doctor._local_data(own, [])}
    assert told["generator"] == "check the profile's generator.path"


def test_packages_are_held_against_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "trl": "0.9.0", "faiss-gpu": "1.15.1"}
    declared = ["torch>=2.13", 'faiss-cpu<1.16,>=1.15; extra == "cpu"', 'trl<1.17,>=1.16; extra == "train"']

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda _: [*declared, 'ruff; extra == "dev"'])
    base, search, train = doctor.package_checks(load_profile("mini"))
    assert (base.state, base.has) == ("ok", "torch 2.13.0+cpu")
    assert search.state == "ok", "faiss-gpu does what faiss-cpu does"
    assert (train.state, train.remedy) == ("missing", "pip install 's3mini[train]'")
    assert train.has == "trl 0.9.0 is not <1.17,>=1.16"
    del versions["torch"]
    assert doctor.package_checks(load_profile("mini"))[0].has == "torch is missing"


def test_the_hub_is_asked_whether_it_answers(server: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = type("Refusing", (http.server.BaseHTTPRequestHandler,), {"log_message": lambda *_: None})
    answering = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=answering.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{answering.server_port}")
        assert doctor._hub_check(True).state == "ok", "any answer is one"
    finally:
        answering.shutdown()
        answering.server_close()
    assert doctor._hub_check(True).state == "missing"
    assert doctor._hub_check(False).state == "ok", "what is here needs no hub"
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "nonsense://[")
    assert doctor._hub_check(True).state == "missing"


BARE = """
import builtins, importlib.util, sys
real, absent = builtins.__import__, {absent}
def without(name, *rest, **more):
    if name.partition(".")[0] in absent and (rest[3] if len(rest) > 3 else 0) == 0:
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
    return real(name, *rest, **more)
builtins.__import__ = without
spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in absent else spec(name, *rest)
from s3mini.cli import main
main(["doctor", "--profile", "paper"])
"""


def test_a_half_installed_machine_is_examined_all_the_same() -> None:
    """Everything that the command line itself can do without is made to be missing."""
    absent = {
        "torch",
        "transformers",
        "numpy",
        "trl",
        "faiss",
        "pyserini",
        "huggingface_hub",
        "tqdm",
        "packaging",
        "datasets",
    }
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(absent=absent)],
        capture_output=True,
        text=True,
        cwd=footprint.ROOT,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Not ready for paper." in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys, s3mini.doctor.examine; from s3mini.profile import load_profile\n"
        "s3mini.doctor.examine.examine(load_profile('mini'))\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_a_judge_at_a_url_of_its_own_is_served_as_a_generator() -> None:
    """There is no `s3mini serve judge`."""
    profile = load_profile("paper", **{"judge.url": "http://127.0.0.1:9/v1", "judge.path": "my models/judge"})
    told = next(check for check in doctor._service_checks(profile) if check.what == "judge")
    assert (
        "s3mini serve generator --profile paper --set 'generator.path=my models/judge' --port 9"
        in told.remedy
    )
