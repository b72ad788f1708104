"""What a command does before JAX runs anything: kept programs, precision, and what is missing."""

import importlib.util
import logging
import os
import pathlib
import pkgutil
import sys

import jax

from nonlocal_jax.runtime import compilation

NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
PCI_VENDORS = "/sys/bus/pci/devices"
GOOGLE = "0x1ae0"


def use_jax(precision: str = "default", *, log_kernels: bool = False) -> None:
    """Lets JAX keep compiled programs, and compute matrix products as the config wants them.

    Call this before anything uses a device. A GPU that JAX can't use is told.

    Args:
      precision: `config.precision`.
      log_kernels: whether the log says which kernels are chosen.
    """
    if log_kernels:
        logging.getLogger("nonlocal_jax").setLevel(logging.INFO)
    compilation.use_cache()
    if precision != "default":
        jax.config.update("jax_default_matmul_precision", precision)
    if not os.environ.get("JAX_PLATFORMS"):
        if _has_only_an_unused_libtpu():
            jax.config.update("jax_platforms", "cpu")  # libtpu would complain at length
        if message := unused_gpu():
            sys.stderr.write(f"nonlocal_jax: {message}\n")


def unused_gpu() -> str:
    """What to do about a GPU that JAX has no plugin for; empty if there is none."""
    gpu = next((path for path in NVIDIA if pathlib.Path(path).exists()), None)
    if gpu is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "" or _plugins():
        return ""
    return (
        f"This machine has an NVIDIA GPU ({gpu}), but JAX can't use it and runs on the CPU. "
        'Install JAX\'s part for it: pip install "nonlocal_jax[cuda13]", or [cuda12] for a driver '
        "older than 580."
    )


def _has_only_an_unused_libtpu() -> bool:
    """Whether libtpu is installed, as `plan` needs it, on a machine without a TPU or a GPU."""
    return not _plugins() and importlib.util.find_spec("libtpu") is not None and not _has_tpu()


def _has_tpu() -> bool:
    vendors = pathlib.Path(PCI_VENDORS).glob("*/vendor")
    return any(vendor.read_text().strip() == GOOGLE for vendor in vendors)


def _plugins() -> list[str]:
    """JAX's plugins for other devices that are installed."""
    spec = importlib.util.find_spec("jax_plugins")
    folders = spec.submodule_search_locations if spec else None
    return [module.name for module in pkgutil.iter_modules(folders or [])]
