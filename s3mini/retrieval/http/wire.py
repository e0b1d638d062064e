"""What travels between a retrieval server and its clients: the format of s3 and Search-R1, and what ours adds.

    POST /retrieve {"queries": [...], "topk": k, "return_scores": true}
      -> {"result": [[{"document": {"id", "contents"}, "score": s}, ...], ...]}

One list per query, best first; with ``return_scores`` false the bare documents. ``contents`` is the passage in
the wiki-18 layout (`Document.contents`). Ours adds ``GET /health`` and a header that says which index answered.

One odd query never costs the others of its request their answers, since the trainers of s3 and Search-R1 send a whole batch
at once, as their model wrote it (s3 passes on whatever JSON it wrote), and lose all of it when they are refused. So:

- a number is searched as it is written; a blank query, and what is neither text nor number, finds nothing (``[]``);
- a query that is too long is searched by its beginning, as an encoder would;
- where the engine fails for some queries and not for all, those have ``[]``.

Each such query is named in ``problems``, {position: what happened}, which is absent where there is none. The originals
do not read it; our client makes an error of a query that was not searched.
"""

from typing import Any

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from ...corpus import split_contents
from ...records import Document

IDS = ("id", "_id", "docid", "doc_id")
TEXTS = ("text", "content", "passage", "snippet")  # where there are no `contents`
FINGERPRINT = "X-Retriever-Fingerprint"
"""Header of every answer: the `Retriever.fingerprint` of what was searched."""


class Limits(BaseModel):
    """What a server takes at most: per request, in one batch, and waiting."""

    model_config = ConfigDict(frozen=True)

    queries: int = Field(4096, ge=1, description="queries per request")
    k: int = Field(100, ge=1, description="documents per query")
    documents: int = Field(
        1 << 16, ge=1, description="documents per request: what an answer takes in memory, 50 MB of wiki-18"
    )
    characters: int = Field(8192, ge=1, description="characters of a query that are searched")
    body: int = Field(32 << 20, ge=1, description="bytes per request")
    batch: int = Field(128, ge=1, description="queries searched at once")
    waiting: int = Field(8192, ge=1, description="queries waiting, above which requests are refused with 503")


class Ask(BaseModel):
    """A request. Fields that are not known are passed over."""

    queries: list[Any] = Field(description="texts")
    topk: int | None = Field(
        None, description="documents per query; the server's own number when 0 or left out"
    )
    return_scores: bool | None = False


class Passage(BaseModel):
    """A document. Servers of that family may leave out ``id``, or give it as a number; ours always sends it, as text.

    Read as well: a bare text, a text under another name (`TEXTS`), a title beside text that has none in it.
    """

    id: str | int | None = Field(None, validation_alias=AliasChoices(*IDS))
    contents: str

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"contents": given}
        if not isinstance(given, dict):
            return given
        title, contents = given.get("title"), given.get("contents")
        if contents is None:
            contents = next((given[name] for name in TEXTS if isinstance(given.get(name), str)), None)
            if contents is None:
                return given
            contents = Document("", title if isinstance(title, str) else "", contents).contents
        elif isinstance(title, str) and isinstance(contents, str) and not split_contents(contents)[0]:
            contents = Document("", title, split_contents(contents)[1]).contents
        return given | {"contents": contents}


class ScoredPassage(BaseModel):
    """A document with its score, higher is better; online search has none, and gives the document bare."""

    document: Passage
    score: FiniteFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, str) or (isinstance(given, dict) and "document" not in given):
            return {"document": given, "score": given.get("score") if isinstance(given, dict) else None}
        return given


class Scored(BaseModel):
    """The answer with scores: one list per query."""

    result: list[list[ScoredPassage]]
    problems: dict[int, str] = Field(default={}, description="queries that were not searched as they came")

    @field_validator("result", mode="before")
    @classmethod
    def _one_block(cls, given: Any) -> Any:
        """Some answer one query by its documents, without the list around."""
        return [given] if isinstance(given, list) and given and isinstance(given[0], dict) else given


class Bare(BaseModel):
    """The answer without scores."""

    result: list[list[Passage]]
    problems: dict[int, str] = {}


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
