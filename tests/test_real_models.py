"""The whole way with the real models' code: PDF -> three collections -> fusion -> rerank -> answer.

The checkpoints are tiny and random, so that relevance is never asserted of them; the answering
server reads what it is sent.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pymupdf
import pytest
from PIL import Image, ImageDraw

from api.models import copy_to_server
from api.remote import RemoteServices
from api.services import Services
from pageglass.errors import (
    ImageError,
    IndexMismatch,
    ModelError,
    NotInProfile,
    QuestionError,
    UsageError,
)
from pageglass.profiles import PROFILES
from pageglass.settings import Settings, load_settings
from pageglass.types import PageRef, Scope
from retrieval.encoders import ImageEncoder
from retrieval.profiles import chosen_models
from retrieval.similarity import maxsim
from tests import tiny_text, tiny_visual, tiny_vlm
from tests.openai_server import OpenAIServer, openai_server
from tests.qdrant_http import serve as qdrant_http
from tests.serving import serving
from tests.tiny import pdf

PUMP = "The feed pump of line two failed on 4 March because its bearing ran dry."
TREE = "The city planted 312 lime trees along the canal in the autumn of 2022."
BREAD = "Rye bread needs a sour dough that has rested for sixteen hours."
QUESTION = "Why did the feed pump of line two fail on 4 March?"
RETRIEVERS = {"patches", "clip", "sparse", "dense", "tokens"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny checkpoint for each of a profile's collections."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "visual": str(tiny_visual.visual_checkpoint("ColQwen2_5", root / "colqwen")),
        "image": str(tiny_text.clip(root / "clip")),
        "text": str(tiny_text.bge_m3(root / "bge", positions=600)),
    }


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture(autouse=True)
def behaving(server: OpenAIServer) -> Iterator[None]:
    yield
    server.behave()
    server.transcription = "NONE"


def gpu(data_dir: Path, checkpoints: dict[str, str], server: OpenAIServer, **more: Any) -> Settings:
    """The profile gpu with tiny models, answering and reranking on ``server``."""
    models = {**checkpoints, "answer": server.model, "device": "cpu", **more.pop("models", {})}
    answer = {"url": server.url, "retries": 1, "seconds": 30, **more.pop("answer", {})}
    return load_settings(
        {"data_dir": data_dir, "profile": "gpu", "models": models, "answer": answer, **more}
    )


def landscape(path: Path) -> Path:
    """Three pages; the second lies on its side."""
    document = pymupdf.open()
    for text, (width, height) in ((BREAD, (595, 842)), (PUMP, (842, 420)), (TREE, (595, 842))):
        sheet = document.new_page(width=width, height=height)
        sheet.insert_textbox(pymupdf.Rect(40, 40, width - 40, height - 40), text, fontsize=16)
    document.save(path)
    return path


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, str], server: OpenAIServer
) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("real")
    settings = gpu(folder / "data", checkpoints, server)
    with Services(settings, command="test") as services:
        (report,) = services.ingest([landscape(folder / "log.pdf")])
        assert report.outcome == "indexed", report.reason
        yield services


def test_every_page_is_in_three_collections(services: Services) -> None:
    indexes = services.searcher.indexes
    assert [name.partition("--")[0] for name in indexes] == ["visual", "image", "text"]
    assert [index.count() for index in indexes.values()] == [3, 3, 3]
    (document,) = services.documents()
    stored = {name for index in indexes.values() for name in index.vectors(PageRef(document.id, 1))}
    assert stored == RETRIEVERS | {"pooled"}


def test_every_retriever_has_a_say_and_the_fusion_is_reranked(services: Services) -> None:
    found = services.search(QUESTION)
    for hit in found.hits:
        assert {rank.retriever for rank in hit.why.retrievers} <= RETRIEVERS
        assert hit.why.yes is not None
    assert {r.retriever for hit in found.hits for r in hit.why.retrievers} == RETRIEVERS
    (usage,) = found.usage
    assert (usage.purpose, len(usage.images)) == ("rerank", 3)
    assert {"encode", "retrieve", "fuse", "rerank"} <= found.timings_ms.keys()
    assert found.notes == ()


def test_late_interaction_through_two_stages_is_exact(services: Services) -> None:
    searcher = services.searcher
    (document,) = services.documents()
    ranking = searcher.rankings(searcher.encode(QUESTION), Scope())["patches"]
    index = next(i for name, i in searcher.indexes.items() if name.startswith("visual"))
    asked = np.asarray(searcher.encode(QUESTION).words[0]["patches"])
    expected: dict[PageRef, float] = {}
    for number in range(3):
        ref = PageRef(document.id, number)
        expected[ref] = maxsim(asked, np.asarray(index.vectors(ref)["patches"]))
    assert [ref for ref, _ in ranking] == sorted(expected, key=lambda ref: -expected[ref])
    assert dict(ranking) == pytest.approx(expected, rel=1e-3)


def test_sixteen_ask_at_once_while_a_document_is_indexed_and_one_removed(
    tmp_path: Path, checkpoints: dict[str, str], server: OpenAIServer
) -> None:
    with Services(gpu(tmp_path / "data", checkpoints, server), command="test") as services:
        list(services.ingest([landscape(tmp_path / "log.pdf")]))
        (log,) = services.documents()
        doomed = pdf(tmp_path / "doomed.pdf", [f"{PUMP} Again. {n}" for n in range(6)])
        list(services.ingest([doomed]))
        doomed_id = services.documents()[-1].id
        services.start_worker()
        with (tmp_path / "log.pdf").open("rb") as file:
            services.add(file, name="copy.pdf", collection="other")
        with ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(services.ask, QUESTION) for _ in range(32)]
            services.remove(doomed_id)
            said = [answer.result() for answer in answers]
        # What was found and is removed before it is shown cannot answer; nobody gets an error.
        statuses = {answer.status for answer in said}
        assert "answered" in statuses
        assert statuses <= {"answered", "not_found"}
        after = services.ask(QUESTION, documents=[log.id])
        assert after.citations[0].ref == PageRef(log.id, 1)
        assert doomed_id not in {h.ref.document_id for h in services.search(QUESTION).hits}


def test_the_answer_cites_the_page_and_says_what_it_cost(services: Services) -> None:
    answer = services.ask(QUESTION)
    assert answer.status == "answered"
    assert not answer.extractive
    assert "bearing ran dry" in answer.text
    (citation,) = answer.citations
    assert citation.verified
    assert citation.ref.number == 2
    assert [usage.purpose for usage in answer.usage] == ["rerank", "answer"]
    assert all(usage.input_tokens and usage.images for usage in answer.usage)


def test_over_http_and_from_afar_it_is_the_same(services: Services, tmp_path: Path) -> None:
    here = services.ask(QUESTION)
    with serving(services) as address, RemoteServices(address) as remote:
        there = remote.ask(QUESTION)
        assert (there.text, there.citations) == (here.text, here.citations)
        assert [hit.why.yes for hit in there.hits] == [hit.why.yes for hit in here.hits]
        assert [usage.purpose for usage in there.usage] == ["rerank", "answer"]
        ref = here.citations[0].ref
        assert remote.heat_map(ref.document_id, 2, QUESTION) == services.heat_map(
            ref.document_id, 2, QUESTION
        )
        with pytest.raises(UsageError, match="does not have the word"):
            remote.heat_map(ref.document_id, 2, QUESTION, word="violin")


def test_a_reranker_that_fails_leaves_the_fused_order_and_says_so(
    services: Services, server: OpenAIServer
) -> None:
    expected = [hit.why.fused_rank for hit in services.search(QUESTION).hits]
    server.misbehave("no_logprobs")
    found = services.search(QUESTION)
    assert [hit.why.fused_rank for hit in found.hits] == sorted(expected)
    assert all(hit.why.yes is None for hit in found.hits)
    assert "logprobs" in found.notes[0]
    assert found.usage == ()


def test_a_server_that_fails_leaves_quotes_of_the_pages(
    services: Services, server: OpenAIServer
) -> None:
    server.misbehave("failing")
    answer = services.ask(QUESTION)
    assert answer.status == "answered"
    assert answer.extractive
    assert "bearing ran dry" in answer.text
    assert len(answer.notes) == 2  # not reranked, and not written by the model
    assert all("\n" not in note for note in answer.notes)


@pytest.mark.parametrize("family", tiny_visual.FAMILIES)
def test_pages_of_any_shape_are_indexed_shown_and_found(
    tmp_path: Path, checkpoints: dict[str, str], server: OpenAIServer, family: str
) -> None:
    document = pymupdf.open()
    for width, height in ((4000, 6), (6, 4000), (3, 3), (595, 842)):
        document.new_page(width=width, height=height).draw_rect((0, 0, 3, 3), fill=(0, 0, 0))
    document[3].insert_text((72, 72), PUMP)
    document.save(tmp_path / "odd.pdf")
    models = {"visual": str(tiny_visual.visual_checkpoint(family, tmp_path / "visual"))}
    with Services(gpu(tmp_path / "d", checkpoints, server, models=models), command="t") as services:
        (report,) = services.ingest([tmp_path / "odd.pdf"])
        assert report.outcome == "indexed", report.reason
        found = services.search(QUESTION)
        assert {hit.ref.number for hit in found.hits} == {1, 2, 3, 4}
        assert all(hit.why.yes is not None for hit in found.hits)
        assert services.ask(QUESTION).citations[0].ref.number == 4
        for number in range(1, 5):
            assert services.heat_map(services.documents()[0].id, number, QUESTION)[:4] == b"\x89PNG"


# Heat-maps


def test_a_heat_map_glows_where_the_page_answers(services: Services) -> None:
    (document,) = services.documents()
    page = services.page(document.id, 2)
    plain = Image.open(io.BytesIO(services.page_image(page))).convert("RGB")
    heat = services.heat_map(document.id, 2, QUESTION)
    assert heat[:4] == b"\x89PNG"
    glowing = Image.open(io.BytesIO(heat))
    assert glowing.size == plain.size
    assert plain.width > plain.height
    change = np.abs(np.asarray(glowing, int) - np.asarray(plain, int)).sum(axis=2)
    # Cells differ in strength: something stands out and something does not.
    assert change.max() > 100
    assert np.percentile(change, 2) < 30
    other = services.heat_map(document.id, 2, QUESTION, word="pump")
    assert other != heat


# Pictures


def picture_of(services: Services, number: int) -> bytes:
    (document,) = services.documents()
    return services.page_image(services.page(document.id, number))


def screenshot(text: str) -> bytes:
    image = Image.new("RGB", (900, 120), "white")
    ImageDraw.Draw(image).text((20, 35), text, fill="black", font_size=34)
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_picture_of_a_page_finds_the_page(services: Services, number: int) -> None:
    searcher = services.searcher
    with Image.open(io.BytesIO(picture_of(services, number))) as image:
        rankings = searcher.rankings(searcher.encode("", image.convert("RGB")), Scope())
    assert set(rankings) == {"patches:picture", "clip:picture"}
    assert rankings["clip:picture"][0][0].number == number
    assert rankings["clip:picture"][0][1] == pytest.approx(1, abs=1e-3)
    found = services.search("", image=picture_of(services, number))
    assert {r.retriever for hit in found.hits for r in hit.why.retrievers} == set(rankings)


def test_a_screenshot_is_transcribed_before_it_is_answered(
    services: Services, server: OpenAIServer
) -> None:
    server.transcription = QUESTION
    answer = services.ask("", image=screenshot("whatever the server says it reads"))
    assert answer.transcription == QUESTION
    assert "bearing ran dry" in answer.text
    assert [usage.purpose for usage in answer.usage] == ["transcribe", "rerank", "answer"]
    asked = server.completions[-1]
    assert asked.images[-1].size == (900, 120)
    names = {rank.retriever for hit in answer.hits for rank in hit.why.retrievers}
    assert {"clip", "clip:picture", "sparse"} <= names


def test_a_picture_that_says_more_than_may_be_asked_is_cut_and_the_answer_says_so(
    services: Services, server: OpenAIServer
) -> None:
    server.transcription = "word " * 1000
    question = QUESTION + " please" * 560
    assert 3900 < len(question) < 4000
    answer = services.ask(question, image=screenshot("x"))
    assert "text was cut" in " ".join(answer.notes)
    server.transcription = "word"
    assert services.ask(QUESTION, image=screenshot("x")).notes == ()


def test_what_was_paid_is_logged_even_where_no_answer_comes_of_it(
    tmp_path: Path, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings({"data_dir": tmp_path / "data", "answer": {"url": server.url}})
    caplog.set_level(logging.INFO, logger="api.facts")
    with (
        Services(settings, command="test") as services,
        pytest.raises(QuestionError, match="no text"),
    ):
        services.ask("", image=screenshot("x"))
    assert [r.message.partition(" by ")[0] for r in caplog.records] == ["transcribe"]


def bad_picture(kind: str) -> bytes:
    whole = screenshot("cut off")
    large, strip = io.BytesIO(), io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(large, "PNG")
    Image.new("1", (20_000, 40)).save(strip, "PNG")
    return {
        "truncated": whole[: len(whole) // 2],
        "no image": b"%PDF-1.7 this is no picture",
        "empty": b"",
        "bomb": large.getvalue(),
        "strip": strip.getvalue(),
    }[kind]


@pytest.mark.parametrize("kind", ["truncated", "no image", "empty", "bomb", "strip"])
def test_what_is_no_picture_is_one_clear_line(services: Services, kind: str) -> None:
    with pytest.raises(ImageError) as caught:
        services.ask(QUESTION, image=bad_picture(kind))
    assert "\n" not in str(caught.value)
    with serving(services) as address:
        body = {"question": "x", "image": base64.b64encode(bad_picture(kind)).decode()}
        response = httpx.post(f"{address}/search", json=body, timeout=60)
        assert (response.status_code, response.json()["code"]) == (422, "image-invalid")
        broken = httpx.post(f"{address}/search", json={"question": "x", "image": "§§"}, timeout=60)
        assert (broken.status_code, broken.json()["code"]) == (422, "request-invalid")


def test_a_picture_may_come_as_a_data_url_and_in_broken_lines(services: Services) -> None:
    whole = screenshot("x")
    bare = base64.b64encode(whole).decode()
    with serving(services) as address:
        for sent in (bare, f"data:image/png;base64,{bare}", base64.encodebytes(whole).decode()):
            body = {"question": QUESTION, "image": sent}
            assert httpx.post(f"{address}/search", json=body, timeout=60).status_code == 200
        described = httpx.get(f"{address}/openapi.json").json()["components"]["schemas"]
    for request in ("AskRequest", "SearchRequest"):
        picture, _ = described[request]["properties"]["image"]["anyOf"]
        assert picture == {"type": "string", "contentEncoding": "base64"}


def test_a_picture_20000_pixels_wide_is_scaled_down(
    services: Services, server: OpenAIServer
) -> None:
    data = io.BytesIO()
    Image.new("RGB", (20_000, 1_500), "white").save(data, "PNG")
    services.search(QUESTION, image=data.getvalue())
    transcribed = next(r for r in reversed(server.completions) if "word for word" in r.text)
    assert max(transcribed.images[0].size) < 4_000


def test_lite_reads_a_screenshot_by_ocr(tmp_path: Path) -> None:
    settings = load_settings({"data_dir": tmp_path / "data"})
    with Services(settings, command="test") as services:
        list(services.ingest([pdf(tmp_path / "log.pdf", [BREAD, PUMP, TREE])]))
        answer = services.ask("", image=screenshot("Why did the feed pump fail?"))
        assert "feed pump" in (answer.transcription or "")
        assert answer.citations[0].ref.number == 2
        blank = io.BytesIO()
        Image.new("RGB", (200, 200), "white").save(blank, "PNG")
        with pytest.raises(QuestionError, match="no text"):
            services.ask("", image=blank.getvalue())
        with pytest.raises(QuestionError, match="empty"):
            services.ask(" ")
        with pytest.raises(NotInProfile, match="lite"):
            services.heat_map(services.documents()[0].id, 1, "pump")


# Models in this process, and other models than before


def test_local_models_rerank_and_a_useless_answer_becomes_quotes(
    tmp_path: Path, checkpoints: dict[str, str]
) -> None:
    settings = load_settings(
        {
            "data_dir": tmp_path / "data",
            "models": {"answer": str(tiny_vlm.qwen2_5_vl(tmp_path / "vlm")), "device": "cpu"},
            "answer": {"tokens": 16, "image_pixels": 64},
        }
    )
    with Services(settings, command="test") as services:
        list(services.ingest([pdf(tmp_path / "log.pdf", [BREAD, PUMP, TREE])]))
        answer = services.ask(QUESTION)
    # Random weights write no JSON: both tries are made, paid for, and the pages are quoted.
    assert [usage.purpose for usage in answer.usage] == ["answer", "answer"]
    assert answer.extractive
    assert "bearing ran dry" in answer.text
    assert "quoted instead" in answer.notes[0]


def test_the_profile_cpu_runs_everything_in_this_process(
    tmp_path: Path, checkpoints: dict[str, str]
) -> None:
    settings = load_settings(
        {
            "data_dir": tmp_path / "data",
            "profile": "cpu",
            "models": {
                **checkpoints,
                "visual": str(tiny_visual.visual_checkpoint("ColIdefics3", tmp_path / "colsmol")),
                "answer": str(tiny_vlm.smolvlm(tmp_path / "smolvlm")),
                "device": "cpu",
            },
            "rerank": {"pages": 3},
            "answer": {"tokens": 16},
        }
    )
    models = chosen_models(settings)
    assert models.rerank == models.answer
    with Services(settings, command="test") as services:
        list(services.ingest([landscape(tmp_path / "log.pdf")]))
        found = services.search(QUESTION)
    assert {r.retriever for hit in found.hits for r in hit.why.retrievers} == RETRIEVERS
    assert all(hit.why.yes is not None and 0 < hit.why.yes < 1 for hit in found.hits)


def test_another_profile_fills_new_collections_and_reads_no_page_again(
    tmp_path: Path, checkpoints: dict[str, str], server: OpenAIServer
) -> None:
    lite = load_settings({"data_dir": tmp_path / "data"})
    with Services(lite, command="test") as services:
        list(services.ingest([landscape(tmp_path / "log.pdf")]))
        (document,) = services.documents()
        before = services.page(document.id, 2)
        answered = services.ask(QUESTION).text
    with Services(gpu(tmp_path / "data", checkpoints, server), command="test") as services:
        assert services.job(document.id).state == "queued"
    with Services(lite, command="test") as services:
        # Nothing was done meanwhile, and here nothing is to be done.
        assert services.document(document.id).state == "indexed"
        assert services.search(QUESTION).notes == ()
    with Services(gpu(tmp_path / "data", checkpoints, server), command="test") as services:
        assert services.job(document.id).state == "queued"
        assert "not indexed in full yet" in " ".join(services.search(QUESTION).notes)
        (report,) = services.ingest([])
        assert (report.outcome, report.path) == ("indexed", "log.pdf")
        assert [index.count() for index in services.searcher.indexes.values()] == [3, 3, 3]
        assert services.page(document.id, 2) == before
        assert "bearing" in services.ask(QUESTION).text
    with Services(lite, command="test") as services:
        assert services.document(document.id).state == "indexed"
        assert services.ask(QUESTION).text == answered


def test_what_was_removed_under_another_profile_is_removed_under_this_one_too(
    tmp_path: Path, checkpoints: dict[str, str]
) -> None:
    lite = load_settings({"data_dir": tmp_path / "data"})
    more = load_settings(
        {"data_dir": tmp_path / "data", "models": {"image": checkpoints["image"], "device": "cpu"}}
    )
    log, other = landscape(tmp_path / "log.pdf"), pdf(tmp_path / "other.pdf", [BREAD, TREE, PUMP])
    with Services(more, command="test") as services:
        list(services.ingest([log]))
        (document,) = services.documents()
    with Services(lite, command="test") as services:
        services.remove(document.id)
        assert services.documents() == []
        assert not any((tmp_path / "data" / "originals").iterdir())
        list(services.ingest([other]))
    with Services(more, command="test") as services:
        # As many pages as before, and yet none of them has its vectors.
        assert [index.count() for index in services.searcher.indexes.values()] == [0, 3]
        list(services.ingest([]))
        assert [index.count() for index in services.searcher.indexes.values()] == [3, 3]
        assert services.catalog.removing() == []


def test_what_was_removed_and_comes_back_is_indexed_again(
    tmp_path: Path, checkpoints: dict[str, str]
) -> None:
    lite = load_settings({"data_dir": tmp_path / "data"})
    more = load_settings(
        {"data_dir": tmp_path / "data", "models": {"image": checkpoints["image"], "device": "cpu"}}
    )
    log = landscape(tmp_path / "log.pdf")
    with Services(more, command="test") as services:
        list(services.ingest([log]))
        (document,) = services.documents()
        before = services.search(QUESTION).hits
    with Services(lite, command="test") as services:
        services.remove(document.id)
        (report,) = services.ingest([log])
        assert (report.outcome, report.document) == ("indexed", services.document(document.id))
    with Services(more, command="test") as services:
        assert services.document(document.id).state == "indexed"
        assert services.search(QUESTION).hits == before
        services.remove(document.id)
        assert [index.count() for index in services.searcher.indexes.values()] == [0, 0]
        assert services.catalog.removing() == []


def test_an_index_made_otherwise_is_refused_and_left_as_it_was(
    tmp_path: Path, checkpoints: dict[str, str], server: OpenAIServer
) -> None:
    with Services(gpu(tmp_path / "data", checkpoints, server), command="test") as services:
        list(services.ingest([landscape(tmp_path / "log.pdf")]))
        before = services.search(QUESTION).hits
    pooled = gpu(tmp_path / "data", checkpoints, server, index={"token_pooling": 3})
    with pytest.raises(IndexMismatch):
        Services(pooled, command="test")
    with Services(gpu(tmp_path / "data", checkpoints, server), command="test") as services:
        assert services.search(QUESTION).hits == before


def test_token_pooling_and_compression_still_find_every_page(
    tmp_path: Path, checkpoints: dict[str, str], server: OpenAIServer
) -> None:
    index = {"token_pooling": 2, "quantization": "binary"}
    with Services(
        gpu(tmp_path / "data", checkpoints, server, index=index), command="t"
    ) as services:
        list(services.ingest([landscape(tmp_path / "log.pdf")]))
        rankings = services.searcher.rankings(services.searcher.encode(QUESTION), Scope())
        assert len(rankings["patches"]) == 3
        with pytest.raises(UsageError, match="token_pooling"):
            services.heat_map(services.documents()[0].id, 1, QUESTION)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ({"visual": "text"}, "no page-image model"),
        ({"text": "visual"}, "."),
        ({"image": "text"}, "."),
        ({"visual": "./nowhere"}, "no model './nowhere'"),
    ],
)
def test_a_checkpoint_in_the_wrong_place_is_one_clear_line(
    tmp_path: Path,
    checkpoints: dict[str, str],
    server: OpenAIServer,
    models: dict[str, str],
    said: str,
) -> None:
    misplaced = {name: checkpoints.get(wrong, wrong) for name, wrong in models.items()}
    settings = gpu(tmp_path / "data", checkpoints, server, models=misplaced)
    with pytest.raises(ModelError) as caught:
        Services(settings, command="test")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_on_this_machine_is_said_with_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    settings = load_settings(
        {"data_dir": tmp_path / "data", "profile": "cpu", "models": {"offline": True}}
    )
    with pytest.raises(ModelError, match="models pull"):
        Services(settings, command="test")


# A server's collections


def test_an_embedded_index_moves_to_a_server_without_a_model_running(
    tmp_path: Path, checkpoints: dict[str, str], server: OpenAIServer
) -> None:
    settings = gpu(tmp_path / "data", checkpoints, server, rerank={"pages": 0})
    with Services(settings, command="test") as services:
        list(services.ingest([landscape(tmp_path / "log.pdf")]))
        before = services.search(QUESTION).hits
    with qdrant_http() as qdrant:
        moved = dict(copy_to_server(settings, qdrant.url, progress=lambda done, total: None))
        assert [name.partition("--")[0] for name in moved] == ["visual", "image", "text"]
        assert set(moved.values()) == {3}
        there = gpu(
            tmp_path / "data", checkpoints, server, rerank={"pages": 0}, index={"url": qdrant.url}
        )
        with Services(there, command="test") as services:
            after = services.search(QUESTION).hits
            assert [hit.ref for hit in after] == [hit.ref for hit in before]
            for one, other in zip(after, before, strict=True):
                scores = [{r.retriever: r.score for r in h.why.retrievers} for h in (one, other)]
                assert scores[0] == pytest.approx(scores[1], rel=1e-3, abs=1e-4)


# Profiles are data


def test_a_profiles_models_are_hub_names_and_give_way_to_the_settings() -> None:
    for profile in PROFILES.values():
        models = profile.models
        named = (models.visual, models.image, models.rerank, models.answer)
        assert all(name.count("/") == 1 for name in named if name is not None)
    by_default = chosen_models(load_settings({"profile": "gpu"}))
    assert by_default == PROFILES["gpu"].models
    chosen = chosen_models(load_settings({"profile": "gpu", "models": {"answer": "a/b"}}))
    # The reranker that was the answering model goes with it.
    assert (chosen.answer, chosen.rerank) == ("a/b", "a/b")
    apart = chosen_models(
        load_settings({"profile": "gpu", "models": {"answer": "a/b", "rerank": "c/d"}})
    )
    assert (apart.answer, apart.rerank) == ("a/b", "c/d")


def test_encoders_that_see_say_so(services: Services) -> None:
    sees = {
        space.spec.name.partition("--")[0]: [isinstance(e, ImageEncoder) for e in space.encoders]
        for space in services._profile.spaces
    }
    assert sees == {"visual": [True], "image": [True], "text": [False]}
