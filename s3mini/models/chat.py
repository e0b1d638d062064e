"""Conversations and the environment's text as token ids, whatever family the model is of.

Families differ in chat template and control tokens. What holds for all of them:

- Where a template has no system role (it refuses it, as Gemma's, or drops it), the system text opens the user's message.
- Text from outside never becomes a control token. `protocols.wordings.neutralise` breaks the usual forms, for servers
  whose tokenizer is not known; whatever control token of the tokenizer in use a message holds all the same is
  broken here. The protocols' own tags are the only ones that may stand. Text without any is encoded as it is.
- A template writes its own BOS: nothing is added to it.
- It is applied once, to open an episode; all later tokens are appended as ids. What a template does to earlier
  turns (DeepSeek-R1's and Qwen3's drop their reasoning) therefore never happens.
- A template may say what day it is (Llama 3.2's, SmolLM3's): always the same, or a prompt would change overnight, see `DAY`.
- A template may leave what is said out unless it comes in parts (those of models that see pictures too), or leave the reply's
  turn unopened though it is asked to open it: see `_habits`.
- A template may open the reply's reasoning itself (DeepSeek-R1's): that ``<think>`` is the reply's, see `opening`.
- Where a model is to choose a word at once (`ChatModel.preference`), its reasoning is left out: see `without_thinking`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from ..corpus import encodable
from ..errors import ModelError
from ..protocols.wordings import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conversation = Sequence[Mapping[str, str]]
"""Messages with their ``role`` (system, user, assistant) and ``content``, as chat templates take them."""

_MARKUP = re.compile(
    r"[^\w\s]\S*\w\S*[^\w\s]"
)  # "<tool_call>", "[IMG]"; not the words and blanks that some add
_OPENED = re.compile(r"<think>\s*\Z")
DAY = date(2024, 7, 26)
"""What templates are told is today: the day that Llama 3's name where they are not told."""
_ASKED, _SAID = "s3mini-asked", "s3mini-said"  # stand in templates for texts whose place is looked for


def chat_ids(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], thinking: bool = True
) -> list[list[int]]:
    """Token ids of each conversation under the chat template, the assistant's turn opened.

    Without ``thinking`` what comes next is said, not thought.

    Raises:
        ModelError: the template refuses a conversation.
    """
    if not conversations:
        return []
    if not has_system_role(tokenizer):
        conversations = [merged(talk) for talk in conversations]
    show = partial(rendered, tokenizer, thinking=thinking)
    rows = _encoded(tokenizer, show(conversations))
    control = control_tokens(tokenizer)
    own: dict[tuple[str, ...], list[int]] = {}
    for i, talk in enumerate(conversations):
        roles = tuple(message["role"] for message in talk)
        if roles not in own:  # the template's own, whatever is said
            (bare,) = _encoded(tokenizer, show([[{**m, "content": _SAID} for m in talk]]))
            own[roles] = [token for token in bare if token in control]
        if [token for token in rows[i] if token in control] != own[roles]:
            broken = [{**m, "content": _broken(tokenizer, control, m["content"])} for m in talk]
            (rows[i],) = _encoded(tokenizer, show([broken]))
    return rows


def block_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each of the environment's texts, which follow what a model has written."""
    if not texts:
        return []
    control = control_tokens(tokenizer)
    texts = [
        text if control.keys().isdisjoint(ids) else _broken(tokenizer, control, text)
        for text, ids in zip(texts, _encoded(tokenizer, texts), strict=True)
    ]
    return _encoded(tokenizer, texts)


def opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """The ``<think>`` with which the template itself begins every reply; "" where it leaves that to the model."""
    (text,) = rendered(tokenizer, [[{"role": "user", "content": _ASKED}]])
    found = _OPENED.search(text)
    return found[0] if found else ""


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The control token that the template writes behind an assistant's message, if it writes one.

    A template may write there whatever the tokenizer declares as its end (``eos_token``; Llama 2's, Mistral's). Where it
    begins turns with that same token, that says nothing: None.
    """
    talk = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}]
    try:
        (text,) = rendered(tokenizer, [talk], open_turn=False)
        (bare,) = rendered(tokenizer, [talk], open_turn=False, eos_token="")
    except ModelError:
        return None
    tail, own_tail = (shown.rpartition(_SAID)[2].strip() for shown in (text, bare))
    ids, own = _encoded(tokenizer, [tail, bare])
    if not ids or ids[0] not in control_tokens(tokenizer) or (tail != own_tail and ids[0] in own):
        return None
    return ids[0]


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Tokens that are no text: the special ones and other markup, but for the protocols' tags."""
    return {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if (token.special or _MARKUP.fullmatch(token.content)) and token.content not in TAGS
    }


def has_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template shows what the system says."""
    talk = [{"role": "system", "content": _SAID}, {"role": "user", "content": _ASKED}]
    try:
        return _SAID in rendered(tokenizer, [talk])[0]
    except ModelError:
        return False


def merged(talk: Conversation) -> Conversation:
    """The conversation without a system role: its text opens the first user's message."""
    if len(talk) < 2 or talk[0]["role"] != "system":
        return talk
    return [{**talk[1], "content": f"{talk[0]['content']}\n\n{talk[1]['content']}"}, *talk[2:]]


def check_encodable(talks: Sequence[Conversation]) -> None:
    """Raise `DataError` where a conversation holds a lone surrogate, which no tokenizer and no server takes."""
    for number, talk in enumerate(talks, 1):
        for message in talk:
            encodable(message["content"], f"what the {message['role']} says", f"conversation {number}")


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    talks: Sequence[Conversation],
    open_turn: bool = True,
    thinking: bool = True,
    **variables: Any,
) -> list[str]:
    """Conversations under the chat template, as text; ``variables`` of the template that are not to be as usual.

    Raises:
        ModelError: the template refuses one, or leaves out what the user says.
        DataError: one holds what UTF-8 cannot.
    """
    check_encodable(talks)
    # Qwen3, SmolLM3 and GLM have such a switch; a template without one does not look at it.
    switch: dict[str, Any] = {} if thinking else {"enable_thinking": False}
    in_parts, unopened = _habits(tokenizer, str(tokenizer.chat_template))
    texts = _applied(tokenizer, talks, open_turn, in_parts, **switch, **variables)
    if open_turn:
        texts = [text + unopened for text in texts]
    return texts if thinking else [without_thinking(t, str(tokenizer.chat_template)) for t in texts]


@lru_cache(maxsize=32)
def _habits(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[bool, str]:
    """Whether ``template``, the tokenizer's, wants what is said in parts; and what it writes before an assistant's message
    and not where it is asked to open one.

    Raises:
        ModelError: it leaves out what the user says, in either form.
    """
    asked = [{"role": "user", "content": _ASKED}]
    said = [*asked, {"role": "assistant", "content": _SAID}]
    shown: dict[bool, str] = {}
    for in_parts in (False, True):
        with suppress(ModelError):  # whatever it refuses is told of the conversation that is meant
            (shown[in_parts],) = _applied(tokenizer, [asked], True, in_parts)
    in_parts = next((form for form, text in shown.items() if _ASKED in text), False)
    if _ASKED not in shown.get(in_parts, _ASKED):
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template leaves out what the user says; choose an instruct model that "
            "reads text, or mend its chat_template"
        )
    try:
        (closed,) = _applied(tokenizer, [asked], False, in_parts)
        (whole,) = _applied(tokenizer, [said], False, in_parts)
    except ModelError:
        return in_parts, ""
    before = whole.partition(_SAID)[0]
    if closed != shown.get(in_parts) or not before.startswith(closed) or not before[len(closed) :].strip():
        return in_parts, ""
    return in_parts, before[len(closed) :]


def _applied(
    tokenizer: PreTrainedTokenizerBase,
    talks: Sequence[Conversation],
    open_turn: bool,
    in_parts: bool,
    **variables: Any,
) -> list[str]:
    def laid_out(text: str) -> Any:
        return [{"type": "text", "text": text}] if in_parts else text

    try:
        texts: Any = tokenizer.apply_chat_template(
            [[{**m, "content": laid_out(m["content"])} for m in talk] for talk in talks],
            tokenize=False,
            add_generation_prompt=open_turn,
            strftime_now=DAY.strftime,
            **variables,
        )
    except Exception as error:  # a template is a program: it may fail by any
        roles = "; ".join(sorted({", ".join(message["role"] for message in talk) for talk in talks}))
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template refuses a conversation of {roles}: {error}"
        ) from error
    return list(texts)


def without_thinking(prompt: str, template: str) -> str:
    """A rendered prompt after which a model of this chat template speaks at once.

    A thought that the template opened is closed, empty; a template that knows thoughts (it mentions ``</think>``)
    but opened none gets an empty one, as Qwen3's own switch writes it; any other prompt stays as it is.
    """
    end = prompt.rstrip()
    if end.endswith("<think>"):
        return end + "\n\n</think>\n\n"
    if end.endswith("</think>") or "</think>" not in template:
        return prompt
    return prompt + "<think>\n\n</think>\n\n"


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def _broken(tokenizer: PreTrainedTokenizerBase, control: Mapping[int, str], text: str) -> str:
    """``text``, every control token in it taken apart until none is left; the rest as it was."""
    while True:
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [
            (begin, end)
            for token, (begin, end) in zip(read["input_ids"], read["offset_mapping"], strict=True)
            # Any character that a vocabulary lacks becomes its unknown token: that one is no control token.
            if token in control
            and (token != tokenizer.unk_token_id or control[token] == text[begin:end].strip())
        ]
        if not spans:
            return text
        for begin, end in reversed(spans):
            text = text[:begin] + _apart(text[begin:end]) + text[end:]


def _apart(token: str) -> str:
    """Its parts with blanks between: "<｜User｜>" as "< ｜ User ｜ >"; a word by letters, a lone letter not at all."""
    token = token.strip()
    parts = re.findall(r"\w+|\W", token)
    return " ".join(parts if len(parts) > 1 else list(token) if len(token) > 1 else [])
