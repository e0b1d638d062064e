"""What the package asks of a language model: whole replies, and token-level sampling for episodes.

Two views of the same thing. A ``ChatModel`` answers conversations (generator, readers) or says which of some
words it would say next (judge). A
``Sampler`` opens a ``Session`` of many rows whose token ids only ever grow: the model samples, the
environment appends, nothing is decoded and encoded again, so the log-probabilities recorded while
sampling belong to exactly the tokens that training sees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import ModelError
from .chat import Conversation
from .chat import chat_ids as chat_ids

if TYPE_CHECKING:
    from .stops import Stops


@dataclass(frozen=True, slots=True)
class Sample:
    """What one row's model wrote in one go.

    ``ids`` includes the tokens of the stop string or the end token; ``logprobs`` has one entry per id:
    natural logarithms under ``softmax(logits / temperature)``, the distribution that was sampled and
    the one TRL recomputes (greedy decoding records temperature 1). ``text`` is the decoded ids without
    the end token. ``stopped`` is the stop string met, the end token's text, or None when the token
    budget ran out.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    stopped: str | None


class Session(ABC):
    """Rows of tokens, ``ids``, that grow by sampling and by the environment's appends; at most ``positions`` each.

    ``seeds`` gives every row a random stream of its own, so what a row samples does not depend on
    which other rows are in the batch (default: the row's index), as far as rounding allows: batches
    of other shapes give logits that differ in the last bits, which can tip a draw between rare tokens.

    Raises:
        ModelError: a prompt without tokens.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None, stops: Stops, positions: int
    ) -> None:
        if any(not len(prompt) for prompt in prompts):
            raise ModelError("a prompt has no tokens: the chat template rendered nothing")
        self.ids: list[list[int]] = [list(prompt) for prompt in prompts]
        self.seeds = [seed % 2**64 for seed in (range(len(prompts)) if seeds is None else seeds)]
        self.stops, self.positions = stops, positions

    def append(self, row: int, ids: Sequence[int]) -> None:
        """Add environment tokens to a row; they are read (batched) at the next ``sample``."""
        self.ids[row].extend(ids)

    def sample(
        self,
        rows: Sequence[int],
        max_new_tokens: int | Sequence[int],
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> list[Sample]:
        """Continue ``rows`` (indices, distinct) until a stop string, the end token or the budget.

        ``max_new_tokens`` (>= 1) is one number, or one per row. Temperature 0 is greedy.

        Raises:
            ModelError: rows twice, a budget below 1, a row that would outgrow ``positions``, or the engine failed.
        """
        budgets = [max_new_tokens] * len(rows) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        longest = max((len(self.ids[r]) + n for r, n in zip(rows, budgets, strict=True)), default=0)
        if min(budgets, default=1) < 1 or len(set(rows)) != len(rows) or longest > self.positions:
            raise ModelError(
                f"cannot sample {budgets[:3]}… tokens in rows {list(rows)[:3]}…: rows must be distinct, budgets at "
                f"least 1, and prompt plus budget ({longest}) at most the model's {self.positions} positions"
            )
        by_row = dict(zip(rows, budgets, strict=True))
        return self._sample(by_row, temperature, tuple(stop)) if by_row else []

    @abstractmethod
    def _sample(self, budgets: dict[int, int], temperature: float, stop: tuple[str, ...]) -> list[Sample]:
        """What ``sample`` promises, given the budget of each row; what is written is added to ``ids``."""


class Sampler(Protocol):
    """A model that samples token by token."""

    def start(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None) -> Session:
        """Open one row per prompt; equal prompts are read once. See `Session`."""
        ...


class Reply(str):
    """A reply's text. ``cut``: the token budget ended it, not the model."""

    cut: bool

    def __new__(cls, text: str, cut: bool = False) -> Reply:
        """The text, marked."""
        made = super().__new__(cls, text)
        made.cut = cut
        return made


def is_cut(reply: str) -> bool:
    """Whether the token budget ended a reply; a plain string tells of none."""
    return getattr(reply, "cut", False)


class ChatModel(Protocol):
    """A model that answers conversations, or chooses a word."""

    def reply(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Sequence[str]:
        """One reply per conversation, in order: the whole text, reasoning kept, special tokens dropped.

        Equal conversations are answered once when greedy. A `Reply` says whether the budget cut it.

        Raises:
            TooLong: a conversation and its reply do not fit the model.
            ModelError: the engine failed.
        """
        ...

    def preference(self, conversations: Sequence[Conversation], options: Sequence[str]) -> list[list[float]]:
        """For each conversation the natural logarithm of each option's probability to be said next.

        An option is one word; its probability is the sum over every token that spells it ("yes", " Yes", "YES").
        Only differences within a conversation mean something: an engine may leave out a constant, namely how
        probable the options are together. Where the engine saw none of them all are -inf. Nothing is written, so
        nothing has to be read; a model that thinks before it speaks gets an empty thought.

        Raises:
            ModelError: a conversation does not fit the model, no token tells the options apart, or the engine failed.
        """
        ...


class TooLong(ModelError):
    """A conversation and its reply do not fit the model; ``index`` says which of those given."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


def check_fits(name: str, prompts: Sequence[Sequence[int]], budget: int, positions: int) -> None:
    """Raise `TooLong` where the longest prompt and ``budget``, its reply's, exceed ``positions`` tokens."""
    index = max(range(len(prompts)), key=lambda i: len(prompts[i]), default=0)
    longest = len(prompts[index]) + budget if prompts else 0
    if longest > positions:
        raise TooLong(
            f"{name}: a conversation needs {longest} tokens with its reply, the limit is "
            f"{positions}: raise max_length, or give fewer or shorter documents",
            index,
        )
