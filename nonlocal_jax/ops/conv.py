"""The network's one convolution: odd square kernels, padded so that only the stride shrinks.

Its gradients are XLA's own, but for the weight gradient on CPU: XLA computes that one about four
times slower than one matrix product per kernel tap takes.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nonlocal_jax.ops.dtypes import wide

Images = Float[Array, "n h w i"]
Kernel = Float[Array, "k k i o"]


def conv2d(x: Images, kernel: Kernel, *, stride: int = 1, dilation: int = 1) -> Images:
    """2D convolution without bias, as PyTorch's with `padding = dilation * (k // 2)`.

    Returns [n, ceil(h / stride), ceil(w / stride), o] in the dtype of `x`.
    """
    return _conv2d(x, kernel, stride, dilation)


def _xla_conv2d(x: Images, kernel: Kernel, stride: int, dilation: int) -> Images:
    padding = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x: Images, kernel: Kernel, stride: int, dilation: int) -> Images:
    return _xla_conv2d(x, kernel, stride, dilation)


def _forward(
    x: Images, kernel: Kernel, stride: int, dilation: int
) -> tuple[Images, tuple[Images, Kernel]]:
    return _xla_conv2d(x, kernel, stride, dilation), (x, kernel)


def _backward(
    stride: int, dilation: int, residuals: tuple[Images, Kernel], grad: Images
) -> tuple[Images, Kernel]:
    x, kernel = residuals
    (grad_x,) = jax.vjp(lambda x: _xla_conv2d(x, kernel, stride, dilation), x)[1](grad)

    def native(x: Images, grad: Images) -> Kernel:
        (grad_kernel,) = jax.vjp(lambda k: _xla_conv2d(x, k, stride, dilation), kernel)[1](grad)
        return grad_kernel

    def by_taps(x: Images, grad: Images) -> Kernel:
        return _weight_gradient_by_taps(x, grad, kernel.shape[0], stride, dilation)

    return grad_x, lax.platform_dependent(x, grad, cpu=by_taps, default=native)


_conv2d.defvjp(_forward, _backward)


def _weight_gradient_by_taps(
    x: Images, grad: Images, size: int, stride: int, dilation: int
) -> Kernel:
    """Each tap of the kernel met one shifted, strided view of the input: a matrix product each."""
    padding = dilation * (size // 2)
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    batch, height, width, _ = grad.shape
    accumulator = wide(x.dtype)

    def tap(row: int, column: int) -> Float[Array, "i o"]:
        top, left = row * dilation, column * dilation
        view = lax.slice(
            x,
            (0, top, left, 0),
            (batch, top + (height - 1) * stride + 1, left + (width - 1) * stride + 1, x.shape[3]),
            (1, stride, stride, 1),
        )
        product = jnp.einsum("nhwi,nhwo->io", view, grad, preferred_element_type=accumulator)
        return product.astype(x.dtype)

    taps = [[tap(row, column) for column in range(size)] for row in range(size)]
    return jnp.stack([jnp.stack(row) for row in taps])
