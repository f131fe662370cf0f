"""Page images with what answered a question glowing: a similarity map as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from PIL import Image, ImageChops

from pageglass.errors import UsageError
from retrieval.encoders import PatchEncoder, SparseVector, Vectors
from retrieval.encoders.bm25 import is_stopword
from retrieval.page_shapes import on_paper
from retrieval.similarity import FloatMap, heat, similarity_maps

_GLOW = (255, 120, 20)
_STRONGEST = 0.9
"""How much of its colour the strongest glow has."""


def draw_heat_map(
    image: bytes, stored: Vectors, encoder: PatchEncoder, question: str, *, word: str = ""
) -> bytes:
    """The page image (PNG) with the cells that answer ``question`` (or one ``word`` of it) glowing.

    ``stored`` are the page's vectors as the index keeps them. UsageError where the page has none,
    where token pooling has merged them, or the question has no such word.
    """
    patches = stored.get("patches")
    if patches is None or isinstance(patches, SparseVector):
        raise UsageError("this page is not in the page-image index yet: see its document's state")
    with Image.open(io.BytesIO(image)) as opened:
        page = on_paper(opened.convert("RGB"))
    asked = encoder.encode_question(question).get("patches")
    if asked is None or isinstance(asked, SparseVector):
        raise UsageError("the question has no words for a heat-map")
    try:
        maps = similarity_maps(asked, patches, encoder.patch_grid(page))
    except ValueError:
        raise UsageError(
            "token pooling has merged this page's patches, so they have no place on it any more"
            " (setting index.token_pooling)"
        ) from None
    tokens = encoder.question_tokens(question)
    return glow(page, heat(maps, chosen_tokens(tokens, question, word)))


def chosen_tokens(tokens: Sequence[str], question: str, word: str = "") -> list[int] | None:
    """Positions of the tokens that ``word`` is made of, or all the question's content words.

    Tokens are pieces of words, with the model's own around them: what counts is where the letters
    of the question stand among theirs. None (all tokens) where the question has small words only,
    or a tokenizer that rewrites it. UsageError where it does not hold ``word``.
    """
    words = [(_letters(w), not is_stopword(w)) for w in question.split()]
    if word:
        words = [(letters, letters == _letters(word)) for letters, _ in words]
        if not any(wanted for _, wanted in words):
            raise UsageError(f"the question does not have the word {word[:80]!r}")
    pieces = [_letters(token) for token in tokens]
    at = "".join(pieces).find("".join(letters for letters, _ in words))
    if at < 0:
        return None
    spans: list[tuple[int, int]] = []
    for letters, wanted in words:
        if wanted:
            spans.append((at, at + len(letters)))
        at += len(letters)
    ends = list(accumulate(map(len, pieces)))
    return [
        i
        for i, (piece, end) in enumerate(zip(pieces, ends, strict=True))
        if any(end - len(piece) < stop and start < end for start, stop in spans if piece)
    ] or None


def glow(page: Image.Image, heat: FloatMap) -> bytes:
    """The page (PNG) with ``heat`` (rows, columns) in 0..1 laid over it, smoothly."""
    cells = Image.fromarray(np.rint(heat * 255 * _STRONGEST).astype(np.uint8))
    mask = cells.resize(page.size, Image.Resampling.BICUBIC)
    # As ink would: white paper takes the colour, black letters stay black.
    inked = ImageChops.multiply(page, Image.new("RGB", page.size, _GLOW))
    glowing = Image.composite(inked, page, mask)
    out = io.BytesIO()
    glowing.save(out, "PNG")
    return out.getvalue()


def _letters(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum()).casefold()
