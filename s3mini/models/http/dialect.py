"""What an "OpenAI-compatible" endpoint turns out not to take, learnt from its first refusal and said once.

Such servers differ in the parameters they refuse, and no list of them stays right: reasoning models want
``max_completion_tokens`` and no temperature, others know no ``seed``, some forbid whatever they do not know. So a refusal
that names a parameter of the request is read, in whatever form it comes, and from then on that endpoint is asked without
it, for as long as the process lives. Only parameters whose absence leaves a reply a reply are given up (`COSTS`); a
length limit is renamed, never dropped. A value that is refused is given up likewise, but for a temperature above 0. Anything
else stays the error it is.
"""

import functools
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

log = logging.getLogger("s3mini")

OWN = "the server's own value holds"
COSTS = {
    "seed": "what it samples cannot be repeated",
    "temperature": "it samples at its own temperature, so that another run may answer otherwise",
    "stream": "nothing",
    "n": "nothing, as one reply is usual",
    **dict.fromkeys(
        ("top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"), OWN
    ),
}
"""Parameters that can be left out, and what that costs."""
RENAMED = {"max_tokens": "max_completion_tokens"}
SMALLEST = 0.01  # the temperature sent to servers that take none of 0
NO_SYSTEM = re.compile(
    r"(system|developer)\b.{0,20}(role|message|prompt|instruction)|\broles?\b.{0,40}\bsystem\b|\bsystem\b.{0,60}\broles?\b|"
    r"roles must alternate|only user\b.{0,30}\broles",
    re.IGNORECASE | re.DOTALL,
)
"""What servers say of a template without a system role: Gemma's, Mistral's first, o1's."""
_REFUSES = re.compile(
    r"un-?support|n[o']t\W+(\w+\W+)?support|not (permitted|allowed|accept|available|compatible|recogni|implemented)|"
    r"unrecogni[sz]ed|unknown|unexpected|extra|forbidden|cannot find field|only the default|deprecated",
    re.IGNORECASE,
)
_OUT_OF_RANGE = re.compile(
    r"invalid (value|parameter|argument|input|field)|(must|should|has to) be|out of range|"
    r"(greater|more|larger|less|smaller) than",
    re.IGNORECASE,
)
_NOT_BOTH = re.compile(
    r"(cannot|can'?t|not|never) (be )?(\w+ )?(both|together)|mutually exclusive|only one of",
    re.IGNORECASE,
)
_POSITIVE = re.compile(r"positive|(greater|more|larger) than 0|above 0|> ?0", re.IGNORECASE)


class Dialect:
    """The changes that one model at one endpoint needs: ``{parameter: new name, new value, or None to leave it out}``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.changes: dict[str, str | float | None] = {}
        self.answered = False  # whether it has ever given a reply

    def say(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """``body`` in the words that the endpoint takes."""
        said = dict(body)
        for name, change in self.changes.items():
            if name not in said:
                continue
            if isinstance(change, float):
                said[name] = said[name] or change
            else:
                value = said.pop(name)
                if change is not None:
                    said[change] = value
        return said

    def learn(self, refusal: str, sent: Mapping[str, Any], vital: frozenset[str] = frozenset()) -> bool:
        """Whether a refusal, as it came, is of parameters that can be changed; ``vital`` ones are not."""
        changes: dict[str, str | float | None] = {}
        named = _named(refusal, sent)
        not_both = len(named) > 1 and _NOT_BOTH.search(refusal)
        refuses, out_of_range = _REFUSES.search(refusal), _OUT_OF_RANGE.search(refusal)
        for name in named:
            if name == "temperature" and sent[name] == 0 and _POSITIVE.search(refusal):
                changes[name] = SMALLEST
            elif name in vital or (name == "temperature" and not_both):
                continue
            elif refuses or (name in COSTS and name != "temperature" and (out_of_range or not_both)):
                changes[name] = RENAMED.get(name)
        for name, change in changes.items():
            if name not in self.changes or self.changes[name] != change:
                self.changes[name] = change
                log.warning("%s: refuses `%s`: %s", self.url, name, _told(name, change))
        return bool(changes)


@functools.cache
def dialect(url: str, model: str) -> Dialect:
    """The one of this model at this endpoint, whoever asks."""
    return Dialect(f"{url}, model {model}")


def _told(name: str, change: str | float | None) -> str:
    if isinstance(change, float):
        return f"asked with {change:g} from now on; the cost: nearly always the likeliest token, not always"
    if change is not None:
        return f"asked with `{change}` from now on; the cost: nothing"
    return f"asked without it from now on; the cost: {COSTS[name]}"


def _named(refusal: str, sent: Mapping[str, Any]) -> list[str]:
    """Parameters of ``sent`` that the refusal is about: those in its own fields, else those in its text."""
    known = [name for name in sent if name in COSTS or name in RENAMED]
    try:
        fields = set(_fields(json.loads(refusal)))
    except (ValueError, RecursionError):
        fields = set()
    if fields & set(sent):
        return [name for name in known if name in fields]
    text = refusal.replace("\\n", "\n").replace("\\", "")

    def mentioned(name: str) -> bool:
        first, *more = name.split("_")
        form = f"({name}|{first}{''.join(map(str.capitalize, more))})"  # also frequencyPenalty
        bare = rf"|(?<![\w.]){form}(?!\w)" if len(name) > 1 else ""
        return re.search(rf"""["'`]{form}["'`]|->\s*{form}(?!\w){bare}""", text) is not None

    return [name for name in known if mentioned(name)]


def _fields(said: Any) -> Iterator[str]:
    """Names that an error object gives in ``param`` (OpenAI's) or at the end of ``loc`` (pydantic's), at any depth."""
    if isinstance(said, list):
        for item in said:
            yield from _fields(item)
    elif isinstance(said, dict):
        if isinstance(said.get("param"), str):
            yield said["param"]
        if isinstance(place := said.get("loc"), list) and place:
            yield str(place[-1])
        for value in said.values():
            yield from _fields(value)
