"""Dilated convolutions as ordinary ones: by d^2 phases of the image.

In a convolution with dilation d, pixels with row r and column c modulo d are never combined with
pixels of another phase (r, c). So a dilated convolution is an ordinary one over the d^2 phases, as
images of a larger batch (space-to-batch, as in the reference code of arXiv 1511.07122).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "n h w i"]
Kernel = Float[Array, "k k i o"]
Results = Float[Array, "n h w o"]


def to_phases(x: Float[Array, "n h w c"], dilation: int) -> Float[Array, "phases h_out w_out c"]:
    """[n, h, w, c] to [n * d * d, ceil(h / d), ceil(w / d), c], zeros where d divides no axis.

    The phases of an image are adjacent, so a sharded batch axis stays sharded.
    """
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % dilation), (0, -width % dilation), (0, 0)))
    rows, columns = x.shape[1] // dilation, x.shape[2] // dilation
    x = x.reshape(n, rows, dilation, columns, dilation, channels).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(n * dilation**2, rows, columns, channels)


def weight_gradient(x: Images, grad: Results, kernel: Kernel, *, dilation: int) -> Kernel:
    """Gradient of a stride-1 convolution's kernel, from the gradient of its output.

    The zeros that fill up the phases add nothing: the convolution pads its input with zeros anyway,
    and the gradient of outputs in the padding is zero.

    Args:
      x: the convolution's input.
      grad: [n, h, w, o], of its output.
      kernel: only its shape and dtype matter.
      dilation: of the convolution.
    """
    padding = kernel.shape[0] // 2

    def undilated(kernel: Kernel) -> Float[Array, "phases h w o"]:
        return lax.conv_general_dilated(
            to_phases(x, dilation),
            kernel,
            window_strides=(1, 1),
            padding=[(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    of_kernel: tuple[Kernel] = jax.linear_transpose(undilated, kernel)(to_phases(grad, dilation))
    return of_kernel[0]
