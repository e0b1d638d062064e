"""What every role is told, in two wordings, and how documents are shown to a model.

``brief`` prompts are for the mini model, which learnt each role by its one-word system prompt in
pretraining; ``full`` prompts are for instruction-tuned models. The *format* of the conversation is
the same in both, so protocols, pretraining data and evaluation all render through this module.

Text from documents, queries and questions is data: `neutralise` breaks anything in it that could be
read as a tag or as a control token of the usual families, so a passage holding ``</information>`` changes
nothing. Where the tokenizer is known, `models.chat` makes sure of all its others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from ..records import Document

Wordings = Literal["brief", "full"]
Message = dict[str, str]

TAGS = (
    "<think>", "</think>", "<information>", "</information>", "<query>", "</query>", "<search_complete>",
    "</search_complete>", "<important_info>", "</important_info>", "<search>", "</search>", "<answer>", "</answer>",
    "<|begin_search_query|>", "<|end_search_query|>", "<|begin_search_result|>", "<|end_search_result|>",
)  # fmt: skip
"""The protocols' own: all begin as `neutralise` breaks them, so that none comes from outside."""

# <tag>, <|im_end|>, <<SYS>>, DeepSeek's <｜User｜>, Kimi's ◁think▷
_MARKUP = re.compile(r"<(?=[/|｜A-Za-z])|◁(?=/?think▷)")
# Llama 2's and Mistral's; a closed list, since text from outside has brackets of its own
_BRACKETED = re.compile(
    r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(?:CALLS|RESULTS|CONTENT)|THINK|ARGS|CALL_ID|IMG(?:_BREAK|_END)?"
    r"|PREFIX|MIDDLE|SUFFIX|g?MASK|CLS|SEP|PAD|UNK)\])"
)

BRIEF = {
    "generator": "answer",
    "judge": "judge",
    "s3": "search",
    "cot": "reason",
    "ircot": "retrieve",
    "search-o1": "explore",
    "reader": "read",
    "search-r1": "agent",
    "deepretrieval": "rewrite",
}

FULL = {
    "generator": (
        "Use the documents below as context to answer the question. Some of them may be irrelevant. "
        "Answer directly and give no other text."
    ),
    "judge": (
        "You check answers. Reply yes if any of the accepted answers is contained in the response, "
        "with the same meaning; otherwise reply no. Reply with one word."
    ),
    "s3": (
        "You are a search assistant: collect the documents another model needs to answer the question. "
        "Do not answer it yourself. You see some documents first. In each turn you may think inside "
        "<think> and </think>. {selecting}Then say whether the documents kept so far suffice: "
        "<search_complete>True</search_complete> or <search_complete>False</search_complete>. "
        'If False, search: <query>{{"query": "your query"}}</query>; the results appear between '
        "<information> and </information>. You may search at most {turns} times."
    ),
    "cot": "Answer the question. Reason step by step inside <think> and </think>, then give the answer alone.",
    "ircot": (
        "Answer the question by writing one reasoning sentence per line. After each sentence, documents "
        'retrieved for it appear. When you know the answer, write "So the answer is: " and the answer.'
    ),
    "search-o1": (
        "Answer the question by reasoning inside <think> and </think>. When you lack a fact, write "
        "<|begin_search_query|>your query<|end_search_query|>; what was found appears between "
        "<|begin_search_result|> and <|end_search_result|>. After </think>, give the answer alone."
    ),
    "reader": (
        "Read the documents found for a search query and state, in a sentence or two, only what helps "
        "to answer the question. If nothing helps, say so."
    ),
    "search-r1": (
        "Answer the question. Reason inside <think> and </think> each time you get new information. If you "
        "lack a fact, search with <search>your query</search>; results appear between <information> and "
        "</information>. When you know the answer, give it as <answer>your answer</answer>."
    ),
    "deepretrieval": (
        "Rewrite the question as one boolean query for a BM25 search engine. Think inside <think> and "
        '</think>, then write <answer>{{"query": "(term AND term) OR term"}}</answer>.'
    ),
}


def neutralise(text: str) -> str:
    """Break every ``<`` or ``[`` that could open a tag or control token; all other text is left as it is."""
    return _BRACKETED.sub("⟦", _MARKUP.sub("‹", text))


def render_documents(documents: Sequence[Document], first: int = 1) -> str:
    """Documents as a numbered block, one a line: ``Doc 1 (Title: T) text``."""
    return "\n".join(
        f"Doc {i} (Title: {neutralise(d.title)}) {neutralise(d.text)}" for i, d in enumerate(documents, first)
    )


def render_information(documents: Sequence[Document]) -> str:
    """The environment's answer to a query, tags and surrounding newlines included."""
    return f"\n<information>\n{render_documents(documents)}\n</information>\n"


def system(role: str, wordings: Wordings, **given: int | str) -> Message:
    """The system message of a role; ``given`` fills the protocol's limits (``turns``) and `selecting`.

    Raises:
        KeyError: the role has no wording.
    """
    text = BRIEF[role] if wordings == "brief" else FULL[role].format(**given)
    return {"role": "system", "content": text}


def selecting(count: int) -> str:
    """What s3 is told of selection; nothing where it is switched off (``count`` 0)."""
    if not count:
        return ""
    return (
        f"After a search, name the useful documents of the last block, at most {count}, "
        "as <important_info>[1, 2]</important_info>. "
    )


def asked(question: str) -> str:
    """The line that states the question."""
    return f"Question: {neutralise(question.strip())}"


def question_messages(
    role: str, wordings: Wordings, question: str, documents: Sequence[Document] = (), **given: int | str
) -> list[Message]:
    """Messages of a role that sees the question, then the first documents (s3, IRCoT, Search-R1, …)."""
    shown = render_information(documents).rstrip("\n") if documents else ""
    return [system(role, wordings, **given), {"role": "user", "content": asked(question) + shown}]


def context_messages(
    role: str, wordings: Wordings, question: str, documents: Sequence[Document]
) -> list[Message]:
    """Messages of a role that reads documents, then the question (generator, reader).

    With no documents the question stands alone (the Direct baseline).
    """
    context = render_documents(documents) + "\n" if documents else ""
    return [system(role, wordings), {"role": "user", "content": context + asked(question)}]


def judge_messages(wordings: Wordings, response: str, golden_answers: Sequence[str]) -> list[Message]:
    """Messages that ask whether ``response`` contains any of ``golden_answers``."""
    answers = "; ".join(neutralise(a) for a in golden_answers)
    content = f"Answers: {answers}\nResponse: {neutralise(response.strip())}"
    return [system("judge", wordings), {"role": "user", "content": content}]
