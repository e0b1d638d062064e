"""Which forms are the same text: a table, properties of the canonical form, and case, over all of Unicode."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3mini.unicode import blank, canonical, folded

steady = settings(deadline=None, derandomize=True)
AWKWARD = "iIİı\u0307\u0323\u0345ßẞςσΣﬁ\u00ad\u200b\u200d\ufe0f\u00a0\u3000’“–—−½²₂①Ａｶﾞ´¨㎏ab- '"
texts = st.one_of(st.text(), st.text(alphabet=AWKWARD))


@pytest.mark.parametrize(
    ("form", "plain"),
    [
        ("e\u0301", "é"),
        ("ＡＢＣ１２３！", "ABC123!"),
        ("ﬂoﬃce", "floffice"),
        ("𝐏𝑎𝓇𝔦𝕤", "Paris"),
        ("ｶﾞ", "ガ"),
        ("ﺳﻼﻡ", "سلام"),
        ("3\u202f812\u2009m\u3000", "3 812 m "),
        ("so\u00adft\u200b \ufeffhy\u2060phen\u200e", "soft hyphen"),
        ("‘a’ “b” ‚c‛ «d» ´e", "'a' \"b\" 'c' \"d\" 'e"),
        ("non\u2011breaking‐hyphen – dash — minus −", "non-breaking-hyphen - dash - minus -"),
        ("wait…", "wait..."),
        ("H₂O 5㎏ Ⅳ µ № ℃", "H2O 5kg IV μ No °C"),
        ("İi\u0307", "Ii"),
        ("Maß GROẞ Οδυσσεύς", "Mass GROSS Οδυσσεύσ"),
        ("1⁄2", "1/2"),
    ],
)
def test_forms_of_one_text(form: str, plain: str) -> None:
    assert canonical(form) == unicodedata.normalize("NFC", plain)


@pytest.mark.parametrize("text", ["10²", "½", "①", "ª", "™", "ı", "é", "¨", "が", "한국", "日本語"])
def test_what_says_something_of_its_own_stays(text: str) -> None:
    assert canonical(text) == text


@steady
@given(texts)
def test_the_canonical_form_is_one(text: str) -> None:
    for form in (canonical, folded):
        once = form(text)
        assert form(once) == once
        assert {form(unicodedata.normalize(name, text)) for name in ("NFC", "NFD")} == {once}
    assert folded(canonical(text)) == folded(text)
    assert blank(text) == (not folded(text).strip())


@steady
@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_is_left_as_it_is(text: str) -> None:
    assert canonical(text) == text and folded(text) == text.lower()


@steady
@given(texts, st.sampled_from(["\u200b", "\u00ad", "\ufe0f", "\u200e"]), st.integers(0, 9))
def test_what_nobody_sees_changes_nothing(text: str, unseen: str, place: int) -> None:
    assert canonical(text[:place] + unseen + text[place:]) == canonical(text)


def test_case_never_tells_two_texts_apart_but_by_the_dotless_i() -> None:
    letters = [c for c in map(chr, range(sys.maxunicode + 1)) if c.upper() != c or c.lower() != c]
    apart = {c for c in letters if len({folded(form) for form in (c, c.upper(), c.lower())}) > 1}
    assert apart == {"ı"}
