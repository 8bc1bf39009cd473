"""Even cells over an image: patches, or parts of them."""

from __future__ import annotations

import numpy as np


def cell_of_pixel(num_pixels: int, num_cells: int) -> np.ndarray:
    """(num_pixels,): which of `num_cells` even cells the centre of each pixel lies in."""
    return ((np.arange(num_pixels) + 0.5) * (num_cells / num_pixels)).astype(int)
