"""Tokenizers and chat templates in the real formats of the common families, made here: no files, no network.

Templates are shortened to what decides: roles, control tokens, who is refused. A family's tokenizer adds its BOS by itself
where the real one does, so that a template that writes it too would double it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXT = [
    'Question: who wrote it? {"query": " the author of Blue Harvest"} True False [1, 2, 3]',
    "Doc 1 (Title: Blue Harvest) Blue Harvest is a novel by Mara Venn.",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}{% for m in loop_messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}<|start_header_id|>{{ m.role }}"
    "<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL_1 = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_3 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}"
    "{% if loop.last and system is defined %}[INST] {{ system }}\n\n{{ m.content }}[/INST]"
    "{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DEEPSEEK_R1 = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}"
    "{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}{% if m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% endif %}{% if m.role == 'assistant' %}{% set c = m.content %}"
    "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}<｜Assistant｜>{{ c }}<｜end▁of▁sentence｜>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
PHI_3 = (  # the first one: what the system says is dropped without a word
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}<|end|>\n<|assistant|>\n"
    "{% elif m.role == 'assistant' %}{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """``ends`` what its generation settings name; ``end`` the token that closes a turn; ``system``, whether it has that role.

    ``special`` are control tokens, ``plain`` added tokens that are text; ``opens``, whether the template opens ``<think>``.
    """

    template: str
    special: tuple[str, ...]
    eos: str
    ends: tuple[str, ...]
    end: str
    bos: str | None = None
    pad: str | None = None
    plain: tuple[str, ...] = ()
    system: bool = True
    spm: bool = False
    opens: bool = False


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA = ("<unk>", "<s>", "</s>")
FAMILIES = {
    "llama-2": Family(LLAMA_2, _LLAMA, "</s>", ("</s>",), "</s>", "<s>", spm=True),
    "llama-3": Family(
        LLAMA_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
         "<|python_tag|>", "<|reserved_special_token_0|>"),
        "<|end_of_text|>", ("<|end_of_text|>", "<|eot_id|>"), "<|eot_id|>", "<|begin_of_text|>",
    ),
    "mistral-1": Family(MISTRAL_1, _LLAMA, "</s>", ("</s>",), "</s>", "<s>", system=False, spm=True),
    "mistral-3": Family(
        MISTRAL_3, (*_LLAMA, "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[control_8]"),
        "</s>", ("</s>",), "</s>", "<s>", spm=True,
    ),
    "gemma": Family(
        GEMMA, ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused0>"),
        "<eos>", ("<eos>", "<end_of_turn>"), "<end_of_turn>", "<bos>", "<pad>", ("\n\n", "  ", "<table>"), False, True,
    ),
    "qwen": Family(
        QWEN, (*_CHATML, "<|vision_start|>"), "<|im_end|>", ("<|im_end|>", "<|endoftext|>"), "<|im_end|>",
        pad="<|endoftext|>", plain=("<tool_call>", "</tool_call>", "<think>", "</think>"),
    ),
    "deepseek-r1": Family(
        DEEPSEEK_R1, ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>"),
        "<｜end▁of▁sentence｜>", ("<｜end▁of▁sentence｜>",), "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>",
        "<｜▁pad▁｜>", ("<think>", "</think>"), opens=True,
    ),
    "phi-3": Family(
        PHI_3, ("<unk>", "<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|endoftext|>",
        ("<|endoftext|>", "<|end|>", "<|assistant|>"), "<|end|>", "<s>", system=False, spm=True,
    ),
    "smollm": Family(CHATML, (*_CHATML, "<repo_name>"), "<|im_end|>", ("<|im_end|>",), "<|im_end|>", "<|im_start|>"),
    # as transformers converts SmolLM2's GGUF: the token that starts a turn is declared its end
    "smollm-gguf": Family(CHATML, _CHATML, "<|im_start|>", ("<|im_end|>",), "<|im_end|>", "<|im_start|>"),
    # control tokens that are matched in what the tokenizer has normalised, and words that are tokens
    "normalising": Family(CHATML, (*_CHATML, "[Role]", "@@SYSTEM@@"), "<|im_end|>", (), "<|im_end|>", plain=("COVID",)),
}  # fmt: skip


@cache
def _trained(name: str) -> str:
    family = FAMILIES[name]
    raw = Tokenizer(models.BPE(byte_fallback=family.spm, unk_token="<unk>" if family.spm else None))
    special = list(family.special)
    if family.spm:  # as SentencePiece's are converted
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        alphabet: list[str] = []
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TEXT * 4, trainer)
    if name == "normalising":
        raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        raw.add_special_tokens(
            [AddedToken(token, normalized=True, special=True) for token in family.special[3:]]
        )
    raw.add_tokens([AddedToken(token, normalized=False, special=False) for token in family.plain])
    if family.bos is not None:
        bos = (family.bos, raw.token_to_id(family.bos))
        raw.post_processor = processors.TemplateProcessing(
            single=f"{family.bos}:0 $A:0", special_tokens=[bos]
        )
    return raw.to_str()


def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A new tokenizer of the family, its bytes (SentencePiece's fall-back) no control tokens."""
    family = FAMILIES[name]
    state = _trained(name)
    if family.spm:
        read = json.loads(state)
        read["added_tokens"] = [t for t in read["added_tokens"] if not t["content"].startswith("<0x")]
        state = json.dumps(read)
    named = {"bos_token": family.bos, "pad_token": family.pad, "unk_token": "<unk>" if family.spm else None}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(state),
        eos_token=family.eos,
        chat_template=family.template,
        **{key: value for key, value in named.items() if value},
    )
