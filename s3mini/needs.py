"""What a profile needs of a machine, computed: memory, disk, hours by stage. Nothing is loaded, nothing is asked for.

Every figure is a `Part` with the formula it comes from. Workloads (tokens a question, questions a set) are those of the
paper's setting; what was measured is taken instead, where a stage has run here or its record ships.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .download import data_folder
from .profile import ROOT, ModelSpec, Profile
from .published import MIRAGE
from .sizes import ENCODERS, Part, Shape, served, shape_of, trained
from .stages import read_manifest, stage_times

CARDS = {  # dense bfloat16 operations and bytes of memory traffic a second, as their makers state them
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L40S": (362e12, 0.86e12),
    "A10": (125e12, 0.6e12),
    "L4": (121e12, 0.3e12),
    "4090": (165e12, 1.01e12),
    "3090": (71e12, 0.94e12),
}
REACHED = 0.4  # share of a card's operations that reading and training reach
STREAMED = 0.6  # share of its memory traffic that writing token by token reaches
CONTEXT = 1.5e9  # bytes a process keeps on a card beside its tensors
DOCUMENT_TOKENS = 140  # a wiki-18 passage: 100 words
QUESTION_TOKENS = 120  # a question with the prompt around it
ANSWER_TOKENS = 20
TURN_TOKENS = 150  # what a searcher writes in a turn; its limit is far above
ROWS = 64  # answers written side by side; a server lets more requests than its cache holds wait
WIKI18 = 21_015_324
MADE = {"train": {"nq": 79_168, "hotpotqa": 90_447}, "test": {
    "nq": 3_610, "triviaqa": 11_313, "popqa": 14_267, "hotpotqa": 7_405, "2wiki": 12_576, "musique": 2_417,
    **MIRAGE,
}}  # fmt: skip
"""Questions of the public sets, for a count before they are here."""
RECORD = "data/mini/results/seed0.json"
_STAGES = ("index", "rag", "train", "evaluation")


@dataclass(frozen=True, slots=True)
class Speed:
    """A card's operations and bytes a second, and how many of it; and the processor's float32 operations."""

    name: str
    operations: float
    traffic: float
    count: int = 1
    processor: float = 0.6e12  # a server of 16 cores


def documents(profile: Profile) -> int:
    """Documents of the corpus: counted, or known from its download, or wiki-18's where that is what will come."""
    path = profile.resolve(profile.data.corpus)
    known = read_manifest(data_folder(profile) / ".hub" / "corpus").get("facts", {}).get("lines")
    if known:
        return int(known)
    if path.is_file():
        size = path.stat().st_size
        if size > 1 << 28 or path.suffix == ".gz":
            return int(size / 680)  # bytes a passage of wiki-18
        with open(path, "rb") as lines:
            return sum(1 for _ in lines)
    return WIKI18 if "corpus" in profile.data.hub else 0


def questions(profile: Profile, split: str) -> int:
    """Questions of a split over the profile's sets, cut to its limits: counted, or the public sets' own numbers."""
    data = profile.data
    names, limit = (data.train_sets, data.train_limit) if split == "train" else (data.sets, data.test_limit)
    total = 0
    for name in names:
        folder = profile.resolve(data.questions) / name
        order = ("train",) if split == "train" else ("test", "dev", "train")
        path = next((p for s in order if (p := folder / f"{s}.jsonl").is_file()), None)
        number = MADE[split].get(name, 0)
        if path is not None:
            with open(path, "rb") as lines:
                number = sum(1 for _ in lines)
        total += min(number, limit or number)
    return total


# ------------------------------------------------------------------------------------- memory


def episode_tokens(profile: Profile) -> int:
    """Tokens of a whole s3 episode, prompt included."""
    s3 = profile.s3
    shown = s3.begin_k + s3.turns * s3.k
    return (
        400
        + QUESTION_TOKENS
        + shown * DOCUMENT_TOKENS
        + (s3.turns + 1) * min(TURN_TOKENS, s3.max_turn_tokens)
    )


def answer_tokens(profile: Profile) -> int:
    """Tokens that the generator reads and writes for a question with what s3 selected."""
    s3 = profile.s3
    return QUESTION_TOKENS + (s3.begin_k + s3.turns * (s3.select or s3.k)) * DOCUMENT_TOKENS + ANSWER_TOKENS


def big(profile: Profile) -> bool:
    """Whether the profile is laid out for GPUs."""
    return profile.gpu is not None


def gpu_parts(profile: Profile, training: bool) -> list[tuple[str, list[Part]]] | None:
    """(role, parts) of what lies on the GPUs at one time; None where a model's shape is not known."""
    tokens = episode_tokens(profile)
    searcher, spec = shape_of(profile.searcher.path), profile.searcher
    found: list[tuple[str, list[Part]]] = []
    for role in ("generator", "judge"):
        frozen: ModelSpec = getattr(profile, role)
        if role == "judge" and frozen.path == profile.generator.path:
            continue  # one copy of the weights serves both
        shape = shape_of(frozen.path)
        if shape is None:
            return None
        found.append((role, served(shape, frozen, answer_tokens(profile), min(frozen.batch_size, ROWS))))
    if searcher is None:
        return None
    writing = served(searcher, spec, tokens, spec.max_rows)
    if training:
        # rolling out and updating take turns: what one of them needs beside the weights is lent to the other
        update, rollout = trained(searcher, spec, profile.grpo, tokens), writing[1]
        own = [p for p in update if p.what not in ("activations", "logits")]
        passing = [p for p in update if p.what in ("activations", "logits")]
        larger = [rollout] if rollout.size > sum(p.size for p in passing) else passing
        found.append(("searcher, trained", own + larger))
    else:
        found.append(("searcher", writing))
    encoder, _ = ENCODERS.get(profile.retrieval.dense.encoder, (0.5e9, 768))
    found.append(("encoder", [Part("weights", encoder, "float32")]))
    processes = len({profile.generator.engine, profile.searcher.engine})
    found.append(("CUDA", [Part("contexts", CONTEXT * processes, f"{processes} × {CONTEXT / 1e9:g} GB")]))
    return found


def total(parts: Sequence[tuple[str, list[Part]]]) -> float:
    """Bytes of all parts."""
    return sum(part.size for _, ones in parts for part in ones)


def _vectors(profile: Profile) -> Part:
    dense, number = profile.retrieval.dense, documents(profile)
    _, dimension = ENCODERS.get(dense.encoder, (0.0, 768))
    each = 2 if dense.dtype == "float16" else 4
    return Part("dense index", float(number * dimension * each), f"{number:,} × {dimension} × {each} bytes")


def _candidates(profile: Profile) -> list[Part]:
    """The compressed index that looks for candidates, where the profile has one; its cells' ids are 8 bytes each."""
    dense, number = profile.retrieval.dense, documents(profile)
    _, dimension = ENCODERS.get(dense.encoder, (0.0, 768))
    each = {"sq8": dimension, "ivf-sq8": dimension + 8, "ivf-pq": dimension / 8 + 8}.get(dense.index)
    return [Part(f"its {dense.index}", number * each, f"{number:,} × {each:g} bytes")] if each else []


def _places(number: int) -> Part:
    return Part(
        "documents",
        number * 36.0,
        f"{number:,} × 36 bytes: places, hashes, ids; the texts are read when asked for",
    )


def memory_parts(profile: Profile) -> list[Part]:
    """What lies in the machine's own memory."""
    number = documents(profile)
    parts = [Part("Python and its libraries", 2.0e9, "torch, transformers, Lucene")]
    if profile.retrieval.kind == "dense":
        # mapped, so it need not be in memory, but exact search reads all of it for every query
        parts += _candidates(profile) or [_vectors(profile)]
    if profile.retrieval.kind != "remote":
        parts.append(_places(number))
    if not big(profile):
        shape = shape_of(profile.searcher.path)
        parts.append(
            Part("models", (shape.parameters if shape else 0) * 40.0, "weights, gradients, AdamW, caches")
        )
    return parts


def disk_parts(profile: Profile) -> list[Part]:
    """What a whole run writes under ``build/``; downloads are counted apart."""
    number = documents(profile)
    linked = "index" in profile.data.hub
    parts = [
        Part("dense index", 0.0, "the downloaded one is linked") if linked else _vectors(profile),
        *_candidates(profile),
        _places(number),
        Part("lexical index", number * 450.0, f"{number:,} × 450 bytes"),
        Part("answers and episodes", (questions(profile, "train") + 12 * questions(profile, "test")) * 4e3, "4 kB each"),
    ]  # fmt: skip
    shape, grpo = shape_of(profile.searcher.path), profile.grpo
    if shape is not None:
        checkpoint = shape.parameters * 4.0 * (1 if grpo.lora_rank else 3)
        parts.append(
            Part(
                "checkpoints",
                2 * checkpoint + shape.parameters * 4.0,
                "the last two, and the trained searcher",
            )
        )
    return parts


# -------------------------------------------------------------------------------------- hours


@cache
def cpu_operations() -> float:
    """Float32 operations a second of this machine's processor in a matrix product, measured for 0.2 s."""
    try:
        import numpy as np
    except ImportError:
        return 5e10
    a = np.ones((768, 768), np.float32)
    a @ a
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        a @ a
        rounds += 1
    return rounds * 2 * 768**3 / (time.perf_counter() - started)


def generation(shape: Shape, read: float, written: float, rows: int, speed: Speed) -> float:
    """Seconds for ``read`` tokens read at once and ``written`` tokens written by ``rows`` rows side by side."""
    reading = 2.0 * shape.parameters * read / (speed.operations * REACHED)
    step = shape.file_bytes + rows * 2000 * shape.kv_bytes  # bytes that a step reads: weights and caches
    return (reading + written / rows * step / (speed.traffic * STREAMED)) / speed.count


def hours(profile: Profile, speed: Speed | None) -> list[tuple[str, float | None, str]]:
    """(stage, hours or None where nothing is known, how it comes about), in the order of a run."""
    measured = {stage: seconds for stage, seconds in _measured(profile).items() if seconds is not None}
    computed = _computed(profile, speed) if speed is not None else {}
    rows: list[tuple[str, float | None, str]] = []
    for stage in _STAGES:
        if stage == "train" and not profile.data.train_sets:
            continue
        if stage in measured:
            seconds, why = measured[stage]
            rows.append((stage, seconds / 3600, why))
        elif stage in computed:
            seconds, why = computed[stage]
            rows.append((stage, seconds / 3600, why))
        else:
            rows.append((stage, None, "not run here yet, and no record of it"))
    return rows


def _measured(profile: Profile) -> dict[str, tuple[float, str] | None]:
    """Seconds by stage of what ran here; else, for the mini world's profiles, from the record that ships, by share of the work."""
    here = _by_stage({name: float(m["seconds"]) for name, m in stage_times(profile).items()})
    found: dict[str, tuple[float, str] | None] = {s: (n, "measured: it ran here") for s, n in here.items()}
    record = ROOT / RECORD
    if profile.searcher.path != "data/mini/model" or not record.is_file():
        return found
    results = json.loads(record.read_text(encoding="utf-8"))
    theirs = _by_stage({name: float(m["seconds"]) for name, m in results["stages"].items()})
    grpo, where = (
        profile.grpo,
        f"from the record of {results['machine']['cores']} cores, by share of the work",
    )
    runs = next(run for name, run in results["training"].items() if name.startswith("s3"))
    shares = {
        "index": documents(profile) / 2680,
        "rag": (questions(profile, "train") + questions(profile, "test")) / 2600,
        "train": grpo.steps * grpo.questions_per_step * grpo.num_generations / runs["episodes"],
        "evaluation": questions(profile, "test")
        * len(profile.evaluation.methods)
        / (1200 * len(results["methods"])),
    }
    theirs["train"] = float(runs["seconds"])
    for stage, share in shares.items():
        if stage not in found and stage in theirs:
            found[stage] = (theirs[stage] * share, where)
    return found


def _by_stage(times: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, seconds in times.items():
        stage = name.partition("/")[0]
        if stage in _STAGES:
            found[stage] = found.get(stage, 0.0) + seconds
    return found


def _computed(profile: Profile, speed: Speed) -> dict[str, tuple[float, str]]:
    """Seconds by stage from operations and bytes."""
    searcher, generator = shape_of(profile.searcher.path), shape_of(profile.generator.path)
    number, grpo, s3 = documents(profile), profile.grpo, profile.s3
    if searcher is None or generator is None or not number:
        return {}
    _, dimension = ENCODERS.get(profile.retrieval.dense.encoder, (0.0, 768))
    search = 2.0 * number * dimension / (speed.processor * 0.5) if profile.retrieval.kind == "dense" else 0.01
    rows, writers = min(profile.generator.batch_size, ROWS), profile.searcher.max_rows
    train, test = questions(profile, "train"), questions(profile, "test")
    judged = 0.5  # of the answers, where the span match fails
    naive = QUESTION_TOKENS + profile.rag.k * DOCUMENT_TOKENS

    def answer(count: float, tokens: int) -> float:
        read, written = count * (tokens + judged * 150), count * (ANSWER_TOKENS + judged * 3)
        return generation(generator, read, written, rows, speed)

    def search_all(count: float, each: float) -> float:
        return generation(
            searcher, count * episode_tokens(profile), count * s3.turns * TURN_TOKENS, writers, speed
        ) + (count * each * search)

    linked = "index" in profile.data.hub
    encoder_work = 2.0 * 110e6 * DOCUMENT_TOKENS * number / (speed.operations * REACHED * speed.count)
    index = 65e9 / 0.5e9 * 2 if linked else encoder_work
    lexical = number / (1000.0 * 8)
    episodes = float(grpo.steps * grpo.questions_per_step * grpo.num_generations)
    passes = (
        8.0 if not grpo.lora_rank else 6.0
    )  # forward 2, again for the checkpoints 2, backward 4 (2 with frozen weights)
    passes += 2.0 if grpo.beta else 0.0
    update = passes * searcher.parameters * episodes * episode_tokens(profile) / (
        speed.operations * REACHED * speed.count
    )  # fmt: skip
    rollout, reading = search_all(episodes, s3.turns + 1), answer(episodes, answer_tokens(profile))
    methods = len(profile.evaluation.methods)
    return {
        "index": (
            index + lexical,
            "linked and read twice" if linked else "encoding; Lucene at 8,000 passages a second",
        ),
        "rag": (
            answer(train + test, naive) + (train + test) * search,
            f"{train + test:,} questions: {(train + test) * search / 3600:.1f} h of search at {search * 1e3:.0f} ms",
        ),
        "train": (
            rollout + reading + update,
            f"{episodes:,.0f} episodes × {episode_tokens(profile)} tokens: rollouts {rollout / 3600:.1f} h, "
            f"answers {reading / 3600:.1f} h, updates {update / 3600:.1f} h",
        ),
        "evaluation": (
            methods * (search_all(test, 2.5) + answer(test, answer_tokens(profile))) * 0.7,
            f"{methods} methods × {test:,} questions, 0.7 of s3's work each",
        ),
    }
