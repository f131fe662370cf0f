from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pageglass.text import check_plain, one_line, printable


@given(st.text(st.characters(), max_size=50))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert all(letter.isprintable() or letter in "\n\u200c\u200d" for letter in shown)
    assert len(shown) == len(text)
    assert "\n" not in one_line(text)


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\u2066"])
def test_control_characters_are_refused(letter: str) -> None:
    with pytest.raises(ValueError, match=rf"U\+{ord(letter):04X}"):
        check_plain(f"a{letter}b")


@pytest.mark.parametrize(
    "text", ["Fall\u00a0Nr. 5", "\u3000題名", "می\u200cخواهم", "👩\u200d💻", ""]
)
def test_letters_of_every_language_are_not(text: str) -> None:
    assert check_plain(text) == text
