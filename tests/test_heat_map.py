"""Which tokens a heat-map is about, and what it looks like."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from api.heat_map import chosen_tokens, glow
from pageglass.errors import UsageError

TOKENS = [
    "<|im_start|>",
    "Query",
    ":",
    " What",
    " did",
    " the",
    " gene",
    "rator",
    " cost",
    "?",
    "\n",
]
QUESTION = "What did the generator cost?"


def test_a_words_pieces_are_found_among_the_models_own_tokens() -> None:
    assert chosen_tokens(TOKENS, QUESTION, "generator") == [6, 7]
    assert chosen_tokens(TOKENS, QUESTION, "COST?") == [8]


def test_without_a_word_the_content_words_count() -> None:
    assert chosen_tokens(TOKENS, QUESTION) == [6, 7, 8]


def test_small_words_alone_and_rewritten_questions_mean_every_token() -> None:
    assert chosen_tokens(["what", "did", "the"], "what did the") is None
    assert chosen_tokens(["un", "known"], QUESTION) is None


def test_a_word_that_was_not_asked_is_refused() -> None:
    for word in ("violin", "gene", "?"):
        with pytest.raises(UsageError, match="does not have the word"):
            chosen_tokens(TOKENS, QUESTION, word)


def test_heat_lies_where_its_cells_lie_on_a_page_that_is_not_square() -> None:
    heat = np.zeros((3, 2), np.float32)
    heat[2, 0] = 1  # bottom left
    page = Image.new("RGB", (200, 600), "white")
    glowing = np.asarray(Image.open(io.BytesIO(glow(page, heat))), int)
    assert glowing.shape == (600, 200, 3)
    strength = 255 - glowing[:, :, 2]
    row, column = np.unravel_index(strength.argmax(), strength.shape)
    assert row > 400
    assert column < 100
    assert strength[:200].max() < 20
    assert strength[400:, 150:].max() < 60


def test_letters_under_the_glow_stay_readable() -> None:
    page = Image.new("RGB", (100, 100), "white")
    page.paste("black", (40, 40, 60, 60))
    glowing = np.asarray(Image.open(io.BytesIO(glow(page, np.ones((1, 1), np.float32)))), int)
    letter, paper = glowing[50, 50].sum(), glowing[10, 10].sum()
    assert paper - letter > 200
