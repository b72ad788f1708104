"""Dilated convolutions as ordinary ones: by d^2 phases of the image.

Pixels whose row is r and whose column is c modulo d never meet, in a convolution with dilation d,
those of another phase (r, c). So the d^2 phases, taken as images of a larger batch, see the same
kernel without dilation (space-to-batch, as in arXiv 1511.07122's reference code).
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

    An image's phases stand together, so that a batch axis that is sharded stays so.
    """
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % dilation), (0, -width % dilation), (0, 0)))
    rows, columns = x.shape[1] // dilation, x.shape[2] // dilation
    x = x.reshape(n, rows, dilation, columns, dilation, channels).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(n * dilation**2, rows, columns, channels)


def weight_gradient(x: Images, grad: Results, kernel: Kernel, *, dilation: int) -> Kernel:
    """Gradient of a stride-1 convolution's kernel, from the gradient of its output.

    Zeros that fill the phases up add nothing: the convolution pads its input with zeros anyway,
    and no gradient comes from outputs that are not there.

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
