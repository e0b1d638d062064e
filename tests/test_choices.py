"""Multiple choice: what replies choose, every letter treated as every other, and options that trap a reader."""

from __future__ import annotations

import json
import re
from itertools import permutations
from pathlib import Path
from string import Template

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3mini.choices import LETTERS, chosen_letter, options_of, right_options, with_options
from s3mini.corpus import read_questions
from s3mini.errors import DataError
from s3mini.records import Question

steady = settings(deadline=None, derandomize=True)
NAMES = ["tirvene", "vesol", "cestine", "grorone", "dulache kelp", "the flaldache", "larritis", "honnosis"]

# $X, $Y, $Z: three letters; $x, $y: in lower case; $tX, $tY: their options' texts.
CHOOSES_X = r"""
$X|$x|($X)|($x)|[$X]|$X.|$x.|$x)|$X!|**$X**|*$X*|`$X`|"$X"|'$X'|“$X”|$wX|Option $X|option $x|Choice: $X|Answer $X|answer: $x
Answer:$X|ANSWER: $X|I choose $X|I pick option $x.|I'd go with $X|I'll select ($X).|Final answer: $X|**Answer:** $X|$X\n
### Final Answer\n$X|\boxed{$X}|$$\boxed{\text{$X}}$$|\boxed{($X) $tX}|<answer>$X</answer>|<answer> ($x) $tX </answer>
The answer is $X|The answer is $x.|The answer is **$X**.|The answer's $X|It's $X|It must be $X.|$X is the answer|$X is correct.
Option $X is right|The best choice is $X|The correct option is ($X) $tX|Therefore, the correct answer is **$X. $tX**.|I think $X
So the answer is: $tX.|So it is $X.|$tX|a $tX|A $tX|$X. $tX|$X) $tX|($X) $tX|$X: $tX|$X - $tX|$X – $tX|$X $tX|$tX ($X)|$Y $tX
It is $tX, I think|The answer is a $tX|Answer: a $tX|{"answer": "$X"}|{'answer': '$x'}|{"answer": "$tX"}
```json\n{"thinking": "$Y is bad, $Z too", "answer_choice": "$X"}\n```|{"answer": "$X", "reason": "$tY is not"}
$X because it treats|$X. Because it treats, unlike $Y.|$X\n\nExplanation: $Y and $Z are wrong.|$Y is wrong, so $X|$X, not $Y
$Y is incorrect. $X is correct.|It isn't $Y; it's $X|not $Y but $X|$X rather than $Y|$X instead of $Y|Neither $Y nor $Z, but $X
$Y and $Z are wrong, so $X|$Y, $Z are incorrect. $X|The answer is not $Y. It is $X.|The answer is not $Y but $X|$X, $Y is wrong
not $tY but $tX|$tY is wrong, so $tX|$Y: $tY is wrong; $X: $tX is right|We can rule out $Y. $X|$Y is plausible, $Z too.\n$X
The answer is $Y.\nThe answer is $X.|The answer is $Y. Wait, actually the answer is $X.|The answer is $Y.\nFinal answer: $X
The answer is: \n\n$X|The correct answer is $X.\n\nExplanation: $Y treats, $Z does not.|Maybe $Y, maybe $Z.\n\nAnswer: $X
$Y. It is wrong because it does.\n$X. It is right since it does.\nAnswer: $X|$X (the one that treats)
$Y is not the answer; the answer is $X|I choose $X over $Y|<b>$X</b>|The answer is $X ($tX), not $Y ($tY).|Not $Y. Not $Z. So $X.|($X )
$X。|$Y. False\n$X. True\n$Z. False|I'm not sure, but $X|$tX, not $tY|Answer: [$X]|My final answer is option $X.|> $X|$Y, which is wrong; $X
The answer is $X.\n\n**$Y ($tY)** is the best choice in children.|Answer: $X\n\nOption $Y would be appropriate if he were young
**Answer: $X. $tX**\n\n$Y is wrong. $Z is less likely.|$X. $tX\n\n$tY is best in asthma.|I choose $X. $Y is the correct choice in children.
Answer: **$X** ($Y is second best)|The answer is $X ($Y and $Z are wrong).|The answer is $X; $Y and $Z are wrong.|$X - $Y and $Z do not fit
I don't think the answer is $Y. I think it is $X.|It is unlikely that the answer is $Y; it's $X|I doubt option $Y is it; $X
The answer is $Y. Correction: $X|The answer is $Y. Wait, no. It's $X.|$Y? No, $X.|Is it $Y or $Z? $X.|$X [1][2]|$X ✓|[ANSWER] $X [/ANSWER]
The answer is $X as $Y is the wrong choice|$tX is more effective than $tY|$Y is true.\n$Z is true.\nTherefore, $X.
__${X}__|_${X}_|__$X. ${tX}__|Answer: ___${X}___|The answer is __${X}__.|Possibly $X|$X only|Its $X.|That leaves $X|We get $X
A patient with B-cells took $tX.|Let's see. The answer to this question is $X.|It is a rather rare $tX|Vitamin D and $tX
"""
CHOOSES_NONE = r"""
$X and $Y|$X or $Y|$X, $Y|$X/$Y|$X & $Y|Both $X and $Y|$X $Y|$X$Y|$x and $y|The answer is either $X or $Y|$tX or $tY|$X\n$Y
$Y. $tX|($Y) $tX|The answer is $Y, $tX|The correct option is ($Y) $tX|not $X|It is not $X.|$X is wrong|($X) is incorrect
Neither $X nor $Y|$X isn't right|The answer is not $X|\boxed{$X, $Y}|{"answer": ["$X", "$Y"]}|<answer>$X or $Y</answer>
unknown||I do not know|Answer: unknown. Perhaps $tX|\boxed{17} or $X|type $X|vitamin $X|group $x strains|A good question
$x'est la vie|$x'accord|C'est $X|I don't think it's $X|I do not believe the answer is $X|I would not choose $X|anything but $X|$Y to $Z? Not $X
$X is less likely than $Y|$X is inferior to $Y|$X: 10%, $Y: 70%, $Z: 20%|$X (10%), $Y (70%)|$tX: no. $tY: yes.|Options $X-$Y|between $X and $Y
\boxed{$X} or \boxed{$Y}|$$\boxed{$X}$$ and $$\boxed{$Y}$$|☐ $Y ☑ $X ☐ $Z|$X as well as $Y|$X together with $Y|$X → $Y
$X is true.\n$Y is true.\n$Z is false.|$X is likely.\n$Y is most likely.
_${X}_ and _${Y}_|vitamin_${X}_c|${X}_1|not $X, $Y, $Z|I reject $X, $Y, $Z
$x-rays|e.g. something|The answer is unclear, $tX or $tY|K|Answer: Z|(Q)|$Z$X$Y
"""


def templates(block: str) -> list[str]:
    return [
        template.replace(r"\n", "\n")
        for line in block.strip("\n").split("\n")
        for template in line.split("|")
    ]


def fill(template: str, x: int, y: int, z: int) -> str:
    spelt = {"wX": chr(0xFF21 + x)}  # full width
    for name, i in (("X", x), ("Y", y), ("Z", z)):
        spelt |= {name: LETTERS[i], name.lower(): LETTERS[i].lower(), f"t{name}": NAMES[i]}
    return Template(template).substitute(spelt)


@pytest.mark.parametrize(
    ("template", "chosen"),
    [(one, True) for one in templates(CHOOSES_X)] + [(one, False) for one in templates(CHOOSES_NONE)],
)
def test_every_letter_is_read_as_every_other(template: str, chosen: bool) -> None:
    for x, y, z in list(permutations(range(len(NAMES)), 3))[::7]:
        reply = fill(template, x, y, z)
        assert chosen_letter(reply, NAMES) == (LETTERS[x] if chosen else ""), reply


PIECES = st.sampled_from(
    "$X $x ($X) $tX not is wrong right The answer option a A . , : \n so and or but I choose Both **$X** because it - no".split(
        " "
    )
    + ["$Y", "$tY", "the answer is"]
)


@steady
@given(st.lists(PIECES, max_size=12).map(" ".join), st.permutations(range(8)))
def test_letters_may_be_exchanged_in_any_reply(template: str, order: list[int]) -> None:
    x, y = order[:2]
    first, other = (
        chosen_letter(fill(template, 0, 1, 2), NAMES),
        chosen_letter(fill(template, x, y, 2), NAMES),
    )
    if (
        "A" not in template.replace("$", " ").split() and "a" not in template.split()
    ):  # which are letters themselves
        assert other == {"": "", "A": LETTERS[x], "B": LETTERS[y]}[first]


@steady
@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map(" ".join)))
def test_no_option_is_chosen_that_is_not_named(template: str) -> None:
    reply = re.sub(r"\$(?!t?[XYx])", "", template)
    reply = fill(reply, 3, 1, 2) if "$" in reply else reply
    letter = chosen_letter(reply, NAMES[:4])
    assert letter in ("", "A", "B", "C", "D")
    if letter:
        named = rf"(?<![a-z]){letter}(?![a-z])|{NAMES[LETTERS.index(letter)]}|\W{letter}\W"
        assert re.search(named, reply, re.IGNORECASE)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["Hepatitis B", "Vitamin A deficiency", "C. difficile colitis", "Hepatitis A"],
            "Hepatitis B=A|hepatitis a=D|A. Hepatitis B=A|The answer is Hepatitis A=D|Vitamin A deficiency=B|vitamin A="
            "|C. difficile colitis=C|C. difficile=|B=B|Answer: C=C|The diagnosis is hepatitis B.=A|Hepatitis A or B=",
        ),
        (
            ["yes", "no", "maybe"],
            "Yes=A|no=B|Maybe.=C|No, it is not=B|No. It is not effective=B|Yes, there is no evidence against=A|There is no difference="
            "|There is no difference, so the answer is maybe=C|B=B|The answer is no.=B|A=A|yes or no=|yes/no/maybe="
            '|(C) maybe=C|No significant difference was found. The answer is maybe.=C|not sure=|{"answer": "no"}=B',
        ),
        (
            ["5", "10", "<5 mg", ">5 mg", "-5"],
            "5=A|10=B|<5 mg=C|>5 mg=D|A=A|15=|The answer is 10.=B|5 or 10=|-5=E|−5=E",
        ),
        (
            ["hypertension", "pulmonary hypertension", "Both A and B", "None of the above"],
            "pulmonary hypertension=B|hypertension=A|Both A and B=C|None of the above=D|A and B="
            "|The answer is none of the above=D|Hypertension, not pulmonary hypertension=A",
        ),
        (
            ["Borrelia burgdorferi", "Treponema pallidum", "Candida albicans"],
            "B. burgdorferi=|The answer is B. burgdorferi.=|T. pallidum=|C. albicans=C|B. pallidum=B|B. Because=B",
        ),
        (["stable angina", "angina pectoris"], "stable angina pectoris=|stable angina=A"),
        (["B", "A", "AB", "O"], "A=A|type O=D|AB=C|(B)=B"),  # a letter is a label
        (["rest", "rest"], "rest=|A=A|B. rest=B"),  # their texts do not tell them apart
        (["Straße", "Weg"], "STRASSE=A|Ｗｅｇ=B|(b) Weg=B"),
        (["true", "false"], "False=B|True.=A|The statement is false=B"),
        (
            NAMES[:4],
            "A. tirvene\nB. vesol\nC. cestine\nD. grorone=|A. tirvene\nB. vesol\nC. cestine\nD. grorone\n\nB=B"
            "|Excluding A, C, D leaves B.=B|Excluding A, C and D leaves B=B|Eliminating A, C, D, we get B=B|I reject A, C, D; B=B"
            "|Not A, B=B|Options: (A) tirvene (B) vesol (C) cestine (D) grorone. Answer: vesol=B|E=|E. vesol=B",
        ),
    ],
)
def test_options_that_trap_a_reader(options: list[str], expected: str) -> None:
    for reply, _, letter in (case.rpartition("=") for case in expected.split("|")):
        assert chosen_letter(reply, options) == letter, reply


def question(golds: tuple[str, ...], options: object) -> Question:
    return Question("q", "Which?", golds, {"options": options})


def test_accepted_options_are_given_by_letter_or_by_text() -> None:
    assert right_options(question(("b",), ["ulnar", "median"])) == {"B": "median"}
    assert right_options(question(("Median", "MEDIAN nerve"), ["ulnar", "median"])) == {"B": "median"}
    assert options_of(question(("A",), {"B": "median", "A": "ulnar"})) == ["ulnar", "median"]
    assert with_options("Which?", ["ulnar", "median"]) == "Which? Options: (A) ulnar (B) median"
    assert (
        options_of(Question("q", "Who?", ("Ann",))) == []
        and right_options(Question("q", "Who?", ("Ann",))) == {}
    )


@pytest.mark.parametrize(
    ("golds", "options", "told"),
    [
        (("A",), "ulnar", "list of 2 to 26"),
        (("A",), ["ulnar"], "list of 2 to 26"),
        (("A",), [], "list of 2 to 26"),
        (("A",), {"1": "ulnar", "2": "median"}, "list of 2 to 26"),
        (("A",), ["ulnar", 5], "holds 5"),
        (("A",), ["ulnar", " \u200b"], "non-empty"),
        (("C",), ["ulnar", "median"], "'C' is none of them"),
    ],
)
def test_malformed_options_are_told_by_their_place(tmp_path: Path, golds, options, told: str) -> None:
    with pytest.raises(DataError, match=rf"question 'q': metadata.options.*{told}"):
        options_of(question(golds, options))
    line = {"id": "q", "question": "Which?", "golden_answers": golds, "metadata": {"options": options}}
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"test.jsonl:1: metadata.options.*{told}"):
        read_questions(file)


@pytest.mark.parametrize(
    "piece",
    [
        "A and ",
        "(A) is ",
        "not A, ",
        "so the answer is it ",
        "A.\n",
        '"answer',
        "<answer>",
        "a ",
        "\\boxed{",
        "A or the ",
        "*",
        "A? ",
        "A or B? ",
        "A would be ",
        "A, B and ",
        "wait, no ",
        "} and \\boxed{",
        "not think it's ",
    ],
)
def test_a_reply_that_repeats_itself_is_read_in_no_time(piece: str) -> None:
    """A pattern that tries its repetitions in every way would never come back."""
    assert chosen_letter(piece * 500 + "\nFinal answer: (C)", NAMES) in ("", "C")
