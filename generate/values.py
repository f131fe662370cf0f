"""Whether a value is what quoted words say. Pure functions, tolerant of how people write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from generate.citations import MAX_QUOTE_CHARACTERS, says
from pageglass.types import Scalar

_ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ].*)?")
_NUMBER = re.compile(
    r"(?:(?P<minus>(?<![\w)])[-\u2212])|(?P<bracket>\())?[$€£¥₹]?\s?"
    r"(?P<digits>\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?![\d])(?:[.,]\d+)?|\d+(?:[.,'\u2019]\d+)*)"
    r"\s?(?P<scale>%|(?:thousand|million|billion|tsd|mio|mrd|mn|bn|[km])\b)?",
    re.IGNORECASE,
)
_SCALES = {
    "%": Decimal("0.01"),
    **dict.fromkeys(("thousand", "tsd", "k"), Decimal(10) ** 3),
    **dict.fromkeys(("million", "mio", "mn", "m"), Decimal(10) ** 6),
    **dict.fromkeys(("billion", "mrd", "bn"), Decimal(10) ** 9),
}
_DIGITS = re.compile(r"\d+")


def is_said(value: Scalar, quote: str) -> bool:
    """Whether ``quote`` says ``value``: a text by its words, a number however it is written (a
    thousand as 1,000, 1.000 or 1 thousand), a date (YYYY-MM-DD) by its numbers."""
    if len(quote) > MAX_QUOTE_CHARACTERS:
        return False
    if not isinstance(value, str):
        return Decimal(str(value)) in _numbers(quote)
    date = _ISO_DATE.fullmatch(value)
    return says(quote, value) or (date is not None and _says_date(quote, *map(int, date.groups())))


def _numbers(quote: str) -> set[Decimal]:
    """Every number the quote may mean."""
    found: set[Decimal] = set()
    for match in _NUMBER.finditer(quote):
        readings = set(_readings(match["digits"]))
        if match["scale"]:
            readings |= {number * _SCALES[match["scale"].lower()] for number in readings}
        if match["minus"] or match["bracket"]:
            # A bracket is how accounts write a negative, and where people put a remark.
            found |= {-number for number in readings}
        if not match["minus"]:
            found |= readings
    return found


def _readings(digits: str) -> Iterator[Decimal]:
    """What digits may mean with their marks: 4.812 is one thing in English, another in German."""
    plain = re.sub(r"[ \u00a0\u202f'\u2019]", "", digits)
    for point, comma in ((".", ","), (",", ".")):
        whole, _, rest = plain.partition(point)
        if re.fullmatch(rf"\d+|\d{{1,3}}(?:{re.escape(comma)}\d{{3}})+", whole) and (
            rest.isdecimal() or point not in plain
        ):
            yield Decimal(f"{whole.replace(comma, '')}.{rest or 0}")
    if any(mark in digits for mark in " \u00a0\u202f"):
        # They may have been numbers side by side.
        for part in re.split(r"[ \u00a0\u202f]", digits):
            yield from _readings(part)


def _says_date(quote: str, year: int, month: int, day: int) -> bool:
    """Whether day and year stand there, and the month as a number or in a word."""
    numbers = [int(digits) for digits in _DIGITS.findall(quote)]
    for written in ([year, day], [year % 100, day]):
        left = list(numbers)
        for number in written:
            if number not in left:
                break
            left.remove(number)
        else:
            return month in left or any(char.isalpha() for char in quote)
    return False
