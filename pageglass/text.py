"""Text that others wrote, fit to be shown: on a terminal, in an error, in a header."""

from __future__ import annotations

import re

_UNFIT = re.compile(
    # Controls, line and paragraph separators, halves of surrogate pairs, and what turns the
    # direction of the text around it (Unicode 15, UAX #9).
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """``text`` without what a terminal would act on: control, bidi and invisible characters."""
    return "".join(_harmless(letter) for letter in text)


def one_line(text: str) -> str:
    """``printable`` text on one line."""
    return " ".join(printable(text).split())


def check_plain(text: str) -> str:
    """``text``; ValueError where it has control characters, or such as turn its direction."""
    if found := _UNFIT.search(text):
        raise ValueError(f"has the control character U+{ord(found[0]):04X} in it: leave it out")
    return text


def _harmless(letter: str) -> str:
    if letter.isprintable() or letter in "\n\u200c\u200d":  # joiners shape words
        return letter
    return " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}"
