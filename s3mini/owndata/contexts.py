"""Contexts on disk, in the public code's format, for other tools of that family."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..protocols.wordings import render_documents
from ..records import Document, Question
from ..runs.stages import atomic_write


def export_contexts(
    path: str | Path,
    questions: Sequence[Question],
    contexts: Sequence[Sequence[Document]],
    responses: Sequence[str],
) -> Path:
    """Write contexts as the public code does, to be named ``<dataset>_output_sequences.json``.

    ``{question: {"golden_answers": […], "context_with_info": the rendered documents, "response_str": the response}}``

    Raises:
        DataError: counts differ, or two questions have the same text (the format's key).
        StageError: the disk is full.
    """
    counts = [len(questions), len(contexts), len(responses)]
    if len(set(counts)) > 1:
        raise DataError("{} questions, {} contexts, {} responses: give one of each".format(*counts))
    entries = {}
    for question, documents, response in zip(questions, contexts, responses, strict=True):
        text = question.question
        if text in entries:
            raise DataError(f"{path}: {text!r} is asked twice; this format keeps one entry a text")
        entries[text] = {
            "golden_answers": list(question.golden_answers),
            "context_with_info": render_documents(documents),
            "response_str": response,
        }
    return atomic_write(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
