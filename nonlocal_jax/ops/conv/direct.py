"""The convolution as XLA computes it, on every platform unless something else is faster."""

from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "n h w i"]
Kernel = Float[Array, "k k i o"]
Results = Float[Array, "n h_out w_out o"]


def direct_conv2d(x: Images, kernel: Kernel, stride: int, dilation: int) -> Results:
    """[n, ceil(h / stride), ceil(w / stride), o], padded by dilation * (k // 2) zeros."""
    padding = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
