"""Eight simulated devices, quick compilation, strict dtype promotion, and real images if any.

With NONLOCAL_JAX_TEST_DEVICE=gpu (`make test-gpu`) the tests run on the GPU that is there. A GPU
rounds the factors of float32 products to TF32 unless told otherwise. So there the suite runs in
float32 at precision "highest", and its bounds are wider (support/device.py). What the default
precision may be off by is in ops/test_gpu_arithmetic.py.
"""

import functools
import importlib.metadata
import os
import pathlib
import signal

from device import ON_GPU, ROUNDING

# Most of the suite's time is XLA's compiler: machine code that is made fast, not run fast.
if ON_GPU:
    QUICK = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share it
else:
    QUICK = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones lack the flag
        QUICK += " --xla_cpu_use_fusion_emitters=false"
    # The TPU's compiler may be installed, to compile for described slices; there is no TPU to find.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}"

import jax
import numpy as np
import pytest
import typechecked
from absl import flags

typechecked.install()
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # Under nohup. Processes that tests start inherit an ignored signal, and a handled one not.
    signal.signal(signal.SIGHUP, lambda number, frame: None)
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def _assert_allclose(plain, actual, desired, rtol=1e-7, atol=0, **options):
    """`np.testing.assert_allclose` with wider bounds."""
    plain(actual, desired, rtol * ROUNDING, atol * ROUNDING, **options)


flags.FLAGS.mark_as_parsed()  # grain reads absl flags
jax.config.update("jax_numpy_dtype_promotion", "strict")
if ON_GPU:
    jax.config.update("jax_default_matmul_precision", "highest")
    np.testing.assert_allclose = functools.partial(_assert_allclose, np.testing.assert_allclose)


# Modules whose tests compile much or start processes; `make quick` leaves them out.
SLOW = {
    "checkpoints": (
        "backbones",
        "caffe2",
        "caffe2_fuzz",
        "convert",
        "convert_command",
        "hub",
        "hub_download",
        "hub_pytorch_names",
        "run",
        "torch_file",
        "torch_file_fuzz",
        "versions",
    ),
    "commands": ("commands", "demo", "package"),
    "evaluation": ("evaluate", "inference", "predict", "video"),
    "inputs": ("data_prepare", "data_prepare_killed", "loader", "loader_memory", "scenes"),
    "exporting": ("page", "page_own_picture", "page_video"),
    "models": (
        "attention_factors",
        "fold",
        "heads",
        "heads_attention",
        "model",
        "non_local",
        "padding",
        "precision",
        "recognizer",
        "remat",
        "scanning",
        "video",
    ),
    "ops": (
        "attention",
        "attention_kernels",
        "conv2d",
        "conv3d",
        "dilated",
        "gpu_arithmetic",
        "taps",
    ),
    "performance": (
        "benchmark",
        "benchmarks_gpu",
        "gpu_lowering",
        "hlo",
        "memory",
        "plan",
        "video",
    ),
    "runtime": ("compilation", "distributed", "launch", "roll_call", "sharding"),
    "serving": ("engine", "serve"),
    "tests": ("docs", "extending"),
    "training": (
        "caffe2_sgd",
        "faults",
        "starting_weights",
        "train",
        "train_step",
        "video_training",
        "workdir",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of slow modules."""
    slow = {(room, f"test_{name}") for room, names in SLOW.items() for name in names}
    for item in items:
        if (item.path.parent.name, item.path.stem) in slow:
            item.add_marker("slow")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to pass for a GPU what a CPU did."""
    if ON_GPU:
        config.pluginmanager.register(FailuresAtOnce(config))
    if ON_GPU and jax.default_backend() != "gpu":
        raise pytest.UsageError("JAX sees no GPU here: pip install 'jax[cuda13]', or make test.")


class FailuresAtOnce:
    """Tells what failed when it fails: a GPU's time may be up before the summary."""

    def __init__(self, config: pytest.Config):
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of one process with pytest-xdist, which gets the reports of all."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal:
            terminal.write_line(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what the devices that are here can't run, and says why."""
    for mark in item.iter_markers("devices"):
        if jax.device_count() < mark.args[0]:
            pytest.skip(f"needs {mark.args[0]} devices; there are {jax.device_count()}")
    for mark in item.iter_markers("cpu"):
        if jax.default_backend() != "cpu":
            pytest.skip(f"is about the CPU: {mark.args[0]}")


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
