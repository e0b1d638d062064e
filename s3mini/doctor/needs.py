"""What a profile needs of a machine, computed: memory and disk. Nothing is loaded, nothing is asked for.

Every figure is a `Part` with the formula it comes from. Workloads (tokens a question, questions a set) are those of the
paper's setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..hub.catalogue import MIRAGE
from ..hub.download import data_folder
from ..hub.sizes import ENCODERS, Part, served, shape_of, trained
from ..profile import ROOT, ModelSpec, Profile
from ..runs.stages import read_manifest

CONTEXT = 1.5e9  # bytes a process keeps on a card beside its tensors
WORKING = 1e9  # bytes that a server computes in
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


def launched(profile: Profile) -> int:
    """Processes that train, one per GPU: all but the one that serves the generator."""
    return max(1, profile.gpu.count - 1) if profile.gpu is not None else 1


def gpu_parts(profile: Profile, training: bool) -> list[tuple[str, list[Part]]] | None:
    """(role, parts) of what lies on the GPUs at one time; None where a model's shape is not known.

    Several processes without adapters shard the model in training, and keep a whole copy each to roll out with.
    """
    tokens, grpo = episode_tokens(profile), profile.grpo
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
    processes = launched(profile) if training else 1
    if training:
        sharded = processes > 1 and not grpo.lora_rank
        fine = {} if sharded or grpo.lora_rank else {"dtype": "float32"}  # it rolls out as it is trained
        episodes = -(-grpo.questions_per_step * grpo.num_generations // processes)
        copy, rollout = served(searcher, spec.model_copy(update=fine), tokens, min(spec.max_rows, episodes))
        update = trained(searcher, spec, grpo, tokens)
        own = [part for part in update if part.what not in ("activations", "logits")]
        # rolling out and updating take turns: what one of them needs beside the weights is lent to the other
        passing = [part for part in update if part.what in ("activations", "logits")]
        larger = [rollout] if rollout.size > sum(part.size for part in passing) else passing
        each = [replace(copy, what="copy that rolls out"), *larger] if sharded else [*own, *larger]
        found.append(("searcher, trained", [*(own if sharded else []), *_times(processes, each)]))
    else:
        writers = [(searcher, spec.trained(ROOT) if profile.data.train_sets else spec)]
        writers += [
            (shape, method.model)
            for method in profile.protocols.values()
            if method.model and method.model.engine == "local" and (shape := shape_of(method.model.path))
        ]
        sized = [served(shape, model, tokens, model.max_rows) for shape, model in writers]
        found.append(("largest searcher", max(sized, key=lambda parts: sum(part.size for part in parts))))
    encoder, _ = ENCODERS.get(profile.retrieval.dense.encoder, (0.5e9, 768))
    found.append(("encoder", _times(processes, [Part("weights", encoder, "float32")])))
    contexts = processes + (profile.generator.engine != spec.engine)
    found.append(("CUDA", [Part("contexts", CONTEXT * contexts, f"{contexts} × {CONTEXT / 1e9:g} GB")]))
    return found


def _times(count: int, parts: Sequence[Part]) -> list[Part]:
    if count == 1:
        return list(parts)
    return [Part(part.what, count * part.size, f"{count} × ({part.why})") for part in parts]


def server_share(profile: Profile, spec: ModelSpec, card: float) -> float | None:
    """The share of a card of ``card`` bytes that a server of the frozen ``spec`` is to take; None: as much as it likes.

    Only where the profile has one card for everything: vLLM would fill it.
    """
    shape = shape_of(spec.path)
    if shape is None or profile.gpu is None or profile.gpu.count > 1:
        return None
    parts = served(shape, spec, answer_tokens(profile), min(spec.batch_size, ROWS))
    return round(min(0.9, (sum(part.size for part in parts) + CONTEXT + WORKING) / card), 2)


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
    shape, processes = shape_of(profile.searcher.path), launched(profile)
    if processes > 1:
        more = Part("Python of the other processes", 2.0e9 * (processes - 1), f"{processes - 1} × 2 GB")
        parts.append(more)
        if shape is not None and profile.grpo.beta and not profile.grpo.lora_rank:
            what, why = (
                "references while they are loaded",
                f"{processes} × {shape.parameters / 1e9:.2f} B × 4 bytes",
            )
            parts.append(Part(what, processes * shape.parameters * 4.0, why))
    if not big(profile):
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
