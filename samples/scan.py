"""Turning drawn pages into scanned ones: gray pictures, slightly turned, with some noise."""

import numpy as np
from numpy.typing import NDArray

from samples.draw import Canvas, Page, as_jpeg, render_gray

DPI = 150


def noisy(gray: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Gray the paper, soften the black, add noise and a shadow at the left edge."""
    chance = np.random.default_rng(seed)
    paper = gray.astype(np.float32) * 0.84 + 34
    paper += chance.normal(0, 2.6, gray.shape).astype(np.float32)
    shadow = np.exp(-np.arange(gray.shape[1], dtype=np.float32) / 26) * 46
    return np.clip(paper - shadow[None, :], 0, 255).astype(np.uint8)


def scanned(drawn: Canvas, quality: int = 48) -> Canvas:
    """Give a new PDF that holds only pictures of the drawn pages; each lies a little askew."""
    scan = Canvas(drawn.width, drawn.height)
    for number in range(drawn.page_count):
        turn = (0.5, -0.35, 0.3, -0.6, 0.2, 0.45, -0.25, 0.55, -0.4)[number % 9]
        page: Page = render_gray(drawn, number, DPI, turn)
        scan.new_page()
        scan.image(as_jpeg(noisy(page, seed=number), quality))
    return scan
