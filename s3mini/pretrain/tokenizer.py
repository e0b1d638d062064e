"""The mini model's byte-level BPE tokenizer, with a ChatML template and one token per protocol tag."""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..protocols.wordings import BRIEF
from ..world.build import YEARS, build_world
from ..world.names import all_words
from ..world.questions import ask
from ..world.relations import HERBAL, RELATIONS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = (
    "<think>", "</think>", "<information>", "</information>", "<query>", "</query>", "<search_complete>",
    "</search_complete>", "<important_info>", "</important_info>", "<search>", "</search>", "<answer>", "</answer>",
    "<|begin_search_query|>", "<|end_search_query|>", "<|begin_search_result|>", "<|end_search_result|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_BARE = """system user assistant Question Answers Response Doc Title Query query Search True False yes no unknown
Nothing helpful missing AND OR Options information The What Who Where When Which Whose Whom In On At A B C D
who what where when which whose whom in on it is as far known So the answer novel"""
_PUNCTUATION = ('{"query": " x"}', "[1, 2, 3, 4, 5, 6, 7, 8]", "[]", "[2]", "a: b; c, d. e? (A) (B)", "\n")


def _training_text(seed: int) -> list[str]:
    """Name parts (often, so that each becomes one token), years, digits, and the prose of some worlds."""
    rng = random.Random(seed)
    words = [f" {word}" for word in all_words()] + [f" {year}" for year in range(YEARS[0], YEARS[1] + 1)]
    lines = [word for word in words for _ in range(200)]
    for relation in RELATIONS + HERBAL:
        prose = (
            *relation.statements,
            *relation.questions,
            *relation.phrases,
            *relation.described,
            relation.name,
        )
        plain = " ".join(prose).replace("{s}", "").replace("{o}", "").replace(".", "")
        lines += [f" {word}" for word in plain.split() for _ in range(200)]
    for word in [*_BARE.split(), *BRIEF.values()]:  # with and without a space before, each one token
        lines += [word, f" {word}"] * 200
    lines += [text for text in _PUNCTUATION for _ in range(200)] + [
        f"{i} {i}" for i in range(21) for _ in range(200)
    ]
    for name in ("tokenizer", "herbs"):
        world = build_world(name, None if name == "tokenizer" else {"herb": 100})
        lines += [document.text for document in world.documents]
        for kind in ("nq", "popqa", "triviaqa", "hotpotqa", "2wiki", "musique", "comparison"):
            asked = (ask(kind, world, rng.choice(world.entities), rng) for _ in range(1000))
            lines += [question.text for question in asked if question is not None]
    return lines


def train_tokenizer(vocab_size: int = 4992, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same on every machine."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_text(seed), trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path, vocab_size: int = 4992) -> PreTrainedTokenizerFast:
    """Train the tokenizer and write it in the Hugging Face layout."""
    tokenizer = train_tokenizer(vocab_size)
    tokenizer.save_pretrained(folder)
    return tokenizer
