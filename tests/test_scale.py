"""evals.scale: made-up pages that are shaped like real ones, and the table it prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from api.services import Services
from evals.scale import MadeUpDocuments, RandomVectors, main
from ingest.pdf import PdfReader, RawPage
from pageglass.settings import IngestSettings, load_settings
from retrieval.encoders import Encoder, FloatArray, PageInput, SparseVector
from retrieval.encoders.minilm import MiniLM
from retrieval.encoders.minilm_encoder import MiniLMEncoder
from retrieval.index.quantization import from_bytes, to_bytes
from tests.tiny import page

TREES = "lime trees shade the canal path in summer and keep its water cool for the fish " * 30


def arrays(encoder: Encoder, *pages: PageInput) -> dict[str, FloatArray]:
    """The vectors of the last of these pages, encoded together."""
    vectors = encoder.encode_pages(pages)[-1]
    return {name: v for name, v in vectors.items() if not isinstance(v, SparseVector)}


@pytest.mark.parametrize("words", [20, 60, 300, 450])
def test_random_vectors_have_the_shapes_that_minilm_gives_an_english_page(
    minilm: MiniLM, words: int
) -> None:
    real = MiniLMEncoder(minilm)
    made_up = RandomVectors(real)
    assert (made_up.vectors, made_up.model) == (real.vectors, real.model)
    of = PageInput(page(" ".join(TREES.split()[:words])), "Canals")
    ours, theirs = arrays(made_up, of), arrays(real, of)
    assert ours.keys() == theirs.keys()
    assert ours["dense"].shape == theirs["dense"].shape
    # Small words have no row of their own; made-up pages have none of them.
    content, size = theirs["tokens"].shape
    assert ours["tokens"].shape == (words, size)
    assert words / 2 < content < words


def test_a_page_always_has_the_same_vectors_and_another_page_others(minilm: MiniLM) -> None:
    made_up = RandomVectors(MiniLMEncoder(minilm))
    one, two = (PageInput(page(text), "Canals") for text in ("lime trees", "poplar trees"))
    alone, again, other = arrays(made_up, one), arrays(made_up, two, one), arrays(made_up, two)
    for name in made_up.vectors:
        assert np.array_equal(alone[name], again[name])
        assert not np.allclose(alone[name], other[name], atol=0.01)


def test_random_tokens_survive_being_stored_as_bytes(minilm: MiniLM) -> None:
    made_up = RandomVectors(MiniLMEncoder(minilm))
    tokens = arrays(made_up, PageInput(page(TREES), "Canals"))["tokens"]
    stored = from_bytes(to_bytes(tokens, 300.0), 300.0)
    assert np.allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-5)
    assert np.allclose(tokens.sum(axis=1), 0, atol=1e-4)
    assert np.allclose(stored @ stored.T, tokens @ tokens.T, atol=0.01)


@pytest.mark.parametrize("words", [20, 500])
def test_made_up_documents_are_the_same_every_time_and_hold_every_word(
    tmp_path: Path, words: int
) -> None:
    drawn: list[list[list[str]]] = []
    with PdfReader(IngestSettings()) as reader:
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            documents = MadeUpDocuments(folder, words=words)
            two, one = documents.draw(2), documents.draw(1)
            raw = [*reader.pages(two, range(2)), *reader.pages(one, range(1))]
            texts = [[w.text for w in of.words] for of in raw if isinstance(of, RawPage)]
            drawn.append(texts)
    assert drawn[0] == drawn[1]
    assert [len(texts) for texts in drawn[0]] == [words] * 3
    assert len({tuple(texts) for texts in drawn[0]}) == 3


def scale(*arguments: str) -> tuple[int, str]:
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout


def test_it_grows_a_folder_and_prints_a_column_a_size(tmp_path: Path) -> None:
    arguments = ("--pages", "220", "--checkpoints", "120", "--folder", str(tmp_path))
    status, printed = scale(*arguments)
    assert status == 0
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in printed.splitlines()
        if line.startswith("|")
    ]
    figures = {heading: cells for heading, *cells in rows}
    assert figures["pages"] == ["120", "220"]
    assert figures["documents"] == ["2", "3"]
    measured = {k: [float(c.replace(",", "")) for c in v] for k, v in figures.items() if k != "---"}
    for heading in ("catalog, MB", "page images, MB", "index, MB"):
        before, after = measured[heading]
        assert 0 < before < after
    for heading, cells in measured.items():
        if "pages/s" in heading or "ms" in heading.split(", ")[-1] or "memory" in heading:
            assert all(cell > 0 for cell in cells), heading

    # What it leaves is a data folder like any other, with the pages in it.
    by_words = {"weights": {"dense": 0, "tokens": 0}}
    settings = load_settings({"data_dir": tmp_path / "data", "search": by_words})
    with Services(settings, command="test") as services:
        assert services.status().pages == 220
        asked = services.documents()[-1]
        text = services.page(asked.id, 1).text
        hit = services.search(text[:200]).hits[0]
        assert (hit.ref.document_id, hit.ref.number) == (asked.id, 1)

    # A second run does not add to it.
    status, _ = scale(*arguments)
    assert status == 1
