"""The frozen generator: from a question and a context to an answer (paper, section 3).

It is the same for every method and never trained: what differs between methods is the context alone.
"""

import warnings
from collections import Counter
from collections.abc import Sequence

from .errors import DataError, ModelError
from .models.base import ChatModel, Reply, TooLong, is_cut
from .protocols.parsing import strip_reasoning
from .protocols.wordings import Wordings, context_messages
from .records import Document, Question


def answer_questions(
    generator: ChatModel,
    questions: Sequence[Question],
    contexts: Sequence[Sequence[Document]],
    wordings: Wordings | None = None,
    max_new_tokens: int | None = None,
    tally: Counter[str] | None = None,
) -> list[str]:
    """The frozen generator's answer to each question from its context, in order, reasoning stripped.

    One call: prompts that are equal are asked once, and short ones come first, so that a batch pads
    little. An empty context means the question stands alone (the Direct baseline).

    Args:
        wordings: None takes those the model was made for (``generator.spec.wordings``), else "full".
        max_new_tokens: per answer, reasoning included; None takes the model's own limit.
        tally: the replies of earlier calls, which this one adds to: ``asked``, ``cut`` at the limit and, of those,
            ``lost``, without any answer. A few are warned about (once in a tally's life) and marked (`Reply.cut`).

    Raises:
        DataError: not one context per question.
        ModelError: the generator failed, or returned a wrong number of replies; a question is too long for it
            (named by ``file:line``); most replies so far were cut before they came to an answer.
    """
    if len(questions) != len(contexts):
        raise DataError(f"{len(contexts)} contexts for {len(questions)} questions: give one per question")
    spec = getattr(generator, "spec", None)
    spoken: Wordings = wordings or ("full" if spec is None else spec.wordings)
    conversations = [
        context_messages("generator", spoken, question.question, documents)
        for question, documents in zip(questions, contexts, strict=True)
    ]
    keys = [conversation[-1]["content"] for conversation in conversations]
    distinct = dict(zip(keys, conversations, strict=True))
    order = sorted(distinct, key=lambda key: (len(key), key))
    if not order:
        return []
    try:
        replies = generator.reply(
            [distinct[key] for key in order], max_new_tokens=max_new_tokens, temperature=0.0
        )
    except TooLong as error:
        question = questions[keys.index(order[error.index])]
        raise ModelError(f"{question.where}: too long with its documents: {error}") from error
    if len(replies) != len(order):
        raise ModelError(f"the generator returned {len(replies)} replies to {len(order)} prompts")
    read = [Reply(strip_reasoning(reply), is_cut(reply)) for reply in replies]
    budget = max_new_tokens or (None if spec is None else spec.max_new_tokens)
    _count_cut(read, Counter() if tally is None else tally, budget)
    answers = dict(zip(order, read, strict=True))
    return [answers[key] for key in keys]


def _count_cut(answers: Sequence[Reply], tally: Counter[str], budget: int | None) -> None:
    first = not tally["cut"]
    cut = [answer for answer in answers if answer.cut]
    tally.update(asked=len(answers), cut=len(cut), lost=sum(not answer for answer in cut))
    told = (
        f"{tally['cut']} of {tally['asked']} replies of the generator were cut at its limit of {budget or 'new'} tokens, "
        f"{tally['lost']} of them before any answer: raise generator.max_new_tokens"
    )
    if 2 * tally["lost"] > tally["asked"]:
        raise ModelError(told)
    if cut and first:
        warnings.warn(told, stacklevel=3)
