"""Makes ``projection.npy``: MiniLM's token vectors in a third of their dimensions.

    python -m retrieval.encoders.minilm_l6_v2.project --texts samples/content

Principal components of the token vectors of English texts written for this project (``passages``
and the sample collection's prose), not of anything that is searched or measured. The last step
turns the components so that coordinates sum to zero, which retrieval/index/quantization.py needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from retrieval.encoders.minilm import BUNDLED, DIMENSION, PROJECTION, MiniLM
from retrieval.encoders.minilm_encoder import content_words
from retrieval.encoders.minilm_l6_v2.export import record_checksums
from retrieval.encoders.minilm_l6_v2.passages import passages
from retrieval.index.quantization import zero_sum_basis

SIZE = 128


def main() -> None:
    """Fit, write, and print how much of the vectors is kept."""
    parser = argparse.ArgumentParser(description="Fit the projection of token vectors.")
    parser.add_argument("--texts", type=Path, required=True, help="folder of .md files")
    texts = [path.read_text("utf-8") for path in sorted(parser.parse_args().texts.glob("*.md"))]
    paragraphs = [p for text in texts for p in text.split("\n\n")] + list(passages())
    model = MiniLM()
    rows = np.concatenate(
        [
            content_words(passage, text)
            for passage, text in zip(model.encode_passages(paragraphs), paragraphs, strict=True)
        ]
    ).astype(np.float64)
    # Not centred: dot products are to be kept, and the mean is part of them.
    energy, components = np.linalg.eigh(rows.T @ rows)
    components = components[:, ::-1][:, : SIZE - 1]
    # eigh leaves the signs open: fix them, so that the file is made the same everywhere.
    components *= np.sign(components[np.abs(components).argmax(axis=0), range(SIZE - 1)])
    projection = (components @ zero_sum_basis(SIZE)).astype(np.float16)
    np.save(BUNDLED / PROJECTION, projection)
    record_checksums()
    kept = energy[::-1][: SIZE - 1].sum() / energy.sum()
    print(f"{len(rows)} words; {projection.shape[1]} of {DIMENSION} dimensions keep {kept:.3f}")


if __name__ == "__main__":
    main()
