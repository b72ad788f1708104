"""Eight simulated devices, quick compilation, strict dtype promotion, and real images if any."""

import os
import pathlib

# Most of the suite's time is XLA's compiler: machine code that is made fast, not run fast.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

# The TPU's compiler may be installed, to compile for described slices; there is no TPU to look for.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
flags.FLAGS.mark_as_parsed()  # grain reads absl flags
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session")
def reference_python() -> str:
    """The Python of an environment with the PyTorch reference, for what `make parity` runs."""
    python = os.environ.get("NONLOCAL_JAX_PEER")
    if not python:
        pytest.skip("no reference: set NONLOCAL_JAX_PEER to a Python that has it (docs/parity.md)")
    return python


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real images and the PyTorch reference, where this machine has one."""
    folder = pathlib.Path(os.environ.get("NONLOCAL_JAX_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist (set NONLOCAL_JAX_SHARED)")
    return folder
