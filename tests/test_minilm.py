import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pageglass.errors import ModelError
from retrieval.encoders.minilm import (
    BUNDLED,
    MAX_PAGE_PIECES,
    MAX_PIECES,
    MiniLM,
    Passage,
    _cut,
    _windows,
)

REFERENCE = Path(__file__).parent / "data" / "minilm_reference.npz"
LONG = " ".join(f"Paragraph {i} tells of the harbour's unremarkable weather." for i in range(80))


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM(threads=1)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as stored:
        return dict(stored)


def texts_of(reference: dict[str, np.ndarray]) -> list[str]:
    return json.loads(reference["texts"].tobytes())


def test_chunk_vectors_are_the_original_models(
    minilm: MiniLM, reference: dict[str, np.ndarray]
) -> None:
    texts = texts_of(reference)
    assert len(texts) == 200
    # As questions: cut after 256 pieces, as the original cuts them.
    cosines = [
        float(minilm.encode_question(text).chunks[0] @ pooled)
        for text, pooled in zip(texts, reference["pooled"], strict=True)
    ]
    assert min(cosines) >= 0.9999


def test_token_vectors_are_the_original_models(
    minilm: MiniLM, reference: dict[str, np.ndarray]
) -> None:
    texts, start = texts_of(reference), 0
    for i, count in zip(reference["tokens_of"], reference["tokens_count"], strict=True):
        expected = reference["tokens"][start : start + count].astype(np.float32)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        passage = minilm.encode_question(texts[i])
        assert passage.pieces[:count].tolist() == (
            reference["pieces"][start : start + count].tolist()
        )
        assert np.sum(passage.tokens[:count] * expected, axis=1).min() >= 0.9999
        start += count


def test_rows_follow_the_text(minilm: MiniLM) -> None:
    text = "Überraschung: glacier-fed rivers, unbelievably cold!"
    passage = minilm.encode_passages([text])[0]
    rows = [text[start:end] for start, end in passage.offsets]
    assert "".join(rows) == text.replace(" ", "")
    words: dict[int, str] = {}
    for word, row in zip(passage.words.tolist(), rows, strict=True):
        words[word] = words.get(word, "") + row
    assert list(words.values()) == [
        *("Überraschung", ":", "glacier", "-", "fed", "rivers", ",", "unbelievably", "cold", "!")
    ]


def test_every_piece_of_a_long_text_has_exactly_one_row(minilm: MiniLM) -> None:
    chunks = minilm.chunks(LONG)
    passage = minilm.encode_passages([LONG])[0]
    whole = minilm._load_tokenizer().encode(LONG, add_special_tokens=False)
    assert len(chunks) == len(passage.chunks) == len(passage.spans) > 2
    assert max(len(chunk.pieces) for chunk in chunks) <= MAX_PIECES - 2
    assert passage.pieces.tolist() == whole.ids
    assert [tuple(pair) for pair in passage.offsets.tolist()] == whole.offsets
    assert passage.tokens.shape == (len(whole.ids), 384)


def test_neighbouring_windows_overlap_and_cut_no_word(minilm: MiniLM) -> None:
    chunks = minilm.chunks(LONG)
    for before, after in pairwise(chunks):
        assert after.span[0] < before.span[1]
        assert not LONG[before.span[1] - 1 : before.span[1] + 1].isalnum()
        assert not LONG[after.span[0] - 1 : after.span[0] + 1].isalnum()


@given(st.lists(st.integers(1, 100), max_size=60))
@settings(max_examples=200, deadline=None)
def test_windows_own_every_piece_once_whatever_the_words(sizes: list[int]) -> None:
    words = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    starts = {0, *np.cumsum(sizes).tolist()}
    windows = _windows(words)
    cuts = [_cut(words, b[0], a[1]) for a, b in pairwise(windows)]
    bounds = [0, *cuts, len(words)]
    assert bounds == sorted(bounds)
    for (start, end), low, high in zip(windows, bounds, bounds[1:], strict=False):
        assert start <= low <= high <= end <= start + MAX_PIECES - 2
        assert {start, end, low, high} <= starts


def test_a_text_encodes_the_same_alone_or_in_a_batch(
    minilm: MiniLM, reference: dict[str, np.ndarray]
) -> None:
    texts = [*texts_of(reference)[::6], LONG, "", "two words", "other words", "Two Words"]
    for text, together in zip(texts, minilm.encode_passages(texts), strict=True):
        alone = minilm.encode_passages([text])[0]
        assert np.array_equal(alone.pieces, together.pieces)
        np.testing.assert_allclose(alone.chunks, together.chunks, atol=1e-5)
        np.testing.assert_allclose(alone.tokens, together.tokens, atol=1e-5)


def test_a_context_colours_every_vector_and_has_no_row(minilm: MiniLM) -> None:
    context = "Annual report of the Skerrin ferry line"
    (plain,) = minilm.encode_passages([LONG])
    (coloured,) = minilm.encode_passages([LONG], [context])
    assert (coloured.pieces == plain.pieces).all()
    assert len(coloured.chunks) >= len(plain.chunks)
    about = minilm.encode_question("Skerrin ferry line").chunks[0]
    assert (coloured.chunks @ about).min() > (plain.chunks @ about).max()
    long = minilm.encode_passages([LONG], [context * 50])[0]
    assert (long.pieces == plain.pieces).all()


def test_rows_have_length_one(minilm: MiniLM) -> None:
    passage = minilm.encode_passages([LONG])[0]
    for rows in (passage.chunks, passage.tokens):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_text_has_no_rows(minilm: MiniLM, text: str) -> None:
    def shapes(passage: Passage) -> tuple[tuple[int, ...], ...]:
        return passage.chunks.shape, passage.tokens.shape, passage.offsets.shape

    assert minilm.chunks(text) == []
    assert shapes(minilm.encode_passages([text])[0]) == ((0, 384), (0, 384), (0, 2))
    assert shapes(minilm.encode_question(text)) == ((0, 384), (0, 384), (0, 2))
    assert minilm.encode_passages([]) == []


def test_long_questions_and_huge_pages_are_cut(minilm: MiniLM) -> None:
    assert len(minilm.encode_question(LONG).tokens) == MAX_PIECES - 2
    chunks = minilm.chunks("tide " * 10 * MAX_PAGE_PIECES)
    assert sum(chunk.own_end - chunk.own_start for chunk in chunks) == MAX_PAGE_PIECES


def test_a_question_meets_its_passage(minilm: MiniLM) -> None:
    passages = minilm.encode_passages(
        ["The lease runs until May 2031.", "Cranes rest on the flooded meadow.", "Stir the rice."]
    )
    question = minilm.encode_question("Which birds stay in the wet field?")
    scores = [float(question.chunks[0] @ passage.chunks[0]) for passage in passages]
    assert int(np.argmax(scores)) == 1


def test_a_missing_model_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^model file tokenizer\.json cannot be read"):
        MiniLM(model_dir=tmp_path).encode_question("anyone?")


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "SHA256SUMS"):
        shutil.copy(BUNDLED / name, tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"half a model")
    with pytest.raises(ModelError, match="checksum") as raised:
        MiniLM(model_dir=tmp_path).encode_question("anyone?")
    assert "\n" not in str(raised.value)
