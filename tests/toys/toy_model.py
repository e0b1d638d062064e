"""A tiny random Qwen3 and a byte-level tokenizer with the mini model's tags: no files, no network."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from s3mini.models.local import LocalModel
from s3mini.profile import ModelSpec
from s3mini.protocols.wordings import judge_messages

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = [
    f"<{slash}{tag}>"
    for tag in ("think", "query", "search_complete", "important_info", "information")
    for slash in ("", "/")
]
TEXT = [
    'Question: who wrote it? {"query": " the author of Blue Harvest"} True False [1, 2, 3]',
    "Doc 1 (Title: Blue Harvest) Blue Harvest is a novel by Mara Venn. Doc 2 (Title: Mara Venn) born in Tolle.",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, about 330 ids; tags are single ordinary tokens, as in the mini model."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXT * 4, trainer)
    raw.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def toy_model(vocabulary: int, seed: int = 0, kv_heads: int = 2) -> Qwen3ForCausalLM:
    """Two layers, width 32, four heads on two key-value heads; weights large enough to have opinions."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=kv_heads, head_dim=8, tie_word_embeddings=True, max_position_embeddings=1024,
        initializer_range=0.3, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def toy_local(seed: int = 0, **spec: int) -> LocalModel:
    """Model and tokenizer as the package's ``LocalModel``."""
    tokenizer = toy_tokenizer()
    numbers = {"max_length": 1024, "batch_size": 4, "max_new_tokens": 8, **spec}
    return LocalModel(ModelSpec(path="toy", **numbers), toy_model(len(tokenizer), seed), tokenizer)


CHOICE = ("yes", "no")
WORDS = ["yes", " Yes", "YES", "no", " No", "\nno", "nose"]
"""Tokens of a toy that can be asked to choose, one of them a trap."""


def toy_speaking(batch_size: int = 4, seed: int = 0, template: str = TEMPLATE) -> LocalModel:
    """The toy with tokens for `WORDS`."""
    tokenizer = toy_tokenizer()
    tokenizer.add_tokens(WORDS)
    tokenizer.chat_template = template
    spec = ModelSpec(path="toy", max_length=1024, batch_size=batch_size, max_new_tokens=8)
    return LocalModel(spec, toy_model(len(tokenizer), seed), tokenizer)


def judged(responses: list[str]) -> list[list[dict[str, str]]]:
    """The judge's conversations about responses."""
    return [judge_messages("full", response, ["A", "B"]) for response in responses]
