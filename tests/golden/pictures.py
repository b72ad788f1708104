"""Pictures and labels of mixed sizes that the reference and our tests both make, not stored."""

import numpy as np

SIZES = ((37, 53), (64, 48), (50, 75), (33, 90), (48, 64), (1, 1), (70, 41))
NUM_CLASSES = 7
IGNORE = 255


def picture(index: int) -> np.ndarray:
    """A picture of coloured patches and some noise, RGB, uint8 [h, w, 3]."""
    rng = np.random.default_rng(index)
    patches = _patches(rng.integers(0, 256, (16, 16, 3)), SIZES[index])
    return np.clip(patches + rng.integers(-20, 21, patches.shape), 0, 255).astype(np.uint8)


def label(index: int) -> np.ndarray:
    """Labels of patches, a tenth of the pixels ignored, uint8 [h, w]; class 6 never occurs."""
    rng = np.random.default_rng(100 + index)
    labels = _patches(rng.integers(0, NUM_CLASSES - 1, (16, 16)), SIZES[index]).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = IGNORE
    return labels


def _patches(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return values.repeat(8, 0).repeat(8, 1)[:height, :width]
