from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pageglass.errors import ModelError
from pageglass.settings import ModelSettings
from pageglass.types import PageRef
from retrieval.encoders import Encoder, ImageEncoder, PatchEncoder
from retrieval.encoders.colpali import ColPaliEncoder
from retrieval.encoders.patches import open_image
from retrieval.index import CollectionSpec, PagePoint, Prefetch, Scope
from retrieval.index.edge import EdgeIndex
from retrieval.similarity import maxsim, pooled_rows
from retrieval.torch_runtime import library
from tests.tiny_visual import (
    CPU,
    FAMILIES,
    LANDSCAPE,
    PORTRAIT,
    adapter_checkpoint,
    checkpoint,
    page_input,
    picture,
    rows_of,
    visual_checkpoint,
    without_attention,
)

PAGES = [
    page_input(picture(PORTRAIT, [(10, 20, 80, 90), (100, 200, 160, 260)])),
    page_input(picture(LANDSCAPE, [(150, 10, 260, 60)]), index=1),
    page_input(picture((140, 140), [(0, 0, 70, 140)]), index=2),
]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny checkpoint of a family, made once."""
    # Such models are too small to share out.
    library("torch").set_num_threads(1)
    root = tmp_path_factory.mktemp("checkpoints")

    def made(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else visual_checkpoint(family, folder)

    return made


@pytest.fixture(scope="session")
def encoders(checkpoints: Callable[[str], Path]) -> Callable[[str], ColPaliEncoder]:
    """The encoder of a family, loaded once."""
    made: dict[str, ColPaliEncoder] = {}

    def encoder(family: str) -> ColPaliEncoder:
        if family not in made:
            made[family] = ColPaliEncoder(checkpoint(checkpoints(family)), CPU)
        return made[family]

    return encoder


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


Encoders = Callable[[str], ColPaliEncoder]
Folders = Callable[[str], Path]


def test_every_family_gives_unit_rows_of_the_size_it_announces(
    family: str, encoders: Encoders
) -> None:
    encoder = encoders(family)
    size = encoder.vectors["patches"].size
    assert size == encoder.vectors["pooled"].size == (320 if family == "ColQwen3" else 128)
    found = [*encoder.encode_pages(PAGES), encoder.encode_question("What is the total?")]
    found.append(encoder.encode_image(picture(LANDSCAPE)))
    for vectors in found:
        assert set(vectors) == {"patches", "pooled"}
        for name in vectors:
            rows = rows_of(vectors, name)
            assert rows.dtype == np.float32
            assert rows.shape == (len(rows), size)
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_an_encoder_searches_by_pictures_and_lays_out_patches(encoders: Encoders) -> None:
    encoder: Encoder = encoders("ColPali")
    assert isinstance(encoder, ImageEncoder)
    assert isinstance(encoder, PatchEncoder)


def test_a_page_encodes_the_same_alone_and_beside_pages_of_other_sizes(
    family: str, encoders: Encoders
) -> None:
    together = encoders(family).encode_pages(PAGES)
    for one, beside in zip(PAGES, together, strict=True):
        (alone,) = encoders(family).encode_pages([one])
        for name in alone:
            np.testing.assert_allclose(rows_of(alone, name), rows_of(beside, name), atol=1e-5)


def test_patches_are_the_rows_the_library_computes_without_its_padding(
    family: str, encoders: Encoders, checkpoints: Folders
) -> None:
    engine, torch = library("colpali_engine.models"), library("torch")
    options = {"attn_implementation": "eager"} if family == "ColPali" else {}
    model = getattr(engine, family).from_pretrained(str(checkpoints(family)), **options).eval()
    names = {"ColQwen2_5": "ColQwen2_5_Processor"}
    processor = getattr(engine, names.get(family, f"{family}Processor")).from_pretrained(
        str(checkpoints(family))
    )
    given = processor.process_images([picture(PORTRAIT, [(10, 20, 80, 90)])])
    asked = processor.process_queries(["Who signed?"])
    given.pop("labels", None)
    if family == "ColPali":
        model.model.lm_head = torch.nn.Identity()
    with torch.inference_mode():
        patches, tokens = model(**given)[0].numpy(), model(**asked)[0].numpy()
    encoder = encoders(family)
    (page,) = encoder.encode_pages([page_input(picture(PORTRAIT, [(10, 20, 80, 90)]))])
    np.testing.assert_allclose(rows_of(page), patches, atol=1e-5)
    question = encoder.encode_question("Who signed?")
    np.testing.assert_allclose(rows_of(question), tokens, atol=1e-5)


@pytest.mark.parametrize("size", [PORTRAIT, LANDSCAPE])
@pytest.mark.parametrize("corner", ["top right", "bottom left"])
def test_what_changes_in_a_corner_of_the_page_changes_there_on_the_grid(
    family: str, size: tuple[int, int], corner: str, checkpoints: Folders, tmp_path: Path
) -> None:
    # Without attention a row sees its own patch and nothing else.
    shutil.copytree(checkpoints(family), tmp_path / "local")
    encoder = ColPaliEncoder(checkpoint(without_attention(tmp_path / "local")), CPU)
    width, height = size
    across, down = (0.45, 1.0), (0.0, 0.3)
    if corner == "bottom left":
        across, down = (0.0, 0.55), (0.7, 1.0)
    box = (
        round(across[0] * width),
        round(down[0] * height),
        round(across[1] * width),
        round(down[1] * height),
    )
    blank, marked = encoder.encode_pages(
        [page_input(picture(size)), page_input(picture(size, [box]))]
    )
    grid = encoder.patch_grid(picture(size))
    changed = np.abs(rows_of(blank) - rows_of(marked)).max(axis=1)
    seen = changed[grid.positions] > 1e-4

    inside, outside = _cells(grid.shape, across, down)
    assert inside.any()
    assert outside.any()
    assert seen[inside].all()
    assert not seen[outside].any()
    if family != "ColPali":
        assert (grid.shape[0] > grid.shape[1]) == (height > width)


def _cells(
    shape: tuple[int, int], across: tuple[float, float], down: tuple[float, float]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Cells that lie inside a box, and those more than half a cell away from it."""

    def along(count: int, low: float, high: float, margin: float) -> npt.NDArray[np.bool_]:
        starts = np.arange(count) / count
        ends = starts + 1 / count
        if margin:
            return (ends <= low - margin / count) | (starts >= high + margin / count)
        return (starts >= low - 1e-9) & (ends <= high + 1e-9)

    inside = along(shape[0], *down, 0)[:, None] & along(shape[1], *across, 0)[None]
    outside = along(shape[0], *down, 0.5)[:, None] | along(shape[1], *across, 0.5)[None]
    return inside, outside


def test_the_grid_names_each_patch_once_and_no_prompt_token(
    family: str, encoders: Encoders
) -> None:
    encoder = encoders(family)
    for one in PAGES:
        (vectors,) = encoder.encode_pages([one])
        grid = encoder.patch_grid(open_image(one.image))
        named = grid.positions.ravel()
        assert len(set(named.tolist())) == len(named) < len(rows_of(vectors))
        np.testing.assert_allclose(
            pooled_rows(rows_of(vectors), grid),
            rows_of(vectors, "pooled"),
            atol=1e-6,
        )


def test_a_page_no_larger_than_a_tile_is_laid_out_by_its_only_image(tmp_path: Path) -> None:
    folder = visual_checkpoint("ColIdefics3", tmp_path / "small")
    settings = folder / "processor_config.json"
    settings.write_text(settings.read_text().replace('"longest_edge": 168', '"longest_edge": 56'))
    encoder = ColPaliEncoder(checkpoint(folder), CPU)
    assert encoder.patch_grid(picture((56, 56))).shape == (2, 2)


def test_question_tokens_name_every_row(family: str, encoders: Encoders) -> None:
    encoder = encoders(family)
    tokens = encoder.question_tokens("Net sales?")
    assert len(tokens) == len(rows_of(encoder.encode_question("Net sales?")))
    assert "Net sales?" in "".join(tokens)
    # The library's own augmentation.
    assert tokens[-10:] == [tokens[-1]] * 10


def test_nothing_to_see_and_nothing_to_ask_give_no_vectors(encoders: Encoders) -> None:
    encoder = encoders("ColQwen2_5")
    assert encoder.encode_pages([page_input(None, "words"), PAGES[0]])[0] == {}
    assert encoder.encode_pages([]) == []
    assert encoder.encode_question("  \n") == {}
    assert encoder.question_tokens("") == []


def test_a_picture_asks_by_its_pooled_rows(encoders: Encoders) -> None:
    encoder = encoders("ColQwen2_5")
    image = picture(LANDSCAPE, [(150, 10, 260, 60)])
    asked = encoder.encode_image(image)
    (page,) = encoder.encode_pages([page_input(image)])
    np.testing.assert_allclose(rows_of(asked), rows_of(page, "pooled"), atol=1e-6)
    np.testing.assert_array_equal(rows_of(asked), rows_of(asked, "pooled"))


def test_a_checkpoint_saved_and_loaded_again_gives_the_same_vectors(
    family: str, encoders: Encoders, checkpoints: Folders, tmp_path: Path
) -> None:
    engine = library("colpali_engine.models")
    model = getattr(engine, family).from_pretrained(str(checkpoints(family)))
    if family == "ColPali":
        # The library leaves its tied head without weights.
        model.model.lm_head.weight = model.get_input_embeddings().weight
    shutil.copytree(checkpoints(family), tmp_path / "again")
    (tmp_path / "again" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "again")
    again = ColPaliEncoder(checkpoint(tmp_path / "again"), CPU)
    for before, after in zip(
        encoders(family).encode_pages(PAGES), again.encode_pages(PAGES), strict=True
    ):
        np.testing.assert_array_equal(rows_of(before), rows_of(after))


@pytest.mark.parametrize(
    ("family", "now", "once"),
    [
        ("ColQwen2", "", ""),
        ("ColIdefics3", "", ""),
        # Layers as adapters of early versions call them.
        ("ColQwen2", "language_model.layers", "model.layers"),
        ("ColPali", "model.model.language_model", "model.language_model.model"),
    ],
)
def test_an_adapter_changes_its_base_as_peft_would(
    family: str, now: str, once: str, checkpoints: Folders, encoders: Encoders, tmp_path: Path
) -> None:
    base = checkpoints(family)
    folder = adapter_checkpoint(base, tmp_path / "adapter", family)
    engine, peft, torch = library("colpali_engine.models"), library("peft"), library("torch")
    options = {"attn_implementation": "eager"} if family == "ColPali" else {}
    reference = peft.PeftModel.from_pretrained(
        getattr(engine, family).from_pretrained(str(base), **options), str(folder)
    ).eval()
    processor = getattr(engine, f"{family}Processor").from_pretrained(str(base))
    with torch.inference_mode():
        expected = reference(**processor.process_queries(["Which year?"]))[0].numpy()
    safetensors = library("safetensors.torch")
    file = folder / "adapter_model.safetensors"
    weights = safetensors.load_file(file)
    renamed = {name.replace(now, once) if now else name: w for name, w in weights.items()}
    assert (set(renamed) == set(weights)) == (now == once)
    safetensors.save_file(renamed, file, metadata={"format": "pt"})

    found = checkpoint(folder)
    assert found.base is not None
    encoder = ColPaliEncoder(found, CPU)
    assert encoder.vectors["patches"].size == 128
    tokens = rows_of(encoder.encode_question("Which year?"))
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    plain = rows_of(encoders(family).encode_question("Which year?"))
    assert np.abs(tokens - plain).max() > 0.01


def test_an_adapter_may_bring_the_projection_that_its_base_lacks(
    checkpoints: Folders, tmp_path: Path
) -> None:
    bare = _without(checkpoints("ColQwen2_5"), tmp_path / "bare", "custom_text_proj")
    whole = adapter_checkpoint(bare, tmp_path / "whole", "ColQwen2_5", whole=["custom_text_proj"])
    encoder = ColPaliEncoder(checkpoint(whole), CPU)
    first = rows_of(encoder.encode_question("Which year?"))
    second = rows_of(ColPaliEncoder(checkpoint(whole), CPU).encode_question("Which year?"))
    np.testing.assert_array_equal(first, second)

    only_lora = adapter_checkpoint(bare, tmp_path / "lora", "ColQwen2_5")
    with pytest.raises(ModelError, match="lacks 2 of a ColQwen2_5's weights"):
        ColPaliEncoder(checkpoint(only_lora), CPU).encode_question("Which year?")


def _without(source: Path, folder: Path, part: str) -> Path:
    """A copy of a checkpoint without the weights whose names hold ``part``."""
    safetensors = library("safetensors.torch")
    shutil.copytree(source, folder)
    file = folder / "model.safetensors"
    kept = {name: w for name, w in safetensors.load_file(file).items() if part not in name}
    safetensors.save_file(kept, file, metadata={"format": "pt"})
    return folder


def test_weights_that_are_missing_are_an_error_and_not_random(
    family: str, checkpoints: Folders, tmp_path: Path
) -> None:
    norms = "norm"
    folder = _without(checkpoints(family), tmp_path / "bare", norms)
    with pytest.raises(ModelError, match=rf"lacks \d+ of a {family}'s weights") as raised:
        ColPaliEncoder(checkpoint(folder), CPU).encode_question("Which year?")
    assert "\n" not in str(raised.value)


def test_a_checkpoint_never_trained_for_retrieval_is_told_apart_by_its_headers(
    checkpoints: Folders, tmp_path: Path
) -> None:
    folder = _without(checkpoints("ColQwen2"), tmp_path / "bare", "custom_text_proj")
    encoder = ColPaliEncoder(checkpoint(folder), CPU)
    with pytest.raises(ModelError, match="no layer custom_text_proj"):
        _ = encoder.vectors


def test_vectors_of_a_checkpoint_in_pickles_are_learnt_by_loading_it(
    checkpoints: Folders, tmp_path: Path
) -> None:
    safetensors, torch = library("safetensors.torch"), library("torch")
    folder = shutil.copytree(checkpoints("ColQwen2"), tmp_path / "pickled")
    weights = safetensors.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert ColPaliEncoder(checkpoint(folder), CPU).vectors["patches"].size == 128


def test_a_checkpoint_of_another_kind_is_refused_with_the_families_there_are(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="is of type bert") as raised:
        ColPaliEncoder(checkpoint(tmp_path), CPU)
    assert "ColQwen2_5 (qwen2_5_vl)" in str(raised.value)


def test_files_that_are_missing_or_damaged_are_named(checkpoints: Folders, tmp_path: Path) -> None:
    unread = shutil.copytree(checkpoints("ColQwen2"), tmp_path / "unread")
    (unread / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="has no processor_config"):
        ColPaliEncoder(checkpoint(unread), CPU).patch_grid(picture())

    damaged = shutil.copytree(checkpoints("ColQwen2"), tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"the model of .* does not load") as raised:
        ColPaliEncoder(checkpoint(damaged), CPU).encode_question("Which year?")
    assert "\n" not in str(raised.value)

    wordless = shutil.copytree(checkpoints("ColQwen2"), tmp_path / "wordless")
    (wordless / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"the processor of .* does not load"):
        ColPaliEncoder(checkpoint(wordless), CPU).question_tokens("Which year?")


def test_token_pooling_merges_patches_and_leaves_the_first_stage_alone(
    checkpoints: Folders, encoders: Encoders
) -> None:
    merging = ColPaliEncoder(checkpoint(checkpoints("ColQwen2_5")), CPU, token_pooling=3)
    for whole, merged in zip(
        encoders("ColQwen2_5").encode_pages(PAGES), merging.encode_pages(PAGES), strict=True
    ):
        all_rows, rows = rows_of(whole), rows_of(merged)
        assert 1 < len(rows) <= len(all_rows) // 3
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(rows_of(whole, "pooled"), rows_of(merged, "pooled"))
    assert merging.model != encoders("ColQwen2_5").model


def test_the_manifest_says_nothing_of_the_device(checkpoints: Folders) -> None:
    found = checkpoint(checkpoints("ColPali"))
    other = ModelSettings(device="cuda:1", dtype="float16", batch_pages=64)
    one, two = ColPaliEncoder(found, CPU), ColPaliEncoder(found, other)
    assert one.model == two.model
    assert one.vectors == two.vectors
    assert one.model["checkpoint"]["revision"] == found.revision


def test_half_precision_agrees_with_full(
    family: str, checkpoints: Folders, encoders: Encoders
) -> None:
    half = CPU.model_copy(update={"dtype": "bfloat16"})
    rough = ColPaliEncoder(checkpoint(checkpoints(family)), half).encode_pages(PAGES[:1])[0]
    exact = encoders(family).encode_pages(PAGES[:1])[0]
    likeness = (rows_of(rough) * rows_of(exact)).sum(axis=1)
    assert likeness.mean() > 0.99


def test_threads_share_one_encoder(checkpoints: Folders, encoders: Encoders) -> None:
    shared = ColPaliEncoder(checkpoint(checkpoints("ColQwen2_5")), CPU)
    questions = [f"Question number {number}?" for number in range(4)]
    found: dict[str, Any] = {}

    def ask(question: str) -> None:
        found[question] = rows_of(shared.encode_question(question))

    def read() -> None:
        found["pages"] = shared.encode_pages(PAGES)

    threads = [threading.Thread(target=ask, args=(q,)) for q in questions]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calm = encoders("ColQwen2_5")
    for question in questions:
        np.testing.assert_allclose(
            found[question],
            rows_of(calm.encode_question(question)),
            atol=1e-5,
        )
    for one, other in zip(found["pages"], calm.encode_pages(PAGES), strict=True):
        np.testing.assert_allclose(rows_of(one), rows_of(other), atol=1e-5)


@pytest.mark.parametrize("family", ["ColPali", "ColQwen2_5", "ColIdefics3"])
def test_two_stages_of_search_find_what_scoring_every_page_finds(
    family: str, encoders: Encoders, tmp_path: Path
) -> None:
    encoder = encoders(family)
    pages = [
        page_input(
            picture(
                PORTRAIT,
                [(20 * n, 30, 20 * n + 60, 60 + 30 * n)],
                background=(255 - 40 * n, 200, 90 + 30 * n),
            ),
            index=n,
        )
        for n in range(5)
    ]
    vectors = encoder.encode_pages(pages)
    index = EdgeIndex(tmp_path, CollectionSpec("visual--tiny", encoder.vectors, encoder.model))
    index.upsert(
        [PagePoint(of.page.ref, "default", found) for of, found in zip(pages, vectors, strict=True)]
    )
    question = encoder.encode_question("Where is the chart?")
    asked = rows_of(question)
    stored = [rows_of(found).astype(np.float16).astype(np.float32) for found in vectors]
    scores = {PageRef("d0", n): maxsim(asked, rows) for n, rows in enumerate(stored)}
    hits = index.query(
        "patches",
        asked,
        limit=5,
        scope=Scope(),
        prefetch=Prefetch([("pooled", question["pooled"])], limit=5),
    )
    index.close()
    assert [ref for ref, _ in hits] == sorted(scores, key=lambda ref: -scores[ref])
    for ref, score in hits:
        assert score == pytest.approx(scores[ref], abs=0.02)


def test_building_one_imports_no_torch_and_a_missing_extra_says_what_to_run(
    checkpoints: Folders,
) -> None:
    program = f"""
import sys
from pathlib import Path
from pageglass.errors import MissingExtra
from pageglass.settings import ModelSettings
from retrieval.checkpoints import find
from retrieval.encoders.colpali import ColPaliEncoder

encoder = ColPaliEncoder(find({str(checkpoints("ColQwen2"))!r}), ModelSettings(device="cpu"))
assert encoder.vectors["patches"].size == 128 and encoder.model
assert not {{"torch", "transformers", "colpali_engine"}} & set(sys.modules)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "colpali_engine":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
try:
    encoder.encode_question("Which year?")
except MissingExtra as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "colpali_engine" in ran.stdout
    assert "pip install -e '.[models]'" in ran.stdout
