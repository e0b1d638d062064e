"""The whole pipeline on your own data: import, indexes, naive RAG, training, evaluation, as far as the data allow.

    documents --import--> corpus, indexes -------------------------------------> ask
    questions --import, split--> naive RAG --enough that it fails?--> training --> evaluation

What it decides (sets, start of training, numbers of training) it writes into a profile file, so every command
can take up where it stopped: ``--profile build/<name>/<name>.yaml``. Each step is a stage: run again, it resumes.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..bench import method_spec
from ..errors import DataError
from ..profile import Profile, available, load_profile, set_keys, shown_path
from ..rag import RagCache, precompute, training_filter
from ..results import Results
from ..runs.stages import atomic_write
from ..training.parts import training_questions
from .fields import Fields
from .importing import CORPUS, FEWEST_TO_SPLIT, QUESTIONS, STAGE, Imported, import_data
from .passages import WORDS

FEWEST_TO_TRAIN = 8  # questions that naive RAG fails: one group each is the least a step can learn from
ROUNDS = 8  # how often training may come back to a question
UNTRAINED = ("direct", "rag-bm25", "rag-dense", "s3-untrained")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Owned:
    """What the pipeline left: the profile file and its profile, what came in, and ``results.json``'s content, if any."""

    path: Path
    profile: Profile
    imported: Imported
    results: Results | None = None


def default_name(documents: str | Path) -> str:
    """A name for a data set, from its file or folder."""
    stem = Path(documents).resolve().name.split(".")[0]
    return re.sub(r"[^\w-]+", "-", stem, flags=re.A).strip("-_") or "mydata"


def own(
    documents: str | Path,
    questions: str | Path | None = None,
    *,
    name: str | None = None,
    base: str = "mini",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    fields: Fields | None = None,
    words: int = WORDS,
    split_seed: int = 0,
    skip_bad: bool = False,
    searcher: str | Path | None = None,
    untrained: bool = False,
    only_import: bool = False,
    training: bool = True,
    tell: Callable[[str], None] = print,
    progress: bool = True,
) -> Owned:
    """Import, then index, precompute, train and evaluate, as far as the data allow; done work is found.

    Args:
        documents: a file or folder (`files.read_rows`). questions: a file; None stops after the indexes.
        name: of the question set and of the folder below ``build/``; None takes the documents' own.
        base: the profile, or its file, that gives models and numbers.
        settings: dotted profile keys on top of it.
        searcher: folder of a trained searcher to begin with; None takes the checkpoint that ``base`` names for s3,
            if any. untrained: begin with the base model.
        only_import: stop after the import. training: False leaves it out.
        tell: told each step and where its result lies.

    Raises:
        DataError: data that cannot be used, by ``file:line``; a name that is taken.
        ProfileError: unknown base or key. StageError: the disk is full.
        RetrievalError, ModelError: a part failed; run again to go on.
    """
    name = name or default_name(documents)
    start = {} if untrained else _start(load_profile(base), searcher)
    given = {**start, **(settings or {}), "name": name}
    provisional = load_profile(base, **given)
    _check_name(name, provisional)
    imported = import_data(
        provisional,
        documents,
        questions,
        fields=fields,
        words=words,
        split_seed=split_seed,
        skip_bad=skip_bad,
        progress=progress,
    )
    tell(f"import: {imported}, in {shown_path(imported.path)}")
    keys = {"name": name, **_data_keys(provisional, imported, training), **given}
    path, profile = _write_profile(base, keys)
    tell(f"profile: {shown_path(path)}")
    if only_import:
        return Owned(path, profile, imported)

    from ..retrieval import build_index

    for kind in ("lexical", "dense"):
        tell(f"{kind} index: {shown_path(build_index(profile, kind, progress))}")
    if not imported.splits:
        tell("no questions, so nothing to train or evaluate")
        return Owned(path, profile, imported)

    splits = ("train", "test") if profile.data.train_sets else ("test",)
    cache = precompute(profile, splits=splits, progress=progress)
    tell(f"naive RAG: {len(cache)} answers in {shown_path(profile.build / 'rag')}")
    plan, why = plan_training(profile, cache)
    if training:
        tell(f"training: {why}")
    training = training and bool(plan)
    methods = [*UNTRAINED, *(["s3"] if training else [])]
    path, profile = _write_profile(base, {**keys, **plan, "evaluation.methods": methods, **given})
    if training:
        from ..grpo import train

        tell(f"searcher: {shown_path(train(profile, seed, progress=progress))}")

    from ..evaluation import evaluate
    from ..report.page import write_report

    results = evaluate(profile, seed=seed, progress=progress)
    tell(f"results: {shown_path(profile.build / 'results.json')}")
    tell(f"report: {shown_path(write_report(profile, results))}")
    return Owned(path, profile, imported, results)


def plan_training(profile: Profile, cache: RagCache) -> tuple[dict[str, Any], str]:
    """GRPO's numbers for as many questions as are worth training on, and a sentence on them; {} for too few.

    A step takes no more questions than there are, and none comes back more than `ROUNDS` times.
    """
    if not profile.data.train_sets:
        remedy = f"so few all go to the test; give {FEWEST_TO_SPLIT} or more"
        return {}, f"left out: none of the questions is for training ({remedy})"
    asked = training_questions(profile)
    kept, left = len(asked), f"{len(asked)} training questions"
    if profile.grpo.filtered:
        try:
            kept = len(training_filter(asked, cache)[0])
        except DataError:  # its only reason: nothing is left
            kept = 0
        left = f"of {len(asked)} training questions naive RAG leaves {kept}"
    if kept < FEWEST_TO_TRAIN:
        return {}, f"left out: {left}; fewer than {FEWEST_TO_TRAIN} teach nothing (give more, or harder ones)"
    spec = profile.grpo
    per_step = min(spec.questions_per_step, kept)
    steps = min(spec.steps, max(1, ROUNDS * kept // per_step))
    plan = {"grpo.questions_per_step": per_step, "grpo.steps": steps}
    return plan, f"{steps} steps of {per_step} questions; {left}"


def _check_name(name: str, profile: Profile) -> None:
    """Refuse a name that is no folder's, or under which something else was built."""
    if not _NAME.fullmatch(name) or name in available():
        remedy = "use letters, digits, - and _, and no profile's name: --name"
        raise DataError(f"{name!r} cannot be the data's name ({remedy})")
    if profile.build.exists() and not (profile.build / STAGE).exists():
        raise DataError(f"{profile.build}: the name is taken by something else (choose another with --name)")


def _start(base: Profile, searcher: str | Path | None) -> dict[str, Any]:
    """What s3 begins with here: a trained searcher, or the one that ``base`` starts from."""
    spec = method_spec(base, "s3")
    path = spec.checkpoint if searcher is None else str(searcher)
    if searcher is not None and Path(searcher).is_dir():  # else a name, as profiles write it
        path = _short(Path(searcher), base)
    if path is None:
        return {}
    model = (spec.model or base.searcher).model_copy(update={"path": path})
    return {
        "protocols.s3.model": model.model_dump(mode="json"),
        "protocols.s3.checkpoint": None,
        "protocols.s3.start": None,
    }


def _short(path: Path, profile: Profile) -> str:
    """A path below the root as profiles write it."""
    root, path = profile.resolve("").absolute(), Path(os.path.abspath(path))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _data_keys(profile: Profile, imported: Imported, training: bool) -> dict[str, Any]:
    """The keys of the profile that say where the data lie and what is done with them."""
    sets = [profile.name] if imported.splits else []
    train_sets = sets if "train" in imported.splits else []
    return {
        "description": f"Own data: {imported}",
        "records": None,  # the base's are of another corpus
        "data.corpus": _short(imported.path / CORPUS, profile),
        "data.questions": _short(imported.path / QUESTIONS, profile),
        "data.sets": sets,
        "data.train_sets": list(train_sets),  # a copy: YAML would write a reference
        "evaluation.methods": [*UNTRAINED, *(["s3"] if train_sets and training else [])],
        "evaluation.choice_profile": None,
        "evaluation.other_generator": None,
        "evaluation.sentence_generator": None,
    }


def _write_profile(base: str, keys: Mapping[str, Any]) -> tuple[Path, Profile]:
    """``build/<name>/<name>.yaml``: a base that ships is named, any other is written out."""
    profile = load_profile(base, **keys)
    path = profile.build / f"{profile.name}.yaml"
    content = {"extends": base} if base in available() else profile.model_dump(mode="json")
    set_keys(content, keys, str(path))
    head = "# Written by `s3mini own`, and again whenever it runs; every command takes it as its --profile.\n"
    atomic_write(path, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path, load_profile(str(path))
