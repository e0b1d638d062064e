"""Encoders that need no sentence-transformers: the same vectors, and only where nothing else is to be done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s3mini.profile import DenseSpec
from s3mini.retrieval import Encoder
from s3mini.retrieval.mean_pooling import MeanPooledEncoder, is_mean_pooled

MINILM = Path(Encoder(DenseSpec(encoder="minilm")).path)


def test_vectors_are_those_of_sentence_transformers_to_the_last_bit() -> None:
    from sentence_transformers import SentenceTransformer

    theirs, ours = SentenceTransformer(str(MINILM), device="cpu"), MeanPooledEncoder(str(MINILM), "cpu")
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    texts = ["", "a", "Sool wrote *Heroes* in 1922.", "a long text, which is cut " * 40, "川 und Zürich"] * 2
    for length in (16, 128):
        theirs.max_seq_length = ours.max_seq_length = length
        for some in (texts, texts[2:3], []):
            expected = theirs.encode(some, batch_size=4, normalize_embeddings=True, show_progress_bar=False)
            assert np.array_equal(ours.encode(some, batch_size=4), expected.reshape(len(some), 384))


def test_the_shipped_encoder_is_opened_by_transformers_alone() -> None:
    assert isinstance(Encoder(DenseSpec(encoder="minilm")).model, MeanPooledEncoder)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        ("1_Pooling/config.json", {"include_prompt": False}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("config.json", {"model_type": "mpnet"}),
    ],
)
def test_any_other_encoder_is_left_to_the_library(tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(MINILM, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert is_mean_pooled(str(folder))
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **change}))
    assert not is_mean_pooled(str(folder))


def test_neither_a_further_module_nor_a_name_on_the_hub_is_taken(tmp_path: Path) -> None:
    shutil.copytree(MINILM, tmp_path, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([*modules, {"type": "x.Dense", "path": "3_Dense"}]))
    assert not is_mean_pooled(str(tmp_path))
    assert not is_mean_pooled("intfloat/e5-base-v2")
