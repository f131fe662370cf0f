from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pageglass.errors import UsageError
from retrieval.costs import estimate, page_rows, page_tokens, storage
from retrieval.index import VectorSpec
from retrieval.torch_runtime import library

A4 = (1240, 1754)  # at 150 DPI
SIZES = [A4, (1754, 1240), (2000, 1125), (300, 300), (20, 20), (90, 1700), (3000, 40)]
QWEN = {
    "Qwen/Qwen2-VL-2B-Instruct": (14, 3136, 12845056),
    "Qwen/Qwen2.5-VL-7B-Instruct": (14, 3136, 12845056),
    "Qwen/Qwen3-VL-4B-Instruct": (16, 65536, 16777216),
    "vidore/colqwen2.5-v0.2": (14, 3136, 768 * 28 * 28),
}
"""Patch size and limits of pixels in each checkpoint's preprocessor_config.json."""
IDEFICS = {
    "HuggingFaceTB/SmolVLM-500M-Instruct": (2048, 512, 64),
    "HuggingFaceTB/SmolVLM-Instruct": (1536, 384, 81),
    "HuggingFaceM4/Idefics3-8B-Llama3": (1456, 364, 169),
    "vidore/colSmol-256M": (2048, 512, 64),
}
"""Longest side, tile, and tokens a tile likewise."""


@pytest.mark.parametrize(
    ("model", "width", "height", "tokens"),
    [
        # OpenAI's worked examples.
        ("gpt-4o", 1024, 1024, 765),
        ("gpt-4o-2024-11-20", 2048, 4096, 1105),
        ("gpt-4.1", 2048, 4096, 1105),
        ("gpt-4o", 512, 512, 255),
        ("gpt-4o-mini", 512, 512, 8500),
        # Anthropic's, for Claude 3.
        ("claude-3-7-sonnet-20250219", 200, 200, 54),
        ("claude-3-7-sonnet-20250219", 1000, 1000, 1334),
        ("claude-3-5-haiku-latest", 1092, 1092, 1590),
        # Patches of 28 pixels: ⌈1092 / 28⌉² and what was measured of larger ones.
        ("claude-sonnet-4-20250514", 1092, 1092, 1521),
        ("anthropic/claude-haiku-4-5", 1280, 720, 1196),
        ("claude-haiku-4-5", 1920, 1080, 1560),
        ("claude-opus-4-7", 1920, 1080, 69 * 39),
        # One size whatever the page.
        ("vidore/colpali-v1.3", 1240, 1754, 1024),
        ("google/paligemma2-3b-pt-448", 1, 1, 1024),
    ],
)
def test_published_examples_come_out(model: str, width: int, height: int, tokens: int) -> None:
    cost = page_tokens(model, width, height)
    assert (cost.width, cost.height, cost.image_tokens) == (width, height, tokens)
    assert cost.source.startswith("https://")


@pytest.mark.parametrize("model", QWEN)
def test_qwens_image_processor_makes_as_many_cells(model: str) -> None:
    patch, least, most = QWEN[model]
    processor = library("transformers").Qwen2VLImageProcessor(
        patch_size=patch, size={"shortest_edge": least, "longest_edge": most}
    )
    for width, height in SIZES:
        image = np.zeros((height, width, 3), np.uint8)
        grid = processor(images=[image], return_tensors="pt")["image_grid_thw"][0]
        assert page_tokens(model, width, height).image_tokens == int(grid.prod()) // 4


@given(st.sampled_from(sorted(QWEN)), st.integers(1, 6000), st.integers(1, 6000))
@example("vidore/colqwen2.5-v0.2", 42, 14)
def test_qwens_cells_are_right_for_any_size(model: str, width: int, height: int) -> None:
    resize = library("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
    patch, least, most = QWEN[model]
    try:
        rows, columns = resize(height, width, 2 * patch, least, most)
    except ValueError:  # more than 200 to 1
        with pytest.raises(UsageError, match="200 to 1"):
            page_tokens(model, width, height)
        return
    assert page_tokens(model, width, height).image_tokens == rows * columns // (4 * patch * patch)


def _idefics(model: str) -> tuple[Any, int]:
    longest, tile, tokens = IDEFICS[model]
    processor = library("transformers").Idefics3ImageProcessor(
        size={"longest_edge": longest}, max_image_size={"longest_edge": tile}
    )
    return processor, tokens


@pytest.mark.parametrize("model", IDEFICS)
def test_idefics_image_processor_makes_as_many_tiles(model: str) -> None:
    processor, tokens = _idefics(model)
    for width, height in (A4, (2000, 1125), (60, 40)):
        image = np.zeros((height, width, 3), np.uint8)
        frames = processor(images=[image], return_tensors="pt")["pixel_values"].shape[1]
        assert page_tokens(model, width, height).image_tokens == frames * tokens


@given(st.sampled_from(sorted(IDEFICS)), st.integers(1, 6000), st.integers(1, 6000))
def test_idefics_tiles_are_right_for_any_size(model: str, width: int, height: int) -> None:
    processor, tokens = _idefics(model)
    frames, _, _ = processor.get_number_of_image_patches(height, width)
    assert page_tokens(model, width, height).image_tokens == frames * tokens


def test_paligemma_has_as_many_patches_as_its_vision_tower() -> None:
    # 448 pixels in patches of 14, as its checkpoints' configs say.
    config = library("transformers").SiglipVisionConfig(image_size=448, patch_size=14)
    tokens = (config.image_size // config.patch_size) ** 2
    assert page_tokens("vidore/colpali-v1.3", *A4).image_tokens == tokens


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'somebody/else'.*gpt-4o.*qwen2\.5-vl"):
        page_tokens("somebody/else", *A4)
    with pytest.raises(UsageError, match=r"'somebody/else'.*colqwen2\.5.*bge-m3"):
        page_rows("somebody/else", *A4)
    # A family's next generation may count otherwise.
    for model in ("gpt-4.1-mini", "claude-opus-4-9", "Qwen/Qwen9-VL-7B"):
        with pytest.raises(UsageError, match="known are"):
            page_tokens(model, *A4)


@pytest.mark.parametrize("size", [(0, 100), (100, 0), (-1, 5)])
def test_a_page_of_no_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="at least 1 x 1"):
        page_tokens("gpt-4o", *size)
    with pytest.raises(UsageError, match="at least 1 x 1"):
        page_rows("BAAI/bge-m3", *size)


def test_hub_names_revisions_and_folders_mean_the_same() -> None:
    expected = page_tokens("Qwen/Qwen2.5-VL-7B-Instruct", *A4)
    for name in ("qwen2.5-vl-7b-instruct", "Qwen/Qwen2.5-VL-7B-Instruct@main"):
        assert page_tokens(name, *A4) == expected
    assert page_tokens("/models/Qwen2.5-VL-7B-Instruct/", *A4) == expected


@given(
    st.sampled_from([*QWEN, *IDEFICS, "gpt-4o", "claude-3-opus", "claude-opus-4-8", "colpali"]),
    st.integers(1, 4000),
    st.integers(1, 4000),
)
def test_every_page_costs_something_and_no_fortune(model: str, width: int, height: int) -> None:
    if max(width, height) <= 200 * min(width, height):
        assert 1 <= page_tokens(model, width, height).image_tokens <= 16384


def test_an_estimate_is_pages_times_a_page() -> None:
    found = estimate("gpt-4o", 300, width=1240, height=1754, text_tokens=500, output_tokens=40)
    assert found.page == page_tokens("gpt-4o", 1240, 1754)
    assert found.input_tokens == 300 * (1105 + 500)
    assert found.output_tokens == 300 * 40
    assert found.cost is None
    assert json.loads(json.dumps(asdict(found)))["page"]["image_tokens"] == 1105


def test_prices_are_for_a_million_tokens() -> None:
    size = {"width": 1024, "height": 1024}
    both = estimate(
        "gpt-4o",
        1000,
        **size,
        output_tokens=100,
        price_per_million_input=2.0,
        price_per_million_output=10.0,
    )
    assert both.cost == pytest.approx(0.765 * 2 + 0.1 * 10)
    one = estimate("gpt-4o", 1000, **size, output_tokens=100, price_per_million_input=2.0)
    assert one.cost == pytest.approx(0.765 * 2)
    assert estimate("gpt-4o", 0, **size, price_per_million_input=2.0).cost == 0
    with pytest.raises(UsageError, match="negative"):
        estimate("gpt-4o", -1, **size)


def test_rows_of_late_interaction_are_image_tokens_and_the_prompts() -> None:
    # Measured: 747 for ColQwen2.5, 876 to 1140 for ColSmol, 1030 for ColPali.
    assert page_rows("vidore/colqwen2.5-v0.2", *A4) == {"patches": 747, "pooled": 32}
    assert page_rows("vidore/colSmol-256M", *A4) == {"patches": 876, "pooled": 32}
    assert page_rows("ModernVBERT/colmodernvbert", 1000, 1000)["patches"] == 1140
    assert page_rows("vidore/colpali-v1.3", *A4) == {"patches": 1030, "pooled": 32}


def test_colqwens_prompt_has_the_tokens_counted_for_it() -> None:
    models = library("colpali_engine.models")
    prompt = models.ColQwen2_5_Processor.visual_prompt_prefix.replace("<|image_pad|>", "")
    rows = page_rows("vidore/colqwen2.5-v0.2", *A4)["patches"]
    words = re.findall(r"<\|\w+\|>|\w+|\n|\.", prompt)
    assert "".join(words) == prompt.replace(" ", "")
    assert rows - page_tokens("vidore/colqwen2.5-v0.2", *A4).image_tokens == len(words)


@pytest.mark.parametrize(("size", "tiles"), [(A4, (4, 3)), ((1000, 1000), (4, 4))])
def test_colsmols_marks_are_those_the_processor_writes(
    size: tuple[int, int], tiles: tuple[int, int]
) -> None:
    processor = library("transformers").Idefics3Processor
    image_processor, tokens = _idefics("vidore/colSmol-256M")
    assert image_processor.get_number_of_image_patches(size[1], size[0])[1:] == tiles

    class Marks:  # the words of its text, without a tokenizer
        fake_image_token, image_token = "<fake>", "<image>"
        global_image_tag, image_seq_len = "<global-img>", tokens

    inputs = {"rows": [[tiles[0]]], "cols": [[tiles[1]]]}
    text = processor.replace_image_token(Marks(), inputs, 0)
    written = len(re.findall(r"<[^>]+>|\n+", text))
    assert page_rows("vidore/colSmol-256M", *size)["patches"] == written + 13


def test_the_profiles_models_are_known() -> None:
    from pageglass.profiles import BUNDLED, PROFILES

    for models in (profile.models for profile in PROFILES.values()):
        for name in (models.visual, models.image, models.text):
            if name and name != BUNDLED:
                assert page_rows(name, *A4, text_tokens=700)
        for name in (models.rerank, models.answer):
            if name:
                assert page_tokens(name, *A4).image_tokens > 100


def test_bytes_are_rows_times_their_size() -> None:
    vectors = {
        "patches": VectorSpec("multi", 128, "float16"),
        "pooled": VectorSpec("multi", 128, "float16"),
    }
    rows = page_rows("vidore/colqwen2.5-v0.2", *A4)
    assert storage(vectors, rows) == (747 + 32) * 128 * 2
    assert storage({"clip": VectorSpec("dense", 512)}, {"clip": 1}) == 2048
    text = {
        "dense": VectorSpec("dense", 1024),
        "sparse": VectorSpec("sparse"),
        "tokens": VectorSpec("multi", 1024, "float16"),
    }
    rows = page_rows("BAAI/bge-m3", *A4, text_tokens=700)
    assert storage(text, rows) == 4096 + 350 * 8 + 700 * 2048
    assert page_rows("BAAI/bge-m3", *A4) == {}
    assert storage(text, {}) == 0


@pytest.mark.parametrize(("quantization", "more"), [("none", 0), ("scalar", 128), ("binary", 16)])
def test_a_compressed_copy_takes_its_share(quantization: Any, more: int) -> None:
    spec = VectorSpec("multi", 128, "uint8", quantization=quantization)
    assert storage({"patches": spec}, {"patches": 1000}) == 1000 * (128 + more)
