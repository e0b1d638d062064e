"""The command that starts vLLM for a profile's model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3mini.cli import main
from s3mini.errors import ModelError
from s3mini.models.http import vllm_server
from s3mini.models.http.vllm_server import serve_command
from s3mini.profile import ROOT, ModelSpec

SPEC = ModelSpec(path="data/mini/model", max_length=2048, batch_size=16)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "vllm"
    found.write_text("#!/bin/sh\n")
    monkeypatch.setattr(vllm_server, "PLACES", (tmp_path / "nowhere", found))
    return found


def flags(command: list[str]) -> dict[str, str]:
    return {a: b for a, b in zip(command, command[1:], strict=False) if a.startswith("--")}


def test_the_model_is_served_under_its_name_with_no_settings_of_its_own(program: Path) -> None:
    command, environment = serve_command(SPEC, "127.0.0.1", 8123)
    assert command[:3] == [str(program), "serve", str(ROOT / "data/mini/model")]
    expected = {
        "--served-model-name": "data/mini/model", "--host": "127.0.0.1", "--port": "8123", "--dtype": "float32",
        "--max-model-len": "2048", "--generation-config": "vllm", "--logprobs-mode": "processed_logprobs",
    }  # fmt: skip
    assert flags(command) == expected and "--enforce-eager" not in command
    assert environment["VLLM_NO_USAGE_STATS"] == "1" and "VLLM_SERVER_DEV_MODE" not in environment


def test_a_cpu_a_training_and_options_of_ones_own(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    command, environment = serve_command(SPEC, "127.0.0.1", 1, cpu=True, trained=True, more=["--seed", "7"])
    assert "--enforce-eager" in command and command[-2:] == ["--seed", "7"]
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "3" and environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert flags(command)["--weight-transfer-config"] == '{"backend": "nccl"}'
    hub, _ = serve_command(SPEC.model_copy(update={"path": "Qwen/Qwen2.5-7B-Instruct"}), "127.0.0.1", 1)
    assert hub[2] == "Qwen/Qwen2.5-7B-Instruct"


def test_without_vllm_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vllm_server, "PLACES", (tmp_path / "nowhere",))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="make vllm-cpu"):
        serve_command(SPEC, "127.0.0.1", 1)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "generator"])
    assert ended.value.code == 1 and "make vllm-cpu" in capsys.readouterr().err


def test_the_commands_become_vllm(program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    became: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *given: became.append(given))
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "config.json").write_text("{}")
    for arguments in (
        ["generator", "--port", "8124", "--set", "generator.max_length=512", "--tensor-parallel-size", "2"],
        ["searcher", "--searcher", str(trained)],
        ["searcher", "--training"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *arguments])
        assert not ended.value.code
    generator, searcher, training = (command for _, command, _ in became)
    assert generator[-2:] == ["--tensor-parallel-size", "2"]
    assert (flags(generator)["--port"], flags(generator)["--max-model-len"]) == ("8124", "512")
    assert searcher[2] == flags(searcher)["--served-model-name"] == str(trained.resolve())
    assert training[2] == str(ROOT / "data/mini/model") and "--weight-transfer-config" in training
    assert all(path == command[0] == str(program) for path, command, _ in became)
    assert became[2][2]["VLLM_SERVER_DEV_MODE"] == "1" and "PATH" in became[0][2]
