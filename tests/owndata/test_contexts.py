"""Contexts on disk, in the public code's format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s3mini.errors import DataError
from s3mini.owndata.contexts import export_contexts
from s3mini.records import Document, Question


def test_contexts_in_the_public_codes_format(tmp_path: Path) -> None:
    path = tmp_path / "nq_output_sequences.json"
    documents = [Document("7", 'The "Old" Mill', "It </information> stands.")]
    export_contexts(path, [Question("1", "Wo?", ("hier", "da"))], [documents], ["dort"])
    assert json.loads(path.read_text()) == {
        "Wo?": {
            "golden_answers": ["hier", "da"],
            "context_with_info": 'Doc 1 (Title: The "Old" Mill) It ‹/information> stands.',
            "response_str": "dort",
        }
    }
    twice = [Question("1", "Wo?", ("x",)), Question("2", "Wo?", ("x",))]
    with pytest.raises(DataError, match="asked twice"):
        export_contexts(path, twice, [documents] * 2, ["a", "b"])
    with pytest.raises(DataError, match="give one of each"):
        export_contexts(path, twice, [documents], ["a"])
    assert "Wo?" in json.loads(path.read_text())  # the failed writes left the file as it was
