"""Weights, images and labels that the reference and our tests both make: none are stored."""

import zlib

import numpy as np

NUM_CLASSES = 7
IGNORE = 255


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A value for every tensor of a PyTorch state dict, by its name; no branch is silent."""
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.array(1000, np.int64)
    if name.endswith("running_var"):
        return (rng.random(shape) + 0.5).astype(np.float32)
    if name.endswith("bases"):  # of unit length, as EMANet keeps them
        bases = rng.standard_normal(shape)
        return (bases / np.linalg.norm(bases, axis=1, keepdims=True)).astype(np.float32)
    if len(shape) > 1:
        fan_in = np.prod(shape[1:])
        return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
    if name.endswith("weight"):
        return (rng.random(shape) * 0.5 + 0.5).astype(np.float32)
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)


def images(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Normalised images [n, h, w, 3], float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def labels(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Labels [n, h, w] of 4x4 patches, uint8; about a tenth of the pixels is ignored."""
    rng = np.random.default_rng(seed)
    n, h, w = shape
    patches = rng.integers(0, NUM_CLASSES, (n, h // 4 + 1, w // 4 + 1))
    full = patches.repeat(4, 1).repeat(4, 2)[:, :h, :w].astype(np.uint8)
    full[rng.random(full.shape) < 0.1] = IGNORE
    return full


def fingerprint(name: str, array: np.ndarray) -> np.ndarray:
    """Norm, and two random projections: seven digits of an array in three numbers."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    flat = np.asarray(array, np.float64).ravel()
    directions = rng.standard_normal((2, flat.size)) / max(np.sqrt(flat.size), 1)
    return np.array([np.linalg.norm(flat), *(directions @ flat)])
