"""Normalises pixels on the device, so the host sends a quarter of the bytes."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from nonlocal_jax.ops.padding import zero_outside

# Mean and standard deviation of ImageNet's RGB values, as every published row used them.
MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)
# The video models have one number for all channels.
VIDEO_MEAN, VIDEO_STD = 114.75, 57.375


def normalize(
    images: Real[Array, "n h w 3"], size: Int[Array, "n 2"] | None = None
) -> Float[Array, "n h w 3"]:
    """Normalised float32 images, from values of 0 to 255; beyond `size` (height, width) they are 0.

    The reference pads after normalising, so its padding is the mean colour, not black.
    """
    normalized = (images.astype(jnp.float32) - jnp.array(MEAN_RGB)) / jnp.array(STD_RGB)
    return zero_outside(normalized, size)


def normalize_clips(clips: Real[Array, "n t h w 3"]) -> Float[Array, "n t h w 3"]:
    """Normalised float32 clips of the video models, from values of 0 to 255."""
    return (clips.astype(jnp.float32) - VIDEO_MEAN) / VIDEO_STD
