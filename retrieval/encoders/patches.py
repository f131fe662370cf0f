"""What every late-interaction model of page images has in common: where its rows lie on the page,
and what is stored of them. Pure arrays, but for the token pooler.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pageglass.errors import ModelError
from retrieval.checkpoints import Checkpoint
from retrieval.encoders import FloatArray, PageInput, Vectors
from retrieval.index import VectorSpec
from retrieval.similarity import PatchGrid, pooled_rows
from retrieval.torch_runtime import Batches, library

if TYPE_CHECKING:
    from PIL import Image

Quantization = Literal["none", "scalar", "binary"]
FloatRows = npt.NDArray[np.float32]

# How Idefics3's processor announces the tile whose patches follow.
_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")


@dataclass(frozen=True, slots=True, eq=False)
class PageRows:
    """A page as a model sees it: ``rows`` (n, size) of length 1, and where they lie on it."""

    rows: FloatRows
    grid: PatchGrid


def visual_vectors(size: int, quantization: Quantization) -> dict[str, VectorSpec]:
    """The named vectors of page images: every row, and one a row of the grid to find pages by."""
    return {
        "patches": VectorSpec("multi", size, "float16", quantization=quantization),
        "pooled": VectorSpec("multi", size, "float16"),
    }


def encode_images(
    pages: Sequence[PageInput],
    batches: Batches,
    encode: Callable[[Sequence[Image.Image]], Sequence[PageRows]],
    *,
    token_pooling: int,
) -> list[Vectors]:
    """``patches`` and ``pooled`` of each page, neither for one without an image.

    ``encode`` is the model; it sees at most a batch of images at a time.
    """

    def work(batch: Sequence[PageInput]) -> list[Vectors]:
        return [
            {
                "patches": merge_tokens(page.rows, token_pooling),
                "pooled": pooled_rows(page.rows, page.grid),
            }
            for page in encode([open_image(of.image) for of in batch])
        ]

    encoded = iter(batches.run([of for of in pages if of.image], work))
    return [next(encoded) if of.image else {} for of in pages]


def picture_question(page: PageRows) -> Vectors:
    """A picture's vectors as a question: its pooled rows, against patches and pooled rows alike.

    All its patches against all of a page's would cost a hundred times more and find the same.
    """
    pooled = pooled_rows(page.rows, page.grid)
    return {"patches": pooled, "pooled": pooled}


def open_image(data: bytes) -> Image.Image:
    """The page image in ``data``, in RGB."""
    from PIL import Image

    return Image.open(BytesIO(data)).convert("RGB")


def unit_rows(embeddings: Any, kept: npt.NDArray[np.bool_]) -> FloatRows:
    """The rows of a tensor (n, size) that ``kept`` (n,) names, in float32 and of length 1.

    ModelError where they are not numbers: the number format's range was too small.
    """
    rows: FloatRows = embeddings.float().cpu().numpy()[kept]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ModelError(
            "the model's numbers overflow: set models.dtype to float32, or bfloat16 on cuda"
        )
    return rows / lengths


def lay_out(
    processor: Any,
    ids: npt.NDArray[np.int64],
    kept: npt.NDArray[np.bool_],
    grid_thw: Sequence[int] | None,
) -> PatchGrid:
    """Where a page's rows lie, from what its processor made of the image.

    ``ids`` (n,) are the page's token ids, ``kept`` (n,) those whose rows are the page's, and
    ``grid_thw`` is Qwen's (1, rows, columns) before patches are merged. Idefics3 cuts the page into
    tiles, row by row, each with a square of patches, and adds a thumbnail, which has no place in
    the grid. PaliGemma sees one square.
    """
    images = np.flatnonzero(ids == processor.image_token_id)
    if not kept[images].all():
        raise ModelError("the model drops patches of the page: it cannot be laid out")
    tiles, thumbnails = (1, 1), 0
    if grid_thw is not None:
        merge = processor.image_processor.merge_size
        block = (grid_thw[1] // merge, grid_thw[2] // merge)
    else:
        named = _TILE.findall(processor.tokenizer.decode(ids.tolist()))
        if named:
            tiles = (max(int(row) for row, _ in named), max(int(column) for _, column in named))
            thumbnails = 1
        side = math.isqrt(len(images) // (tiles[0] * tiles[1] + thumbnails))
        block = (side, side)
    cells = tiles[0] * tiles[1] * block[0] * block[1]
    if not cells or len(images) != cells + thumbnails * block[0] * block[1]:
        raise ModelError(
            f"{len(images)} patches are no {tiles[0]} x {tiles[1]} tiles of {block[0]} x"
            f" {block[1]}: the checkpoint's processor does not belong to its model"
        )
    rows_of_images = (np.cumsum(kept) - 1)[images]
    # Tile by tile in the sequence, line by line on the page.
    laid = rows_of_images[:cells].reshape(*tiles, *block).transpose(0, 2, 1, 3)
    return PatchGrid(laid.reshape(tiles[0] * block[0], tiles[1] * block[1]).astype(np.int64))


def merge_tokens(rows: FloatArray, factor: int) -> FloatArray:
    """About one row for ``factor`` alike ones: the mean of each cluster, of length 1.

    Hierarchical token pooling (Clavié et al., 2024), as in colpali-engine; 1 changes nothing.
    """
    if factor == 1 or len(rows) == 1:
        return rows
    pooling, torch = library("colpali_engine.compression.token_pooling"), library("torch")
    (pooled,) = pooling.HierarchicalTokenPooler().pool_embeddings(
        [torch.from_numpy(np.asarray(rows, np.float32))], pool_factor=factor
    )
    return pooled.numpy()


def readable(tokenizer: Any, ids: npt.NDArray[np.int64]) -> list[str]:
    """Each token as people would read it; special tokens as they are."""
    return [tokenizer.decode([number]) for number in ids.tolist()]


def unusable(checkpoint: Checkpoint, part: str, error: Exception) -> ModelError:
    """The error of a model or processor that its library could not load."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return ModelError(f"the {part} of {checkpoint.name} does not load: {reason}")
