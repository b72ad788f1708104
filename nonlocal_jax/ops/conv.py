"""The network's one convolution: odd square kernels, padded so that only the stride shrinks.

What computes it depends on the platform. On a CPU, 3x3 convolutions of many channels and their
gradients are Winograd's matrix products, and other weight gradients one matrix product per kernel
tap: XLA's own are two and four times slower. On GPUs, the weight gradient of a dilated convolution
goes over its phases (see ops/dilated.py), because XLA's is not cuDNN's but a convolution with a
window as large as the image. Everything else is XLA's.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nonlocal_jax.ops import dilated
from nonlocal_jax.ops.dtypes import wide
from nonlocal_jax.ops.winograd import winograd_conv2d, winograd_weight_gradient

Images = Float[Array, "n h w i"]
Kernel = Float[Array, "k k i o"]

# Winograd's transforms cost as much as they save with fewer channels or pixels.
WINOGRAD_CHANNELS, WINOGRAD_PIXELS = 64, 1024


# cuDNN's kernels for 16-bit floats read eight channels at a time.
GPU_CHANNELS = 8
# A convolution of cuDNN's is launched by itself, which takes the time that moving so much takes;
# products are launched together, as a graph.
LAUNCH_BYTES = 40_000_000


def conv2d(
    x: Images, kernel: Kernel, *, stride: int = 1, dilation: int = 1, biased: bool = False
) -> Images:
    """2D convolution without bias, as PyTorch's with `padding = dilation * (k // 2)`.

    Returns [n, ceil(h / stride), ceil(w / stride), o] in the dtype of `x`. Where a bias follows
    (`biased`), a GPU computes a large 1x1 convolution as one, too: cuDNN adds the bias and the
    shortcut, and takes the ReLU, before it writes the result.
    """
    direct = partial(_direct, stride=stride, dilation=dilation)
    if kernel.shape[0] == 1 and _may_round():

        def product(x: Images, kernel: Kernel) -> Images:
            return jnp.einsum("nhwi,io->nhwo", x[:, ::stride, ::stride], kernel[0, 0])

        if not biased or not _suits_cudnn(x, kernel, stride):
            return product(x, kernel)
        return lax.platform_dependent(x, kernel, cuda=direct, default=product)
    convolve = partial(_conv2d, stride=stride, dilation=dilation)
    if x.shape[-1] >= GPU_CHANNELS or x.dtype.itemsize > 2:
        return convolve(x, kernel)

    def padded(x: Images, kernel: Kernel) -> Images:
        missing = GPU_CHANNELS - x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
        return convolve(x, jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0))))

    return lax.platform_dependent(x, kernel, cuda=padded, default=convolve)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x: Images, kernel: Kernel, stride: int, dilation: int) -> Images:
    direct = partial(_direct, stride=stride, dilation=dilation)
    if not _suits_winograd(x, kernel, stride):
        return direct(x, kernel)
    winograd = partial(winograd_conv2d, dilation=dilation)
    return lax.platform_dependent(x, kernel, cpu=winograd, default=direct)


def _direct(x: Images, kernel: Kernel, stride: int, dilation: int) -> Images:
    padding = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _suits_cudnn(x: Images, kernel: Kernel, stride: int) -> bool:
    """Whether a 1x1 convolution whose result meets a bias and a shortcut is faster as cuDNN's."""
    inputs, outputs = kernel.shape[2:]
    pixels = x.size // inputs // stride**2
    moved = pixels * (inputs + 2 * outputs) * x.dtype.itemsize
    return outputs % GPU_CHANNELS == 0 and moved >= LAUNCH_BYTES


def _may_round() -> bool:
    """Whether forms other than the direct convolution are exact enough.

    Winograd's rounding errors are some ten times those of a direct convolution, so that it is not
    for jax_default_matmul_precision "high" or "highest".
    """
    asked: str | None = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return asked in (None, "default")


def _suits_winograd(x: Images, kernel: Kernel, stride: int) -> bool:
    """Whether Winograd's form is faster on CPU, and as exact as was asked for."""
    return (
        kernel.shape[:2] == (3, 3)
        and stride == 1
        and min(kernel.shape[2:]) >= WINOGRAD_CHANNELS
        and x.size // x.shape[-1] >= WINOGRAD_PIXELS
        and x.dtype == jnp.float32
        and _may_round()
    )


def _forward(
    x: Images, kernel: Kernel, stride: int, dilation: int
) -> tuple[Images, tuple[Images, Kernel]]:
    return _conv2d(x, kernel, stride, dilation), (x, kernel)


def _backward(
    stride: int, dilation: int, residuals: tuple[Images, Kernel], grad: Images
) -> tuple[Images, Kernel]:
    x, kernel = residuals

    def of_input(x: Images, kernel: Kernel, grad: Images) -> Images:
        forward = partial(_direct, kernel=kernel, stride=stride, dilation=dilation)
        return jax.linear_transpose(forward, x)(grad)[0]

    def native(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
        forward = partial(_direct, x, stride=stride, dilation=dilation)
        return of_input(x, kernel, grad), jax.linear_transpose(forward, kernel)(grad)[0]

    def by_taps(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
        of_kernel = _weight_gradient_by_taps(x, grad, kernel.shape[0], stride, dilation)
        return of_input(x, kernel, grad), of_kernel

    def winograd(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
        turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        return (
            winograd_conv2d(grad, turned, dilation),
            winograd_weight_gradient(x, grad, dilation),
        )

    def by_phases(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
        of_kernel = dilated.weight_gradient(x, grad, kernel, dilation=dilation)
        return of_input(x, kernel, grad), of_kernel

    on_cpu = winograd if _suits_winograd(x, kernel, stride) else by_taps
    on_gpu = by_phases if dilation > 1 and stride == 1 else native
    return lax.platform_dependent(x, kernel, grad, cpu=on_cpu, cuda=on_gpu, default=native)


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
