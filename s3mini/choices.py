"""Multiple choice: which option a reply chooses, read from the reply as it was written.

    reply --options' texts and letters become marks--> marks --drop what is negated--> readings --> one option, or none

The readings go from the most specific to the least; the first one that the reply offers decides, and only if it names
a single option:

1. a field made for the answer: ``\\boxed{B}``, ``<answer>B</answer>``, ``{"answer": "B"}`` (the last one);
2. "final answer: B";
3. "the answer is B", "I choose B", a sentence that ends in "so B", on the last line that says so;
4. a first line that is nothing but an option, where no other line is one and no second thought follows;
5. "B is correct", wherever it is said; then "B is best", "B is likely": of one option, for others may be best elsewhere;
6. "so B", "therefore (B)", on the last line that says so;
7. a last line that is nothing but an option;
8. an option that opens the reply: "B. Because …", "Yes, …";
9. the only option that the reply names at all.

What an option's text holds is no letter ("Hepatitis B"), the text of an option inside a longer one's is that longer
one, a letter is one only where its neighbours allow it ("a vesol" has none), and options listed in order, as in the
question, choose nothing. Nothing below the marks knows one letter from another. A letter with another option's text
("(A) vesol" where vesol is B) names two options, which is none. Differs from MIRAGE's own reading, which takes the
first letter in brackets and else a fixed one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase as LETTERS
from typing import Any

import regex

from .errors import DataError
from .records import Question
from .unicode import blank, canonical, folded

_MARK = 0xE000  # of the private use area: option i becomes the character _MARK + i
_M = "[\ue000-\ue019]"
_GAP = "[^\\w\\n\ue000-\ue019]"
_REST = "[^\\w\ue000-\ue019]"  # a gap, or a line's end
_WORD = r"[\p{L}\p{N}\p{M}]"
_TOKEN = regex.compile(rf"{_WORD}+|[^\p{{Z}}\p{{C}}]")
_FLAGS = regex.IGNORECASE | regex.MULTILINE
# Every repetition below is bounded or possessive: a model may write anything, and reading it must take no time.
_BEFORE = (
    "options? choices? answers? letters? alternatives? is are was be as choose chose pick select with for say think so "
    "and or nor not but both either neither than of over between also then therefore thus hence probably likely definitely "
    "possibly presumably surely simply just its leaves leaving excluding eliminating get "
    "clearly certainly maybe perhaps eliminate exclude reject out cannot except unlike only"
).replace(" ", "|")
_AFTER = (
    "is isn't are aren't was were would should do does doesn't don't and or nor as with together then because since but over seems "
    "fits matches cannot can't only leaves leaving"
).replace(" ", "|") + "|rather than|instead of"
_LETTER = (  # {0}: the letters there are
    rf"(?=[{{0}}])(?<=(?:^|[^\w\s]|\b(?:{_BEFORE})|'s|n't)\s{{{{0,4}}}})"
    rf"(?<!\w')(?<!\w-)(?<![A-Za-z]\.)(?<!</?)(?<!\w)([{{0}}])"
    rf"(?=[^\w\s]|[ \t]*(?:$|[])}}}}.,;:!?/&|=>+-])|[ \t]+(?:{_AFTER})\b|(?-i:(?<=[A-Z])[ \t]+[(\[\p{{{{So}}}}\u2190-\u21ff]))"
    rf"(?!\w|\.\w\b|-\w|'(?!s\b)\w)(?:{_GAP}{{{{1,9}}}}+(?:(?:the|an?)[ \t]+)?(?={_M}))?"
)
_PIECE = rf"({_M}(?>(?!\.\s){_GAP}|\b(?:and|or|nor|vs)\b(?:{_GAP}|\b(?:the|an?|options?)\b){{0,9}}+|{_M}){{0,200}}+)"
_COMMAS = rf"(?:,{_GAP}{{0,9}}+{_M}){{2,30}}+"  # of two, the second may be the choice: "not A, B"
_LIST = rf"{_M}(?>(?:,{_GAP}{{0,9}}+{_M}){{0,30}}(?:,?{_GAP}{{0,9}}+\b(?:and|or|nor)\b|[/&])(?:(?!\.\s){_GAP}|\boption\b){{0,9}}+{_M}|{_COMMAS})?"
_ALL = rf"{_M}(?>[^\w\n;.(\ue000-\ue019]{{0,6}}(?:[,/&]|\b(?:and|or|nor)\b)(?:(?!\.\s){_GAP}|\b(?:and|or|nor|the|options?)\b){{0,9}}+{_M}){{0,30}}+"
_SMALL = (
    r"\b(?:the|an?|be|is|it's|it|either|both|option|options|choice|choices|answer|letter|correct|likely|also|think|believe"
    r"|say|that|choose|select|pick)\b"
)
_BAD = r"(?:wrong|incorrect|false|unlikely|inappropriate|implausible|impossible|excluded|eliminated|contraindicated)\b"
_DENIED = [
    regex.compile(pattern, _FLAGS)
    for pattern in (
        r"(?:\b(?:not|neither|never|cannot|over|than|instead of|except(?: for)?|(?:any\w*|every\w*|all) but|exclud\w+|eliminat\w+"
        rf"|reject\w*|rul\w+ out|unlike|unlikely|doubt\w*|avoid|disregard\w*)\b|n't\b)(?>(?![.,;!?]\s){_GAP}|{_SMALL}){{0,40}}+(?:{_LIST})",
        rf"{_ALL}{_GAP}{{0,9}}+(?:are|were|aren't|do|don't)\b{_GAP}++(?:\w+{_GAP}++){{0,2}}?(?:not|{_BAD}|ruled out|fit)",
        rf"({_M})(?:(?![.,]\s){_GAP}){{0,9}}+(?:, (?=which\b))?(?>(?:which|option|seems|is|was|looks|appears|the|an?|clearly|also|to|be|very|most|much)"
        rf"\b{_GAP}++){{0,9}}+(?:(?<=\b(?:is|was|seems|looks|which|clearly|also) )not\b|{_BAD}|(?:least|less|worse|inferior|second)\b|ruled out"
        r"|(?:is|was|does|did|would|could|should|ca)n't|(?:does|did|would|could|should|can) ?not)",
        rf"({_M}){_GAP}{{0,9}}+{_BAD}(?=[ \t]*(?:$|[.;,]))",
        rf"({_M}){_GAP}{{0,9}}+(?:would|might|could)\b[^.\n]{{0,60}}\b(?:if|unless|were|had)\b",
        rf"{_LIST}[^\w\s\ue000-\ue019]{{0,3}}\?(?=[^\ue000-\ue019]*{_M})",  # "A? No, B"
    )
]
_LINK = (
    rf"(?>{_REST}|\b(?:is|are|was|be|would|should|must|will|has|to|have|therefore|thus|hence|clearly|likely|most|probably"
    r"|definitely|the|an?|option|choice|letter|answer|indeed|then|here|this|that|question|for|of|it|i|s|correct)\b){0,60}+"
)
_ANSWER = (
    r"answer|(?:correct|best|right) (?:option|choice|one|response|letter|statement)|my (?:choice|pick|guess)"
)
_CHOOSE = r"choose|chose|pick|picked|select|selected|go(?:ing)? with|go for|opt for|vote for|settle on"
_SO = "so|therefore|thus|hence|consequently|conclusion|overall"
_BEING = rf"{_PIECE}(?:is|are|must be|would be|seems|appears)\b{_GAP}++(?:\w+{_GAP}++){{0,2}}?"
_LABEL = rf"(?>{_GAP}|\b(?:the|final|correct|option|choice|answer|letter|is)\b){{0,60}}+"
_FIELDS = regex.compile(
    r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*+)\}|<answer>(.*?)(?:</answer>|\Z)"
    r"""|["'](?:\w{0,30}answer|(?:\w{1,30}_)?(?:choice|option|letter)|prediction)["']\s*+:\s*+"""
    r"""("[^"]*"|'[^']*'|\[[^]]*\]|[^,}\n]*)""",
    regex.IGNORECASE | regex.DOTALL,
)
_SAYINGS = [
    [regex.compile(pattern, _FLAGS) for pattern in patterns]
    for patterns in (
        [rf"\bfinal (?:answer|choice|decision|option)\b{_LINK}{_PIECE}"],
        [
            rf"\b(?:{_ANSWER}|{_CHOOSE})\b{_LINK}{_PIECE}",
            rf"{_PIECE}(?:is|are|must be|would be)\b{_GAP}++(?:\w+{_GAP}++){{0,2}}?answer\b",
            rf"\b(?:{_SO})\b{_LINK}{_PIECE}(?=\.|$)",
            r"\banswer\b\W{1,9}(?:is\W{1,9})?()(?:unknown|none|unclear|uncertain|insufficient)\b",
        ],
        [rf"{_BEING}(?:correct|right|true)\b"],
        [rf"{_BEING}(?:best|appropriate|likely)\b"],
        [rf"\b(?:{_SO})\b{_LINK}{_PIECE}"],
    )
]
_OF_ONE = _SAYINGS[2:4]
_LONE = regex.compile(rf"^{_LABEL}{_PIECE}$", _FLAGS)
_OPENS = regex.compile(
    rf"^{_LABEL}{_PIECE}(?:(?<=(?![ \t:]){_GAP}[ \t]*)(?!\d+ ?%)|(?=\.)|$|because\b|since\b)", _FLAGS
)
_SECOND_THOUGHT = regex.compile(r"\b(?:wait|actually|scratch that|on second thought|sorry)\b", _FLAGS)
_CORRECTED = regex.compile(r"\b(?:correction|wait,? no)\b", _FLAGS)  # what comes next is the answer
_UNDERSCORED = r"(?<!\w)_{{1,3}}([{0}])(?=_{{1,3}}(?!\w)|[^\w])|(?<=(?<!\w)_{{0,3}}[{0}])_{{1,3}}(?!\w)"  # __B__, __B. text__
_TWO_BOXES = regex.compile(r"\}[$\s]{0,9}(?:[,/&]|\band\b|\bor\b)[$\s]{0,9}\\boxed\s*\{")
_NO = r"(?!\s+(?!(?:it|this|that|there|they|he|she|we|because|since|as|is|and|or|not)\b)\w)"


def options_of(question: Question, where: str = "") -> list[str]:
    """The question's options in the order of their letters; empty where it has none.

    Raises:
        DataError: ``metadata["options"]`` is no list of texts, or no accepted answer is one of their letters or texts.
    """
    options = question.metadata.get("options")
    if options is None:
        return []
    options = by_letter(options)
    place = f"{where or f'question {question.id!r}'}: metadata.options"
    if not isinstance(options, list | tuple) or not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"{place} must be a list of 2 to {len(LETTERS)} texts, in the order of their letters")
    if bad := [option for option in options if not isinstance(option, str) or blank(option)]:
        raise DataError(f"{place} holds {bad[0]!r} (each must be non-empty text)")
    if not _right(question.golden_answers, options):
        answers = ", ".join(question.golden_answers)
        raise DataError(
            f"{place}: the accepted answer {answers!r} is none of them (give its letter, or its text)"
        )
    return list(options)


def by_letter(options: Any) -> Any:
    """Options kept by their letters (``{"B": …, "A": …}``) as a list in the letters' order; anything else as it is."""
    if isinstance(options, Mapping) and sorted(options) == list(LETTERS[: len(options)]):
        return [options[letter] for letter in sorted(options)]
    return options


def with_options(stem: str, options: Sequence[str]) -> str:
    """A question as the generator is asked it, its options listed by letter."""
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{stem} Options: {listed}"


def right_options(question: Question) -> dict[str, str]:
    """The accepted options, letter to text; empty where the question has no options. Raises as `options_of`."""
    return _right(question.golden_answers, options_of(question))


def _right(golden_answers: Sequence[str], options: Sequence[str]) -> dict[str, str]:
    lettered = dict(zip(LETTERS, options, strict=False))
    by_letter = {canonical(gold).strip().upper() for gold in golden_answers} & lettered.keys()
    texts = {folded(gold).strip() for gold in golden_answers}
    return {
        letter: option
        for letter, option in lettered.items()
        if (letter in by_letter if by_letter else folded(option).strip() in texts)
    }


def chosen_letter(reply: str, options: Sequence[str]) -> str:
    """The letter of the one option that a reply chooses (see the module); empty where it chooses none, or several.

    >>> [chosen_letter(reply, ["ulnar", "median"]) for reply in ("a", "(B) median", "A is wrong, so B", "A and B")]
    ['A', 'B', 'B', '']
    """
    chosen = _read(_marked(canonical(reply), options))
    return LETTERS[ord(chosen.pop()) - _MARK] if len(chosen) == 1 else ""


def _read(text: str) -> set[str]:
    """The marks that the most specific reading of a marked text names."""
    text = _TWO_BOXES.sub(", ", text)
    fields = ["".join(group or "" for group in field.groups()) for field in _FIELDS.finditer(text)]
    if fields:
        return next((marks for field in reversed(fields) if (marks := _marks(field))), set())
    once = _SECOND_THOUGHT.search(text) is None
    text = _SECOND_THOUGHT.sub("\n", _CORRECTED.sub("\nanswer", text))
    lines = [line for line in text.split("\n") if line.strip()]
    whole = "\n".join(lines)
    alone = [lone[1] if (lone := _LONE.search(line)) else "" for line in lines]
    for patterns in _SAYINGS:
        if patterns is _OF_ONE[0] and once and alone and alone[0] and len(first := _marks(*alone)) == 1:
            return first
        said = [one for pattern in patterns for one in pattern.finditer(whole)]
        if said and patterns in _OF_ONE:
            return _marks(*(one[1] for one in said))
        if said:
            # "the answer is" may stand a line above its answer
            last = max(whole.count("\n", 0, one.start(1)) for one in said)
            return _marks(*(one[1] for one in said if whole.count("\n", 0, one.start(1)) == last))
    if alone and alone[-1]:
        return _marks(*alone)
    opens = _marks(*(one[1] for one in _OPENS.finditer(whole)))
    return opens if lines and len(opens) == 1 and _OPENS.match(lines[0]) else _marks(whole)


def _marks(*texts: str) -> set[str]:
    return {mark for text in texts for mark in regex.findall(_M, text)}


def _marked(text: str, options: Sequence[str]) -> str:
    """The text with each option that it names, by text or letter, as one mark; without those it denies."""
    text = regex.sub(_M, " ", text)
    spans = _named(text, options, exactly=True) or _named(text, options, exactly=False)
    pieces, end = [], 0
    for start, stop, option in spans:
        pieces += [text[end:start], chr(_MARK + option)]
        end = max(end, stop)
    text = "".join([*pieces, text[end:]])
    letters = LETTERS[: len(options)]
    pairs = [set(zip(words, words[1:], strict=False)) for words in map(_words, options)]
    inside = {pair for its in pairs for pair in its}
    of_texts = {first for first, _ in inside} | {"i"}  # and the pronoun
    shortened = {  # "B. burgdorferi" is no letter where another option is Borrelia burgdorferi
        (one[0], other)
        for letter, its in zip(letters.lower(), pairs, strict=False)
        for one, other in its
        if len(one) > 1 and one[0] != letter
    }

    def mark(found: regex.Match[str]) -> str:
        letter = found[1].lower()
        rest = found.string[found.end(1) : found.end(1) + 60]
        if rest.startswith(". ") and any((letter, word) in shortened for word in _words(rest)[:1]):
            return str(found[0])
        if letter in of_texts:
            for word in _words(rest)[:1]:
                spoken = letter == "i" and rest[0].isspace()
                if spoken or ((letter, word) in inside and not regex.fullmatch(_AFTER, word)):
                    return str(found[0])
        return chr(_MARK + letters.index(letter.upper()))

    text = regex.sub(_UNDERSCORED.format(letters), r"\1", text, flags=_FLAGS)
    text = regex.sub(_LETTER.format(letters), mark, text, flags=_FLAGS)
    between = rf"(?>(?!\?){_REST}|\b(?:the|an?)\b){{0,20}}+"
    text = regex.sub(rf"({_M})(?:{between}\1)+", r"\1", text)
    text = regex.sub(between.join(chr(_MARK + i) for i in range(len(options))), " ", text)
    for denied in _DENIED:
        text = denied.sub(lambda found: regex.sub(_M, "¬", found[0]), text)
    return text


def _named(text: str, options: Sequence[str], exactly: bool) -> list[tuple[int, int, int]]:
    """Where options are named by their texts (start, end, option), but for those inside a longer one's text.

    ``exactly``: with their punctuation, so that <5 is not >5.
    """
    spans = []
    for number, option in enumerate(options):
        tokens = _TOKEN.findall(canonical(option)) if exactly else _words(option)
        if len(tokens) > 1 and tokens[0].lower() in ("a", "an", "the"):
            tokens = tokens[1:]
        if not tokens or (len(tokens) == 1 and tokens[0].upper() in [*LETTERS[: len(options)]]):
            continue  # an option "B" is told by its letter
        pattern = regex.escape(tokens[0])
        for one, other in zip(tokens, tokens[1:], strict=False):
            apart = regex.match(_WORD, one[-1]) and regex.match(_WORD, other[0])
            pattern += (r"\W+" if not exactly else r"\s+" if apart else r"\s*") + regex.escape(other)
        pattern = rf"(?<!{_WORD}){pattern}(?!{_WORD})" + (
            _NO if tokens[0].lower() == "no" == tokens[-1].lower() else ""
        )
        found = regex.finditer(pattern, text, flags=regex.IGNORECASE | regex.FULLCASE)
        spans += [(*one.span(), number) for one in found]
    return sorted(
        (start, end, number)
        for start, end, number in spans
        if not any(s <= start and end <= e and e - s > end - start for s, e, _ in spans)
    )


def _words(text: str) -> list[str]:
    return [word for word in _TOKEN.findall(folded(text)) if regex.match(_WORD, word)]
