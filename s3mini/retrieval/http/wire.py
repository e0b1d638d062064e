"""What travels between a retrieval server and its clients: the format of s3 and Search-R1, and what ours adds.

    POST /retrieve {"queries": [...], "topk": k, "return_scores": true}
      -> {"result": [[{"document": {"id", "contents"}, "score": s}, ...], ...]}

One list per query, best first; with ``return_scores`` false the bare documents. ``contents`` is the passage in
the wiki-18 layout (`Document.contents`). Ours adds ``GET /health`` and a header that says which index answered.
"""

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

FINGERPRINT = "X-Retriever-Fingerprint"
"""Header of every answer: the `Retriever.fingerprint` of what was searched."""


class Limits(BaseModel):
    """What a server takes at most: per request, in one batch, and waiting."""

    model_config = ConfigDict(frozen=True)

    queries: int = Field(512, ge=1, description="queries per request")
    k: int = Field(100, ge=1, description="documents per query")
    characters: int = Field(8192, ge=1, description="characters per query")
    body: int = Field(4 << 20, ge=1, description="bytes per request")
    batch: int = Field(128, ge=1, description="queries searched at once")
    waiting: int = Field(2048, ge=1, description="queries waiting, above which requests are refused with 503")


class Ask(BaseModel):
    """A request."""

    queries: list[str]
    topk: int | None = Field(None, description="documents per query; the server's own number when left out")
    return_scores: bool = False


class Passage(BaseModel):
    """A document. ``id`` may be missing, or a number, in servers of that family; ours always sends it, as text."""

    id: str | int | None = None
    contents: str


class ScoredPassage(BaseModel):
    """A document with its score, higher is better."""

    document: Passage
    score: FiniteFloat


class Scored(BaseModel):
    """The answer with scores: one list per query."""

    result: list[list[ScoredPassage]]


class Bare(BaseModel):
    """The answer without scores."""

    result: list[list[Passage]]


class Problem(BaseModel):
    """Why a request was refused, or failed."""

    detail: str


class Health(BaseModel):
    """What a server of this package says of itself."""

    status: str
    retriever: str
    fingerprint: str
    documents: int | None
    version: str
    topk: int
    waiting: int
    limits: Limits


def first_problem(error: Exception) -> str:
    """The first thing wrong, with its place: ``queries.3: Input should be a valid string``."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
