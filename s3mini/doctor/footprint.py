"""The memory and the disk that a profile takes, computed. Nothing is loaded, nothing is asked for.

Every figure is a `Part` with the formula it comes from. Lengths in tokens are those of the paper's setting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..hub.download import data_folder
from ..hub.sizes import ENCODERS, Shape, index_bytes, shape_of
from ..profile import ROOT, GrpoSpec, ModelSpec, Profile
from ..runs.stages import read_manifest

CONTEXT = 1.5e9  # bytes a process keeps on a card beside its tensors
WORKING = 1e9  # bytes that a server computes in
DOCUMENT_TOKENS = 140  # a wiki-18 passage: 100 words
QUESTION_TOKENS = 120  # a question with the prompt around it
ANSWER_TOKENS = 20
TURN_TOKENS = 150  # what a searcher writes in a turn; its limit is far above
ROWS = 64  # answers written side by side; a server lets more requests than its cache holds wait
WIKI18 = 21_015_324
_NUMBER = {"float32": 4.0, "fastest": 4.0, "bfloat16": 2.0}  # bytes; of the fastest at most


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that takes memory, and how the bytes come about."""

    what: str
    size: float
    why: str


def total(parts: Mapping[str, Sequence[Part]]) -> float:
    """Bytes of all parts of all roles."""
    return sum(part.size for ones in parts.values() for part in ones)


def launched(profile: Profile) -> int:
    """Processes that train, one per GPU: all but the one that serves the generator."""
    return max(1, profile.gpu.count - 1) if profile.gpu is not None else 1


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


def served(shape: Shape, spec: ModelSpec, tokens: int, rows: int) -> list[Part]:
    """A model answering ``rows`` conversations of ``tokens`` tokens at a time."""
    each = _NUMBER.get(spec.dtype, shape.stored)
    kv = shape.kv_bytes * each / 2
    kind = f"{shape.bits}-bit layers, the rest" if shape.bits else f"{_billions(shape)} weights"
    return [
        Part("weights", shape.weight_bytes(each), f"{kind} × {each:g} bytes"),
        Part("key-value cache", kv * tokens * rows, f"{rows} rows × {tokens} tokens × {kv / 1024:g} KiB"),
    ]


def trained(shape: Shape, spec: ModelSpec, grpo: GrpoSpec, tokens: int) -> list[Part]:
    """A searcher in training by GRPO, episodes of ``tokens`` tokens, gradient checkpointing on; passing tensors last.

    Full fine-tuning keeps weights, gradients and both moments of AdamW in float32: at a learning rate of 1e-6 an
    update is a hundredth of the last bit of a bfloat16 weight and would be rounded away. With LoRA only the adapters are kept so;
    the weights below them stay as they are loaded.
    """
    each, billions = _NUMBER.get(spec.dtype, shape.stored), _billions(shape)
    weights = shape.weight_bytes(each)
    if grpo.lora_rank:
        adapter = shape.lora_parameters(grpo.lora_rank)
        why = f"{adapter / 1e6:.0f} M × (4 weight + 4 gradient + 8 AdamW) bytes"
        parts = [Part("weights, frozen", weights, f"{billions} × {each:g} bytes")]
        parts.append(Part("adapters", adapter * 16.0, why))
    else:
        why = f"{billions} × (4 + 4 + 8) bytes"
        parts = [Part("weights, gradients, AdamW", shape.parameters * 16.0, why)]
        if grpo.beta:
            parts.append(Part("reference of the KL term", shape.parameters * 4.0, f"{billions} × 4 bytes"))
    if not grpo.beta:
        why = f"{billions} × {each:g} bytes, kept to measure the KL"
        parts.append(Part("model it began as", weights, why))
    rows = grpo.micro_batch
    inputs = rows * tokens * shape.layers * shape.hidden * 2.0
    layer = rows * tokens * (shape.hidden * 8 + shape.intermediate * 4) * 2.0
    logits = rows * min(tokens, grpo.max_completion_length) * shape.vocabulary * 4.0 / 8
    why = f"{rows} × {tokens} tokens: each layer's input, one layer whole"
    parts.append(Part("activations", inputs + layer, why))
    why = f"{rows} × {tokens} × {shape.vocabulary} × 4 bytes, in 8 pieces"
    return [*parts, Part("logits", logits, why)]


def _billions(shape: Shape) -> str:
    return f"{shape.parameters / 1e9:.2f} B"


def episode_tokens(profile: Profile) -> int:
    """Tokens of a whole s3 episode, its instructions of 400 included."""
    s3 = profile.s3
    shown, written = s3.begin_k + s3.turns * s3.k, min(TURN_TOKENS, s3.max_turn_tokens)
    return 400 + QUESTION_TOKENS + shown * DOCUMENT_TOKENS + (s3.turns + 1) * written


def frozen(profile: Profile, spec: ModelSpec) -> list[Part] | None:
    """Generator or judge, reading what s3 selected; None where its shape is not known."""
    s3, shape = profile.s3, shape_of(spec.path)
    shown = s3.begin_k + s3.turns * (s3.select or s3.k)
    tokens = QUESTION_TOKENS + shown * DOCUMENT_TOKENS + ANSWER_TOKENS
    return served(shape, spec, tokens, min(spec.batch_size, ROWS)) if shape is not None else None


def gpu_parts(profile: Profile, training: bool) -> dict[str, list[Part]] | None:
    """What lies on the GPUs at one time, by role; None where a model's shape is not known.

    Several processes without adapters shard the model in training, and keep a whole copy each to roll out with.
    """
    shape, spec, generator = shape_of(profile.searcher.path), profile.searcher, profile.generator
    roles = {"generator": frozen(profile, generator)}
    if profile.judge.path != generator.path:  # else one copy of the weights serves both
        roles["judge"] = frozen(profile, profile.judge)
    parts = {role: ones for role, ones in roles.items() if ones is not None}
    if shape is None or len(parts) < len(roles):
        return None
    processes = launched(profile) if training else 1
    if training:
        parts["searcher, trained"] = _searcher_in_training(profile, shape, processes)
    else:
        tokens = episode_tokens(profile)
        writers = [(shape, spec.trained(ROOT) if profile.data.train_sets else spec)]
        models = [method.model for method in profile.protocols.values() if method.model]
        writers += [
            (known, model)
            for model in models
            if model.engine == "local" and (known := shape_of(model.path)) is not None
        ]
        sized = [served(known, model, tokens, model.max_rows) for known, model in writers]
        parts["largest searcher"] = max(sized, key=lambda ones: sum(part.size for part in ones))
    encoder, _ = ENCODERS.get(profile.retrieval.dense.encoder, (0.5e9, 768))
    parts["encoder"] = _times(processes, [Part("weights", encoder, "float32")])
    contexts = processes + (generator.engine != spec.engine)
    parts["CUDA"] = [Part("contexts", CONTEXT * contexts, f"{contexts} × {CONTEXT / 1e9:g} GB")]
    return parts


def _searcher_in_training(profile: Profile, shape: Shape, processes: int) -> list[Part]:
    """Rolling out and updating take turns: what one of them needs beside the weights is lent to the other."""
    spec, grpo, tokens = profile.searcher, profile.grpo, episode_tokens(profile)
    sharded = processes > 1 and not grpo.lora_rank
    fine = {} if sharded or grpo.lora_rank else {"dtype": "float32"}  # it rolls out as it is trained
    episodes = -(-grpo.questions_per_step * grpo.num_generations // processes)
    copy, cache = served(shape, spec.model_copy(update=fine), tokens, min(spec.max_rows, episodes))
    *kept, activations, logits = trained(shape, spec, grpo, tokens)
    passing = [cache] if cache.size > activations.size + logits.size else [activations, logits]
    if not sharded:
        return _times(processes, [*kept, *passing])
    return [*kept, *_times(processes, [replace(copy, what="copy that rolls out"), *passing])]


def _times(count: int, parts: Sequence[Part]) -> list[Part]:
    if count == 1:
        return list(parts)
    return [Part(part.what, count * part.size, f"{count} × ({part.why})") for part in parts]


def server_share(profile: Profile, spec: ModelSpec, card: float) -> float | None:
    """The share of a card of ``card`` bytes that a server of the frozen ``spec`` is to take; None: as much as it likes.

    Only where the profile has one card for everything: vLLM would fill it.
    """
    parts = frozen(profile, spec)
    if parts is None or profile.gpu is None or profile.gpu.count > 1:
        return None
    return round(min(0.9, (sum(part.size for part in parts) + CONTEXT + WORKING) / card), 2)


def _index(profile: Profile, kind: str, what: str) -> Part:
    """A vector index of a kind in `hub.sizes.index_bytes`."""
    _, dimension = ENCODERS.get(profile.retrieval.dense.encoder, (0.0, 768))
    number, each = documents(profile), index_bytes(kind, dimension)
    return Part(what, number * each, f"{number:,} × {each:,.0f} bytes: {kind}, {dimension} numbers")


def _indexes(profile: Profile) -> tuple[Part, list[Part], Part]:
    """The exact vectors; the compressed index that looks for candidates, where the profile has one; the document store."""
    dense, number = profile.retrieval.dense, documents(profile)
    candidates = [_index(profile, dense.index, f"its {dense.index}")] if dense.index != "flat" else []
    why = f"{number:,} × 36 bytes: places, hashes, ids; the texts are read when asked for"
    return _index(profile, dense.dtype, "dense index"), candidates, Part("documents", number * 36.0, why)


def memory_parts(profile: Profile) -> list[Part]:
    """What lies in the machine's own memory."""
    parts = [Part("Python and its libraries", 2.0e9, "torch, transformers, Lucene")]
    vectors, candidates, store = _indexes(profile)
    if profile.retrieval.kind == "dense":
        # mapped, so it need not be in memory, but exact search reads all of it for every query
        parts += candidates or [vectors]
    if profile.retrieval.kind != "remote":
        parts.append(store)
    shape, more = shape_of(profile.searcher.path), launched(profile) - 1
    if more:
        parts.append(Part("Python of the other processes", 2.0e9 * more, f"{more} × 2 GB"))
        if shape is not None and profile.grpo.beta and not profile.grpo.lora_rank:
            why = f"{more + 1} × {_billions(shape)} × 4 bytes"
            parts.append(Part("references while they are loaded", (more + 1) * shape.parameters * 4.0, why))
    if profile.gpu is None:
        size = shape.parameters * 40.0 if shape else 0.0
        parts.append(Part("models", size, "weights, gradients, AdamW, caches"))
    return parts


def disk_parts(profile: Profile) -> list[Part]:
    """What a whole run writes under ``build/`` (its records are small); downloads are counted apart."""
    number, shape = documents(profile), shape_of(profile.searcher.path)
    vectors, candidates, store = _indexes(profile)
    if "index" in profile.data.hub:
        vectors = Part("dense index", 0.0, "the downloaded one is linked")
    lexical = Part("lexical index", number * 450.0, f"{number:,} × 450 bytes")
    parts = [vectors, *candidates, store, lexical]
    if shape is not None:
        checkpoints = 2 * (1 if profile.grpo.lora_rank else 3) + 1
        why = "the last two, and the trained searcher"
        parts.append(Part("checkpoints", checkpoints * shape.parameters * 4.0, why))
    return parts
