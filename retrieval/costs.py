"""What a page costs: tokens to show it to a model, vectors and bytes to index it. Pure arithmetic.

Formulas are the models' published ones, kept as data with where they were published. They count
what stands for the image itself; a chat template adds a few tokens of its own. Prices change and
are not kept: whoever knows them gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pageglass.errors import UsageError
from retrieval.index import VectorSpec

_TRANSFORMERS = "https://github.com/huggingface/transformers/blob/main/src/transformers/models"
_OPENAI = "https://platform.openai.com/docs/guides/images-vision"
_ANTHROPIC = "https://platform.claude.com/docs/en/build-with-claude/vision"
_QWEN = f"{_TRANSFORMERS}/qwen2_vl/image_processing_qwen2_vl.py"
_IDEFICS = f"{_TRANSFORMERS}/idefics3/image_processing_idefics3.py"
_PALIGEMMA = f"{_TRANSFORMERS}/paligemma/processing_paligemma.py"

_BYTES = {"float32": 4, "float16": 2, "uint8": 1}


@dataclass(frozen=True, slots=True)
class PageCost:
    """What showing one page image of ``width`` x ``height`` pixels takes.

    ``formula`` says in words how ``image_tokens`` come about, ``source`` is where it is published.
    """

    width: int
    height: int
    image_tokens: int
    formula: str
    source: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What showing ``pages`` pages to ``model``, each once, takes in all.

    ``cost`` is in the currency of the prices given, None where none was.
    """

    model: str
    pages: int
    page: PageCost
    input_tokens: int
    output_tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class _Formula:
    """``models`` are patterns of a name's last part, in lower case; the first that fits counts."""

    models: tuple[str, ...]
    text: str
    source: str
    tokens: Callable[[int, int], int]


def page_tokens(model: str, width: int, height: int) -> PageCost:
    """The image tokens of a page of ``width`` x ``height`` pixels for ``model``.

    ``model`` is a hub name, a folder named like one, or an API's model name. UsageError where its
    formula is not known here.
    """
    _check_size(width, height)
    name = _last_part(model)
    for formula in _FORMULAS:
        if any(fnmatchcase(name, pattern) for pattern in formula.models):
            tokens = formula.tokens(width, height)
            return PageCost(width, height, tokens, formula.text, formula.source)
    known = ", ".join(pattern for formula in _FORMULAS for pattern in formula.models)
    raise UsageError(f"it is not known what images cost {model!r}: known are {known}")


def estimate(
    model: str,
    pages: int,
    *,
    width: int,
    height: int,
    text_tokens: int = 0,
    output_tokens: int = 0,
    price_per_million_input: float | None = None,
    price_per_million_output: float | None = None,
) -> Estimate:
    """What ``pages`` pages of ``width`` x ``height`` pixels cost to show to ``model``, each once.

    ``text_tokens`` are read beside each page's image (instructions, question, the page's text),
    ``output_tokens`` written for each page. Prices are for a million tokens; one that is left out
    counts as nothing where the other is given. UsageError for unknown models and impossible sizes.
    """
    if min(pages, text_tokens, output_tokens) < 0:
        raise UsageError("pages and tokens are counted from 0: give no negative numbers")
    page = page_tokens(model, width, height)
    read, written = pages * (page.image_tokens + text_tokens), pages * output_tokens
    cost = None
    if price_per_million_input is not None or price_per_million_output is not None:
        cost = (
            read * (price_per_million_input or 0.0) + written * (price_per_million_output or 0.0)
        ) / 1e6
    return Estimate(model, pages, page, read, written, cost)


def page_rows(model: str, width: int, height: int, *, text_tokens: int = 0) -> dict[str, float]:
    """Rows a page of ``width`` x ``height`` pixels has in each named vector of an indexing model.

    ``text_tokens`` is the length of its text, for text models. For a sparse vector a row is a
    term. UsageError where the model is not known here.
    """
    _check_size(width, height)
    name = _last_part(model)
    for patterns, rows in _ROWS:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return rows(width, height, text_tokens)
    known = ", ".join(pattern for patterns, _ in _ROWS for pattern in patterns)
    raise UsageError(f"it is not known how many vectors {model!r} makes: known are {known}")


def storage(vectors: Mapping[str, VectorSpec], rows: Mapping[str, float]) -> int:
    """Bytes of one page's vectors, with the compressed copies that ``vectors`` ask for.

    ``rows`` is as ``page_rows`` gives it; a name it lacks takes nothing. An index adds its own to
    that: payload, segments with room to grow, the write-ahead log until it is cut; Qdrant Edge came
    to between 1.5 and 3 times as much on disk.
    """
    return math.ceil(sum(_row_bytes(spec) * rows.get(name, 0) for name, spec in vectors.items()))


def _row_bytes(spec: VectorSpec) -> float:
    if spec.kind == "sparse":
        return 8  # a 32-bit index and a 32-bit value
    copies = {"none": 0.0, "scalar": 1.0, "binary": 1 / 8}
    return spec.size * (_BYTES[spec.datatype] + copies[spec.quantization])


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise UsageError(f"a page image of {width} x {height} pixels: give at least 1 x 1")


def _last_part(model: str) -> str:
    return model.partition("@")[0].rstrip("/").rpartition("/")[2].lower()


def _openai_tiles(base: int, tile: int) -> Callable[[int, int], int]:
    def tokens(width: int, height: int) -> int:
        w, h = _scaled(width, height, min(1.0, 2048 / max(width, height)))
        w, h = _scaled(w, h, min(1.0, 768 / min(w, h)))
        return base + tile * math.ceil(w / 512) * math.ceil(h / 512)

    return tokens


def _scaled(width: int, height: int, scale: float) -> tuple[int, int]:
    return max(1, round(width * scale)), max(1, round(height * scale))


def _claude_area(width: int, height: int) -> int:
    scale = min(1.0, 1568 / max(width, height))
    # Larger ones are scaled down further, to about as many tokens as this.
    return min(1600, math.ceil(width * scale * height * scale / 750))


def _claude_patches(edge: int, most: int) -> Callable[[int, int], int]:
    def count(width: float, height: float) -> int:
        return math.ceil(width / 28) * math.ceil(height / 28)

    def tokens(width: int, height: int) -> int:
        """Of the largest size of the same shape within both limits, in whole pixels."""
        longest, shortest = max(width, height), min(width, height)
        for long in range(min(longest, edge), 0, -1):
            patches = count(long, max(1, round(shortest * long / longest)))
            if patches <= most:
                return patches
        return 1

    return tokens


def _qwen_grid(width: int, height: int, cell: int, least: int, most: int) -> tuple[int, int]:
    """Rows and columns of cells of ``cell`` pixels, for an area between ``least`` and ``most``."""
    if max(width, height) > 200 * min(width, height):
        raise UsageError(f"{width} x {height} pixels: Qwen refuses sides of more than 200 to 1")
    rows, columns = round(height / cell), round(width / cell)
    if rows * columns * cell * cell > most:
        shrink = math.sqrt(width * height / most)
        rows = max(1, math.floor(height / shrink / cell))
        columns = max(1, math.floor(width / shrink / cell))
    elif rows * columns * cell * cell < least:
        grow = math.sqrt(least / (width * height))
        rows, columns = math.ceil(height * grow / cell), math.ceil(width * grow / cell)
    return rows, columns


def _qwen(cell: int, least: int, most: int) -> Callable[[int, int], int]:
    def tokens(width: int, height: int) -> int:
        rows, columns = _qwen_grid(width, height, cell, least, most)
        return rows * columns

    return tokens


def _idefics_tiles(width: int, height: int, longest: int, tile: int) -> tuple[int, int]:
    """Rows and columns of tiles, once the longer side is ``longest``."""
    ratio = width / height
    if width >= height:
        width, height = longest, math.floor(longest / ratio)
    else:
        width, height = math.floor(longest * ratio), longest
    return math.ceil(max(height, 1) / tile), math.ceil(max(width, 1) / tile)


def _idefics(longest: int, tile: int, tokens_a_tile: int) -> Callable[[int, int], int]:
    def tokens(width: int, height: int) -> int:
        rows, columns = _idefics_tiles(width, height, longest, tile)
        return (rows * columns + 1) * tokens_a_tile

    return tokens


_FORMULAS = (
    _Formula(
        ("gpt-4o-mini*",),
        "2833 + 5667 a tile of 512 px, within 2048 px and the shorter side within 768 px",
        _OPENAI,
        _openai_tiles(2833, 5667),
    ),
    _Formula(
        ("gpt-4o*", "gpt-4.1", "gpt-4.1-2*", "gpt-4-turbo*"),
        "85 + 170 a tile of 512 px, within 2048 px and the shorter side within 768 px",
        _OPENAI,
        _openai_tiles(85, 170),
    ),
    _Formula(
        ("claude-3*",),
        "width x height / 750, within 1568 px and 1600 tokens",
        _ANTHROPIC,
        _claude_area,
    ),
    _Formula(
        ("claude-*-4-[78]*",),
        "patches of 28 px, within 2576 px and 4784 patches",
        _ANTHROPIC,
        _claude_patches(2576, 4784),
    ),
    _Formula(
        ("claude-*-4", "claude-*-4-[0-6]*"),
        "patches of 28 px, within 1568 px and 1568 patches",
        _ANTHROPIC,
        _claude_patches(1568, 1568),
    ),
    _Formula(
        ("qwen2-vl-*", "qwen2.5-vl-*"),
        "cells of 28 px, 4 to 16384 of them",
        _QWEN,
        _qwen(28, 4 * 28 * 28, 16384 * 28 * 28),
    ),
    _Formula(
        ("qwen3-vl-*",),
        "cells of 32 px, 64 to 16384 of them",
        _QWEN,
        _qwen(32, 64 * 32 * 32, 16384 * 32 * 32),
    ),
    _Formula(
        ("colqwen2-v*", "colqwen2.5-v*"),
        "cells of 28 px, 4 to 768 of them",
        _QWEN,
        _qwen(28, 4 * 28 * 28, 768 * 28 * 28),
    ),
    _Formula(
        ("smolvlm*-256m-*", "smolvlm*-500m-*", "colsmol-*", "colmodernvbert*"),
        "64 a tile of 512 px of the image at 2048 px, and 64 for the whole of it",
        _IDEFICS,
        _idefics(2048, 512, 64),
    ),
    _Formula(
        ("smolvlm-instruct", "smolvlm-base", "smolvlm2-2.2b-*"),
        "81 a tile of 384 px of the image at 1536 px, and 81 for the whole of it",
        _IDEFICS,
        _idefics(1536, 384, 81),
    ),
    _Formula(
        ("idefics3-*",),
        "169 a tile of 364 px of the image at 1456 px, and 169 for the whole of it",
        _IDEFICS,
        _idefics(1456, 364, 169),
    ),
    _Formula(
        ("paligemma*-448*", "colpali*"),
        "32 x 32 patches of 14 px, whatever its shape",
        _PALIGEMMA,
        lambda width, height: 1024,
    ),
)


# Tokens that are no image tokens but have a row among a page's patches all the same: the prompt
# "Describe the image." with each model's own marks, as colpali-engine puts it.
_QWEN_PROMPT, _IDEFICS_PROMPT, _PALI_PROMPT = 11, 13, 6


def _colqwen_rows(width: int, height: int, text_tokens: int) -> dict[str, float]:
    del text_tokens
    rows, columns = _qwen_grid(width, height, 28, 4 * 28 * 28, 768 * 28 * 28)
    return {"patches": rows * columns + _QWEN_PROMPT, "pooled": rows}


def _colidefics_rows(width: int, height: int, text_tokens: int) -> dict[str, float]:
    del text_tokens
    rows, columns = _idefics_tiles(width, height, 2048, 512)
    # Two marks before each tile, a line's end after each row of them, three marks at the whole.
    marks = 2 * rows * columns + rows + 3
    patches = (rows * columns + 1) * 64 + marks + _IDEFICS_PROMPT
    return {"patches": patches, "pooled": rows * 8}


def _colpali_rows(width: int, height: int, text_tokens: int) -> dict[str, float]:
    del width, height, text_tokens
    return {"patches": 1024 + _PALI_PROMPT, "pooled": 32}


def _clip_rows(width: int, height: int, text_tokens: int) -> dict[str, float]:
    del width, height, text_tokens
    return {"clip": 1}


def _bge_rows(width: int, height: int, text_tokens: int) -> dict[str, float]:
    del width, height
    # Half of a page's tokens repeat others of it, about; a sparse vector has each once.
    return {"dense": 1, "sparse": text_tokens / 2, "tokens": text_tokens} if text_tokens else {}


_ROWS: tuple[tuple[tuple[str, ...], Callable[[int, int, int], dict[str, float]]], ...] = (
    (("colqwen2-v*", "colqwen2.5-v*"), _colqwen_rows),
    (("colsmol-*", "colmodernvbert*"), _colidefics_rows),
    (("colpali*",), _colpali_rows),
    (("clip-*", "vit-*"), _clip_rows),
    (("bge-m3*",), _bge_rows),
)
