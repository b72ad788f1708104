"""Convolutions of clips, computed as convolutions of images.

    kernel (t, h, w)   computed as
    1 x k x k          conv2d of all frames as one batch of images
    k x 1 x 1          a k x 1 convolution over frames and positions, [n, t, h * w, c]
    k x k x k          conv2d of images whose channels are those of k neighbouring frames

XLA's own 3D convolutions are slow on a CPU. On two cores, for a clip of 8 frames of 224 pixels, the
5x7x7 convolution of the stem takes 564 ms, and 69 ms here; with the gradient of its kernel, 1587
and 177 ms. 1x3x3 convolutions are two to four times faster, too.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nonlocal_jax.ops.conv.conv2d import conv2d
from nonlocal_jax.ops.dtypes import wide

Clips = Float[Array, "n t h w i"]
Kernel = Float[Array, "kt k k i o"]
TimeKernel = Float[Array, "kt i o"]
Results = Float[Array, "n t_out h_out w_out o"]


def conv3d(
    x: Clips, kernel: Kernel, *, stride: int = 1, time_stride: int = 1, biased: bool = False
) -> Results:
    """3D convolution without bias, padded by half a kernel on each axis.

    Args:
      x: clips.
      kernel: odd sizes; height and width are equal.
      stride: of height and width.
      time_stride: of frames.
      biased: whether a bias follows; see `conv2d`.

    Returns:
      [n, ceil(t / time_stride), ceil(h / stride), ceil(w / stride), o] in the dtype of `x`.
    """
    taps, size = kernel.shape[:2]
    if size == 1 and taps > 1 and stride == time_stride == 1:
        return _over_time(x, kernel[:, 0, 0])
    frames = _neighbours(x, taps, time_stride)
    flat = jnp.moveaxis(kernel, 0, 2).reshape(size, size, -1, kernel.shape[-1])
    images = frames.reshape(-1, *frames.shape[2:])
    y = conv2d(images, flat, stride=stride, biased=biased)
    return y.reshape(*frames.shape[:2], *y.shape[1:])


def _neighbours(x: Clips, taps: int, stride: int) -> Float[Array, "n t_out h w taps_i"]:
    """The channels of `taps` neighbouring frames side by side, for every `stride`-th frame."""
    frames, around = x.shape[1], taps // 2
    x = jnp.pad(x, ((0, 0), (around, around), (0, 0), (0, 0), (0, 0)))
    return jnp.concatenate([x[:, tap : tap + frames : stride] for tap in range(taps)], axis=-1)


@jax.custom_vjp
def _over_time(x: Clips, kernel: TimeKernel) -> Results:
    """A k x 1 x 1 convolution."""
    return _as_images(x, kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _as_images(x: Clips, kernel: TimeKernel) -> Float[Array, "n t hw o"]:
    n, frames, height, width, channels = x.shape
    around = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x.reshape(n, frames, height * width, channels),
        kernel[:, None],
        window_strides=(1, 1),
        padding=[(around, around), (0, 0)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x: Clips, kernel: TimeKernel) -> tuple[Results, tuple[Clips, TimeKernel]]:
    return _over_time(x, kernel), (x, kernel)


def _backward(residuals: tuple[Clips, TimeKernel], grad: Results) -> tuple[Clips, TimeKernel]:
    """The gradient of the kernel is a matrix product for each tap on a CPU, as in conv2d.py."""
    x, kernel = residuals
    of_input = _over_time(grad, jnp.swapaxes(kernel[::-1], 1, 2))

    def by_taps(x: Clips, grad: Results) -> TimeKernel:
        frames, around = x.shape[1], kernel.shape[0] // 2
        padded = jnp.pad(x, ((0, 0), (around, around), (0, 0), (0, 0), (0, 0)))
        products = [
            jnp.einsum(
                "nthwi,nthwo->io",
                padded[:, tap : tap + frames],
                grad,
                preferred_element_type=wide(x.dtype),
            )
            for tap in range(kernel.shape[0])
        ]
        return jnp.stack(products).astype(kernel.dtype)

    def native(x: Clips, grad: Results) -> TimeKernel:
        flat = grad.reshape(*grad.shape[:2], -1, grad.shape[-1])
        transposed: tuple[TimeKernel] = jax.linear_transpose(lambda k: _as_images(x, k), kernel)(
            flat
        )
        return transposed[0]

    of_kernel: TimeKernel = lax.platform_dependent(x, grad, cpu=by_taps, default=native)
    return of_input, of_kernel


_over_time.defvjp(_forward, _backward)
