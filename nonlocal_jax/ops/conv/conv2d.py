"""The convolution of all networks: odd square kernels, padded by half a kernel.

The algorithm depends on the platform. On a CPU, 3x3 convolutions of many channels and their
gradients use Winograd's matrix products. Other weight gradients are one matrix product for each tap
of the kernel. XLA's own algorithms are two and four times slower. On GPUs, the weight gradient of a
dilated convolution is computed over its phases (see dilated.py), because XLA uses a convolution
whose window is as large as the image. In all other cases XLA computes the convolution.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from nonlocal_jax.ops.conv import dilated
from nonlocal_jax.ops.conv.direct import Images, Kernel, Results, direct_conv2d
from nonlocal_jax.ops.conv.products import weight_gradient_by_taps
from nonlocal_jax.ops.conv.winograd import winograd_conv2d, winograd_weight_gradient
from nonlocal_jax.ops.dims import known

# With fewer channels or pixels, Winograd's transforms cost more than they save.
WINOGRAD_CHANNELS, WINOGRAD_PIXELS = 64, 1024
# cuDNN's kernels for 16-bit floats read eight channels at a time.
GPU_CHANNELS = 8
# cuDNN's convolutions are launched one by one. A launch takes the time that moving so much takes.
# Products are launched together, as a graph.
LAUNCH_BYTES = 40e6


def conv2d(
    x: Images, kernel: Kernel, *, stride: int = 1, dilation: int = 1, biased: bool = False
) -> Results:
    """2D convolution without bias, as in PyTorch with `padding = dilation * (k // 2)`.

    Returns [n, ceil(h / stride), ceil(w / stride), o] in the dtype of `x`. Where a bias follows
    (`biased`), a GPU computes a large 1x1 convolution with cuDNN, which adds the bias and the
    shortcut and applies the ReLU before it writes the result.
    """
    if kernel.shape[0] == 1 and _may_round() and known(*x.shape):
        return _conv1x1(x, kernel, stride, biased)
    convolve = partial(_conv2d, stride=stride, dilation=dilation)
    if x.shape[-1] >= GPU_CHANNELS or x.dtype.itemsize > 2:
        return convolve(x, kernel)

    def padded(x: Images, kernel: Kernel) -> Results:
        missing = GPU_CHANNELS - x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
        return convolve(x, jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0))))

    y: Results = lax.platform_dependent(x, kernel, cuda=padded, default=convolve)
    return y


def _conv1x1(x: Images, kernel: Kernel, stride: int, biased: bool) -> Results:
    def product(x: Images, kernel: Kernel) -> Results:
        return jnp.einsum("nhwi,io->nhwo", x[:, ::stride, ::stride], kernel[0, 0])

    if not biased or not _suits_cudnn(x, kernel, stride):
        return product(x, kernel)
    direct = partial(direct_conv2d, stride=stride, dilation=1)
    y: Results = lax.platform_dependent(x, kernel, cuda=direct, default=product)
    return y


def _suits_cudnn(x: Images, kernel: Kernel, stride: int) -> bool:
    """Whether a 1x1 convolution with a bias and a shortcut is faster with cuDNN."""
    inputs, outputs = kernel.shape[2:]
    pixels = x.size // inputs // stride**2
    moved = pixels * (inputs + 2 * outputs) * x.dtype.itemsize
    return outputs % GPU_CHANNELS == 0 and moved >= LAUNCH_BYTES


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x: Images, kernel: Kernel, stride: int, dilation: int) -> Results:
    direct = partial(direct_conv2d, stride=stride, dilation=dilation)
    if not _suits_winograd(x, kernel, stride):
        return direct(x, kernel)
    winograd = partial(winograd_conv2d, dilation=dilation)
    y: Results = lax.platform_dependent(x, kernel, cpu=winograd, default=direct)
    return y


def _may_round() -> bool:
    """Whether forms other than the direct convolution are exact enough.

    Winograd's rounding errors are about ten times those of a direct convolution. So it is not used
    with jax_default_matmul_precision "high" or "highest".
    """
    asked: str | None = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return asked in (None, "default")


def _suits_winograd(x: Images, kernel: Kernel, stride: int) -> bool:
    """Whether Winograd's algorithm is faster on a CPU, and exact enough."""
    return (
        kernel.shape[:2] == (3, 3)
        and stride == 1
        and min(kernel.shape[2:]) >= WINOGRAD_CHANNELS
        and known(*x.shape)
        and x.size // x.shape[-1] >= WINOGRAD_PIXELS
        and x.dtype == jnp.float32
        and _may_round()
    )


def _forward(
    x: Images, kernel: Kernel, stride: int, dilation: int
) -> tuple[Results, tuple[Images, Kernel]]:
    return _conv2d(x, kernel, stride, dilation), (x, kernel)


def _backward(
    stride: int, dilation: int, residuals: tuple[Images, Kernel], grad: Results
) -> tuple[Images, Kernel]:
    x, kernel = residuals

    def of_input(x: Images, kernel: Kernel, grad: Results) -> Images:
        forward = partial(direct_conv2d, kernel=kernel, stride=stride, dilation=dilation)
        transposed: tuple[Images] = jax.linear_transpose(forward, x)(grad)
        return transposed[0]

    def native(x: Images, kernel: Kernel, grad: Results) -> tuple[Images, Kernel]:
        forward = partial(direct_conv2d, x, stride=stride, dilation=dilation)
        return of_input(x, kernel, grad), jax.linear_transpose(forward, kernel)(grad)[0]

    def by_taps(x: Images, kernel: Kernel, grad: Results) -> tuple[Images, Kernel]:
        of_kernel = weight_gradient_by_taps(x, grad, kernel.shape[0], stride, dilation)
        return of_input(x, kernel, grad), of_kernel

    def winograd(x: Images, kernel: Kernel, grad: Results) -> tuple[Images, Kernel]:
        turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        return (
            winograd_conv2d(grad, turned, dilation),
            winograd_weight_gradient(x, grad, dilation),
        )

    def by_phases(x: Images, kernel: Kernel, grad: Results) -> tuple[Images, Kernel]:
        of_kernel = dilated.weight_gradient(x, grad, kernel, dilation=dilation)
        return of_input(x, kernel, grad), of_kernel

    on_cpu = winograd if _suits_winograd(x, kernel, stride) else by_taps

    on_gpu = by_phases if dilation > 1 and stride == 1 else native
    gradients: tuple[Images, Kernel] = lax.platform_dependent(
        x, kernel, grad, cpu=on_cpu, cuda=on_gpu, default=native
    )
    return gradients


_conv2d.defvjp(_forward, _backward)
