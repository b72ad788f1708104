"""The weight gradient of a convolution on CPUs: one matrix product per tap of the kernel."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nonlocal_jax.ops.conv.direct import Images, Kernel, Results
from nonlocal_jax.ops.dtypes import wide


def weight_gradient_by_taps(
    x: Images, grad: Results, size: int, stride: int, dilation: int
) -> Kernel:
    """One matrix product for each tap of the kernel, with a shifted, strided view of the input."""
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
