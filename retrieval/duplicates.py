"""Which pages look and read alike, so that one of them can stand for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pageglass.types import Page, PageRef, Word

# 64-bit hashes and looser distances merge different text pages: precision .11 at distance 4 of
# 64, and no gold page lost at 4 of 256 with nearly equal text (measured on MMLongBench-Doc).
MAX_DISTANCE = 4
MAX_DIFFERING_SHARE = 0.02
# Running headers and footers carry page numbers and dates that tell no two slides apart.
MARGIN = 0.08


def group_duplicates(pages: Sequence[Page]) -> dict[PageRef, list[PageRef]]:
    """Group ranked pages: each page that stands for a group, with the pages it stands for.

    The best-ranked page of a group represents it; groups keep the order of ``pages``. A page is
    compared with representatives only, so that a chain of small changes (a slide that builds up)
    cannot merge pages that differ a lot.
    """
    groups: dict[PageRef, list[PageRef]] = {}
    representatives: list[Page] = []
    for page in pages:
        twin = next((other for other in representatives if are_duplicates(page, other)), None)
        if twin is None:
            representatives.append(page)
            groups[page.ref] = []
        else:
            groups[twin.ref].append(page.ref)
    return groups


def are_duplicates(a: Page, b: Page) -> bool:
    """True for identical renders, and for a perceptual distance of at most 4 of 256 with nearly
    equal text. Pages without words are never duplicates: blanks are alike and mean nothing."""
    if not a.words or not b.words:
        return False
    if a.render_hash == b.render_hash:
        return True
    return hamming_distance(a.perceptual_hash, b.perceptual_hash) <= MAX_DISTANCE and _read_alike(
        a.words, b.words
    )


def hamming_distance(a: str, b: str) -> int:
    """Differing bits of two hashes given as hex digits of one length."""
    return (int(a, 16) ^ int(b, 16)).bit_count()


def _read_alike(a: Sequence[Word], b: Sequence[Word]) -> bool:
    """At most 2 % of the words differ, and none of these holds a digit: forms filled in twice
    differ by little more than a reading or a date."""
    words_a, words_b = Counter(_body(a)), Counter(_body(b))
    only_a, only_b = words_a - words_b, words_b - words_a
    differing = max(only_a.total(), only_b.total())
    longest = max(words_a.total(), words_b.total())
    return differing <= MAX_DIFFERING_SHARE * longest and not any(
        any(character.isdigit() for character in word) for word in (*only_a, *only_b)
    )


def _body(words: Iterable[Word]) -> list[str]:
    """The words outside the top and bottom margins."""
    return [
        word.text.casefold()
        for word in words
        if MARGIN <= (word.box[1] + word.box[3]) / 2 <= 1 - MARGIN
    ]
