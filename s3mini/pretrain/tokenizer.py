"""The mini model's tokenizer, with a ChatML template and one token per protocol tag.

Its pre-tokenizer keeps a capitalised name in one piece, so that the names of the mini world are one
token each, as frequent names are in large models: a small model need not learn to bind their parts
(which took it longer than everything else together). Any other name falls to pieces as usual.
"""

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..protocols.wordings import BRIEF, TAGS
from ..world.build import YEARS, build_world
from ..world.names import NAME_PATTERN, NAMES
from ..world.questions import ask
from ..world.relations import HERBAL, RELATIONS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_BARE = """system user assistant Question Answers Response Doc Title Query query Search True False yes no unknown
Nothing helpful missing AND OR Options information The What Who Where When Which Whose Whom In On At A B C D
who what where when which whose whom in on it is as far known So the answer novel It of with before after"""
_PIECES = rf" ?\b(?:Were|Did|Do|Are)\b| ?{NAME_PATTERN}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+"
"""What is one piece: a question word, a name, a word, a number, punctuation, space."""
_PUNCTUATION = ('{"query": " x"}', "[1, 2, 3, 4, 5, 6, 7, 8]", "[]", "[2]", "a: b; c, d. e? (A) (B)", "\n")


def _known_text(seed: int) -> list[str]:
    """Text whose every piece becomes one token: names, years, small numbers, and all that worlds and prompts say."""
    rng = random.Random(seed)
    lines = [f" {name}" for names in NAMES.values() for name in names]
    lines += [f" {year}" for year in range(YEARS[0], YEARS[1] + 1)] + [f"{i} {i}" for i in range(21)]
    for relation in RELATIONS + HERBAL:
        prose = (*relation.statements, *relation.questions, *relation.phrases, *relation.described)
        lines += [f" {part.replace('{s}', '').replace('{o}', '')}" for part in (*prose, relation.name)]
    for word in [*_BARE.split(), *BRIEF.values()]:  # with and without a space before
        lines += [word, f" {word}"]
    lines += [*_PUNCTUATION, *(f" The {relation.name} of" for relation in RELATIONS + HERBAL)]
    lines += [" The school with the novel"]
    for world in (build_world("tokenizer"), build_world("herbs", {"herb": 100})):
        lines += [f" {document.text}" for document in world.documents]
        for kind in ("nq", "popqa", "triviaqa", "hotpotqa", "2wiki", "musique", "comparison"):
            asked = (ask(kind, world, rng.choice(world.entities), rng) for _ in range(1000))
            lines += [f" {question.text}" for question in asked if question is not None]
    return lines


def make_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """The tokenizer; the same on every machine. Unigram: every known piece one token, else bytes."""
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    pieces = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    known = {piece: None for line in _known_text(seed) for piece, _ in pieces.pre_tokenize_str(line)}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [(piece, 0.0) for piece in SPECIAL] + [(letter, -10.0) for letter in letters]
    vocabulary += [(piece, -1.0) for piece in known if piece not in letters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
