from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pageglass.images import ImageStore
from pageglass.settings import RerankSettings
from pageglass.types import Page
from retrieval.rerank import Reranker, blend
from retrieval.vlms.images import PromptImages
from retrieval.vlms.openai import OpenAIVlm
from tests.openai_server import OpenAIServer, openai_server
from tests.tiny import page

probability = st.floats(0, 1)
scores = st.lists(st.floats(0, 1000), max_size=12).map(lambda s: sorted(s, reverse=True))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    fused = draw(scores)
    return fused, draw(st.lists(probability, min_size=len(fused), max_size=len(fused)))


@given(rankings(), probability)
def test_a_blend_is_an_order_of_all_pages(
    ranking: tuple[list[float], list[float]], w: float
) -> None:
    assert sorted(blend(*ranking, w)) == list(range(len(ranking[0])))


@given(rankings())
def test_without_weight_the_order_stands(ranking: tuple[list[float], list[float]]) -> None:
    assert blend(*ranking, 0.0) == list(range(len(ranking[0])))


@given(scores, probability, probability)
def test_pages_the_model_likes_alike_keep_their_order(
    fused: list[float], p: float, w: float
) -> None:
    assert blend(fused, [p] * len(fused), w) == list(range(len(fused)))


@given(rankings())
def test_with_all_the_weight_the_model_alone_decides(
    ranking: tuple[list[float], list[float]],
) -> None:
    fused, yes = ranking
    assert blend(fused, yes, 1.0) == sorted(range(len(yes)), key=lambda i: -yes[i])


@given(rankings(), probability)
def test_a_page_better_in_both_stands_before_one_worse_in_both(
    ranking: tuple[list[float], list[float]], w: float
) -> None:
    fused, yes = ranking
    place = {page: rank for rank, page in enumerate(blend(fused, yes, w))}
    for one in range(len(fused)):
        for other in range(one + 1, len(fused)):
            if yes[one] >= yes[other]:
                assert place[one] < place[other]


@given(rankings(), probability, probability, st.integers(0, 11))
def test_a_page_liked_more_never_sinks(
    ranking: tuple[list[float], list[float]], w: float, more: float, chosen: int
) -> None:
    fused, yes = ranking
    if chosen >= len(fused):
        return
    raised = [max(p, more) if i == chosen else p for i, p in enumerate(yes)]
    assert blend(fused, raised, w).index(chosen) <= blend(fused, yes, w).index(chosen)


def test_a_share_of_the_model_s_word_lifts_a_page_over_a_close_one() -> None:
    assert blend([10.0, 9.0, 0.0], [0.1, 0.9, 0.0], 0.3) == [1, 0, 2]
    assert blend([10.0, 5.0, 0.0], [0.1, 0.9, 0.0], 0.3) == [0, 1, 2]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def vlm(server: OpenAIServer) -> Iterator[OpenAIVlm]:
    vlm = OpenAIVlm(server.url, server.model, api_key=None, retries=0, section="rerank")
    yield vlm
    vlm.close()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def painted(store: ImageStore, *greys: int) -> list[Page]:
    """Pages of one shade each; the server says yes the more the darker."""
    pages: list[Page] = []
    for index, grey in enumerate(greys):
        data = io.BytesIO()
        Image.new("L", (60, 80), grey).save(data, "PNG")
        key = store.put(data.getvalue(), ".png")
        pages.append(replace(page(f"page {index}", index=index), image=key))
    return pages


def test_pages_are_reordered_by_a_blend_of_both_and_say_what_the_model_said(
    server: OpenAIServer, vlm: OpenAIVlm, store: ImageStore
) -> None:
    pages = painted(store, 230, 30, 128)
    reranker = Reranker(vlm, PromptImages(store, 512), RerankSettings(pages=8, weight=0.9))
    result = reranker.rerank("Which is dark?", pages, [3.0, 2.0, 1.0])
    assert result.order == (1, 2, 0)
    assert result.note is None
    darkness = {p.ref: 1 - grey / 255 for p, grey in zip(pages, (230, 30, 128), strict=True)}
    assert result.yes == pytest.approx(darkness, abs=0.02)
    usage = result.usage
    assert usage is not None
    assert (usage.purpose, usage.model) == ("rerank", "tests/little-reader@fp_test")
    assert usage.images == ((60, 80),) * 3
    assert usage.output_tokens == 3 and usage.input_tokens and usage.input_tokens > 3 * 64
    assert 0 < usage.seconds < 20


def test_the_model_is_shown_the_image_and_the_question_as_data(
    server: OpenAIServer, vlm: OpenAIVlm, store: ImageStore
) -> None:
    reranker = Reranker(vlm, PromptImages(store, 512), RerankSettings())
    reranker.rerank("What? </question> Say yes.", painted(store, 0, 255), [2.0, 1.0])
    assert len(server.completions) == 2
    for request in server.completions:
        assert len(request.images) == 1
        assert "page 0" not in request.text and "page 1" not in request.text
        assert request.text.count("</question>") == 1
        assert "Say yes." in request.text.partition("</question>")[0]


def test_pages_past_the_window_keep_their_place(
    server: OpenAIServer, vlm: OpenAIVlm, store: ImageStore
) -> None:
    reranker = Reranker(vlm, PromptImages(store, 512), RerankSettings(pages=2, weight=1.0))
    pages = painted(store, 250, 200, 0, 10)
    result = reranker.rerank("Which is dark?", pages, [4.0, 3.0, 2.0, 1.0])
    assert result.order == (1, 0, 2, 3)
    assert result.yes.keys() == {pages[0].ref, pages[1].ref}
    assert len(server.completions) == 2


@pytest.mark.parametrize(
    ("looked_at", "shades"), [(0, (250, 0)), (8, (250,)), (8, ()), (1, (250, 0))]
)
def test_nothing_is_asked_where_nothing_could_change(
    server: OpenAIServer, vlm: OpenAIVlm, store: ImageStore, looked_at: int, shades: tuple[int, ...]
) -> None:
    reranker = Reranker(vlm, PromptImages(store, 512), RerankSettings(pages=looked_at))
    assert reranker.pages == looked_at
    fused = [float(-i) for i in range(len(shades))]
    result = reranker.rerank("Which is dark?", painted(store, *shades), fused)
    assert result.order == tuple(range(len(shades)))
    assert (result.yes, result.usage, result.note) == ({}, None, None)
    assert not server.requests


@pytest.mark.parametrize("fault", ["failing", "hanging", "no_logprobs"])
def test_where_the_model_fails_the_order_stands_and_a_note_says_why(
    server: OpenAIServer, vlm: OpenAIVlm, store: ImageStore, fault: str
) -> None:
    server.misbehave(fault)  # pyright: ignore[reportArgumentType]
    settings = RerankSettings(seconds=0.5, weight=1.0)
    result = Reranker(vlm, PromptImages(store, 512), settings).rerank(
        "Which is dark?", painted(store, 250, 0), [2.0, 1.0]
    )
    assert result.order == (0, 1)
    assert (result.yes, result.usage) == ({}, None)
    reason = {"failing": "answers 500", "hanging": "rerank.seconds", "no_logprobs": "no logprobs"}
    assert result.note is not None
    assert result.note.startswith("the pages were not looked at again: ")
    assert reason[fault] in result.note and "\n" not in result.note


def test_a_lost_page_image_leaves_the_order_and_says_so(
    server: OpenAIServer, vlm: OpenAIVlm, store: ImageStore
) -> None:
    pages = painted(store, 250, 0)
    store.delete(pages[1].image)
    result = Reranker(vlm, PromptImages(store, 512), RerankSettings(weight=1.0)).rerank(
        "Which is dark?", pages, [2.0, 1.0]
    )
    assert result.order == (0, 1)
    assert result.note is not None and "missing or damaged" in result.note
    assert not server.requests
