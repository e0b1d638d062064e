"""Pages: words are apart where a browser shows them apart, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("bs4")

from s3mini.errors import DataError
from s3mini.owndata.files import read_rows
from s3mini.owndata.html import CELLS, LINES, PARAGRAPHS, page_text

PAGES: list[tuple[str, str]] = [
    # inline: one word
    ("<b>Ber</b>lin", "Berlin"),
    ("<a href=x>Ber</a><span>l</span><x-y>in</x-y>", "Berlin"),
    ("10<sup>th</sup> H<sub>2</sub>O", "10th H2O"),
    ("Ber<wbr>lin Ber&shy;lin Ber&#8203;lin Ber&lrm;lin", "Berlin Berlin Berlin Berlin"),
    ("Ber<!-- x -->lin", "Berlin"),
    ("Ber<script>var x</script>lin", "Berlin"),
    ("Ber<span hidden>x</span>lin", "Berlin"),
    ("Ber<div hidden>x</div>lin", "Berlin"),
    ("Ber<input type=hidden>lin Ber<dialog>x</dialog>lin", "Berlin Berlin"),
    ('Ber<i style="color:red; display: none">x</i>lin', "Berlin"),
    ('<div style="display:inline">Ber</div>lin', "Berlin"),
    # apart
    ("Ber<br>lin Ber<br/>lin Ber</br>lin", "Ber lin Ber lin Ber lin"),
    ("one&nbsp;two one&emsp;two", "one two one two"),
    ("one\n two<i>\nthree</i>", "one two three"),
    ("<p>one<p>two", "one two"),
    ("one</p>two", "one two"),
    ("one<div>two</div>three", "one two three"),
    ("<ul><li>one<li>two</ul>three", "one two three"),
    ("<table><tr><td>one</td><td>two</td></tr><tr><th>three</th></table>", "one two three"),
    ("<table><tr><td>one<td>two<tr><td>three</table>", "one two three"),
    ("<dl><dt>one<dd>two</dl>", "one two"),
    ("<select><option>one<option>two</select>", "one two"),
    ("one<img src=x>two<input>three", "one two three"),
    ('<span style="display:block">one</span>two', "one two"),
    ('<div style="display:flex"><span>one</span><span>two</span></div>', "one two"),
    ("<ruby>one<rp>(</rp><rt>two</rt><rp>)</rp></ruby>", "one two"),
    ("<pre>one\n  two</pre>", "one two"),
    ("<H1>One</H1>two", "One two"),
    ("<dialog open>one</dialog>two", "one two"),
    ("<svg><text>10</text><text>2<tspan>0</tspan></text></svg>", "10 20"),
    ("<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math>", "1 2"),
    ("<math><mtable><mtr><mtd>1<mtd>2<mtr><mtd>3</mtable></math>", "1 2 3"),
    # not shown
    ("<style>p{}</style><template>t</template><noscript>no</noscript><p>one", "one"),
    ("<title>T</title><meta name=x><svg><title>no</title><text>one</text></svg>", "one"),
    ("<p hidden>no<p>one", "one"),
    ("<ul><li hidden>no<ul><li>no</ul><li>one</ul>", "one"),
    ("<datalist><option>no</datalist><iframe>no</iframe><video>no</video>one", "one"),
    ("<?php no ?><![CDATA[no]]><!DOCTYPE html>one", "one"),
    ("one<nav>no</nav>two", "one two"),
    # shown
    ("<details><summary>one</summary>two</details><textarea>three</textarea>", "one two three"),
    ("<button>one</button><label>two</label>", "one two"),
    ("&lt;b&gt; &amp; <q>one</q>", "<b> & “one”"),
    ("&nosuch; AT&T; &copy2020 &notit; &#x96; &amp;amp; 1 &lt 2", "&nosuch; AT&T; ©2020 ¬it; – &amp; 1 < 2"),
    ('<p title="a &quot; b>c">one<script>if (a &lt b) no()</script>', "one"),
]


@pytest.mark.parametrize(("page", "words"), PAGES)
def test_words_are_those_a_browser_shows(page: str, words: str) -> None:
    assert page_text(page.encode(), Path("p.html"))[1].split() == words.split()


@given(
    st.lists(
        st.sampled_from("b i em strong span a code sup sub mark small u s x-tag abbr".split()), max_size=5
    )
)
def test_no_inline_element_divides_a_word(names: list[str]) -> None:
    opened, closed = "".join(f"<{n}>" for n in names), "".join(f"</{n}>" for n in reversed(names))
    assert page_text(f"Ber{opened}l{closed}in".encode(), Path("p"))[1] == "Berlin"


@pytest.mark.parametrize(
    "name", sorted((PARAGRAPHS | LINES | CELLS) - {"dialog", "frame", "frameset", "nav", "plaintext"})
)
def test_every_block_divides_words(name: str) -> None:
    closing = "" if name in ("br", "hr") else f"</{name}>"
    assert page_text(f"one<{name}>{closing}two".encode(), Path("p"))[1].split() == ["one", "two"]


def test_titles_paragraphs_and_encodings(tmp_path: Path) -> None:
    page = tmp_path / "old_page.html"
    page.write_bytes("<meta charset=latin-1><title>\n Caf\xe9 </title><p>Un.<p>Deux".encode("latin-1"))
    (row,) = read_rows(page)
    assert (row.values["title"], row.values["text"], row.printed) == ("Café", "Un.\n\nDeux", False)
    page.write_text("<p>" + "<b>" * 5000 + "deep")
    (row,) = read_rows(page)
    assert (row.values["title"], row.values["text"]) == ("old page", "deep")


@pytest.mark.parametrize(
    "raw",
    [
        b"<p>\ncaf\xe9",
        b"<meta charset=utf-8>\n<p>caf\xe9",
        b"<meta charset=klingon>\n<p>a",
        b"<meta charset=cp1252>\n\x81",
    ],
)
def test_an_encoding_is_declared_or_utf8_and_never_guessed(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "p.html").write_bytes(raw)
    with pytest.raises(DataError, match=r"p\.html:\d: no text in the encoding .*meta charset"):
        list(read_rows(tmp_path / "p.html"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_decide(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "p.html").write_bytes("<meta charset=latin-1><p>Café</p>".encode(encoding))
    assert next(iter(read_rows(tmp_path / "p.html"))).values["text"] == "Café"
