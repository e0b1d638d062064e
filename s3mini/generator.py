"""The frozen generator: from a question and a context to an answer (paper, section 3).

It is the same for every method and never trained: what differs between methods is the context alone.
"""

from collections.abc import Sequence

from .errors import DataError, ModelError
from .models.base import ChatModel
from .protocols.parsing import strip_reasoning
from .protocols.wordings import Wordings, context_messages
from .records import Document, Question


def answer_questions(
    generator: ChatModel,
    questions: Sequence[Question],
    contexts: Sequence[Sequence[Document]],
    wordings: Wordings | None = None,
    max_new_tokens: int | None = None,
) -> list[str]:
    """The frozen generator's answer to each question from its context, in order, reasoning stripped.

    One call: prompts that are equal are asked once, and short ones come first, so that a batch pads
    little. An empty context means the question stands alone (the Direct baseline).

    Args:
        wordings: None takes those the model was made for (``generator.spec.wordings``), else "full".
        max_new_tokens: per answer, reasoning included; None takes the model's own limit.

    Raises:
        DataError: not one context per question.
        ModelError: the generator failed, or returned a wrong number of replies.
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
    replies = generator.reply(
        [distinct[key] for key in order], max_new_tokens=max_new_tokens, temperature=0.0
    )
    if len(replies) != len(order):
        raise ModelError(f"the generator returned {len(replies)} replies to {len(order)} prompts")
    answers = {key: strip_reasoning(reply) for key, reply in zip(order, replies, strict=True)}
    return [answers[key] for key in keys]
