"""What a command does before JAX runs anything: cache, precision, and a check for GPUs."""

import importlib.util
import logging
import os
import pathlib
import pkgutil
import sys

import jax

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import compilation
from nonlocal_jax.runtime.console import say

NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
PCI_VENDORS = "/sys/bus/pci/devices"
GOOGLE = "0x1ae0"
GPUS = ("cuda", "gpu", "rocm")
KERNELS = {"cudnn": "gpu", "pallas": "tpu"}
PLATFORMS = ("cpu", *GPUS, "tpu")


def use_jax(precision: str = "default", *, log_kernels: bool = False) -> None:
    """Sets JAX's cache of compiled programs and the precision of matrix products.

    Call this before anything uses a device. It prints a message if JAX cannot use the GPU.

    Args:
      precision: `config.precision`.
      log_kernels: whether the log says which kernels are chosen.

    Raises:
      UserError: JAX_PLATFORMS names what this installation of JAX can't use.
    """
    _check_platforms(os.environ.get("JAX_PLATFORMS", ""))
    if log_kernels:
        kernels = logging.getLogger("nonlocal_jax.ops")
        kernels.setLevel(logging.INFO)
        kernels.handlers, kernels.propagate = [_Say()], False
    compilation.use_cache()
    if precision != "default":
        jax.config.update("jax_default_matmul_precision", precision)
    if not os.environ.get("JAX_PLATFORMS"):
        if _has_only_an_unused_libtpu():
            jax.config.update("jax_platforms", "cpu")  # libtpu would complain at length
        if message := unused_gpu():
            sys.stderr.write(f"nonlocal_jax: {message}\n")


def check_kernel(model: schema.Model) -> None:
    """Checks that the attention kernel that a config names runs on this process's devices.

    Raises:
      UserError: it is of another platform, or not for the config's dtype.
    """
    kernel, platform = getattr(model.decode_head, "implementation", "auto"), jax.default_backend()
    if KERNELS.get(kernel, platform) != platform:
        raise UserError(
            f"config.model.decode_head.implementation is {kernel!r}, which runs on a "
            f"{KERNELS[kernel].upper()} alone, and this is a {platform.upper()}. Leave it at auto."
        )
    if kernel == "cudnn" and model.dtype in ("float32", "float64"):
        raise UserError(
            "config.model.decode_head.implementation is 'cudnn', which computes in 16 bits, and "
            f"config.model.dtype is {model.dtype}. Set one of them to auto."
        )


class _Say(logging.Handler):
    """Prints messages as the commands' own."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def _check_platforms(names: str) -> None:
    """Raises a UserError for a platform that JAX doesn't know, or has no plugin for."""
    for name in filter(None, names.split(",")):
        if name not in PLATFORMS and not _plugins():
            raise UserError(f"JAX_PLATFORMS is {names!r}; JAX has {', '.join(PLATFORMS)}.")
        if name in GPUS and not _plugins():
            raise UserError(
                f"JAX_PLATFORMS is {names!r}, and JAX's part for GPUs is not installed: "
                'pip install "nonlocal_jax[cuda13]", or unset it.'
            )
        if name == "tpu" and importlib.util.find_spec("libtpu") is None:
            raise UserError(
                f"JAX_PLATFORMS is {names!r}, and JAX's part for TPUs is not installed: "
                'pip install "nonlocal_jax[tpu]", or unset it.'
            )


def unused_gpu() -> str:
    """A message about a GPU that JAX has no plugin for; empty if there is no such GPU."""
    gpu = next((path for path in NVIDIA if pathlib.Path(path).exists()), None)
    if gpu is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "" or _plugins():
        return ""
    return (
        f"This machine has an NVIDIA GPU ({gpu}), but JAX can't use it and runs on the CPU. "
        'Install JAX\'s part for it: pip install "nonlocal_jax[cuda13]", or [cuda12] for a driver '
        "older than 580."
    )


def _has_only_an_unused_libtpu() -> bool:
    """Whether libtpu is installed, which `plan` needs, on a machine without TPU and GPU."""
    return not _plugins() and importlib.util.find_spec("libtpu") is not None and not _has_tpu()


def _has_tpu() -> bool:
    vendors = pathlib.Path(PCI_VENDORS).glob("*/vendor")
    return any(vendor.read_text().strip() == GOOGLE for vendor in vendors)


def _plugins() -> list[str]:
    """The installed JAX plugins for other devices."""
    spec = importlib.util.find_spec("jax_plugins")
    folders = spec.submodule_search_locations if spec else None
    return [module.name for module in pkgutil.iter_modules(folders or [])]
