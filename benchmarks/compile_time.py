"""Measures when a row's train step is ready here, or how long it compiles for a TPU.

    python benchmarks/compile_time.py --config=ade20k_r50_80k
    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/compile_time.py \\
        --config=cityscapes_r50_512x1024_40k --config.batch_size=2 --tpu=v5e:2x2

Here the step is traced, and compiled or read from JAX's cache. For a first start, name an empty
folder in JAX_COMPILATION_CACHE_DIR. For a TPU, which needs the package `libtpu`, one chip of the
topology gets the whole batch, and the compiler's own estimate of the step is printed, too: cycles
an image (Pallas kernels count as 0).
"""

import re
import sys
import time
from collections.abc import Sequence

import jax
from absl import flags
from jax.experimental import topologies

from nonlocal_jax.config import command_line, schema
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.runtime import sharding, startup
from nonlocal_jax.runtime.compilation import compiler_options
from nonlocal_jax.training.compiled_step import TrainProgram


def define(values: flags.FlagValues) -> None:
    """The program's own flags."""
    flags.DEFINE_string(
        "tpu", "", "A topology, e.g. v5e:2x2; by default this machine.", flag_values=values
    )


def main(options: Options) -> None:
    """Prints one line."""
    config = options.config
    startup.use_jax(config.precision)
    devices = jax.devices()
    if options.flags.tpu:
        described = topologies.get_topology_desc(platform="tpu", topology_name=options.flags.tpu)
        devices = list(described.devices)
    start, busy = time.perf_counter(), time.process_time()
    program = TrainProgram.of(config, sharding.make_mesh(schema.Mesh(), devices[:1]))
    traced = program.trace()
    tracing = time.perf_counter() - start
    platform = "tpu" if options.flags.tpu else devices[0].platform
    compiled = traced.lower().compile(compiler_options(platform, training=True))
    took, busy = time.perf_counter() - start, time.process_time() - busy
    memory = compiled.memory_analysis()
    assert memory is not None  # all platforms here tell it
    print(
        f"{options.config_name}, {config.batch_size} images: ready after {took:.1f} s "
        f"({tracing:.1f} s of tracing, {busy:.1f} s of CPU time), temporaries "
        f"{memory.temp_size_in_bytes / 1e9:.2f} GB"
    )
    cycles = re.findall(r'"estimated_cycles":"(\d+)"', compiled.as_text() or "")
    if cycles:
        print(f"{sum(map(int, cycles)) / config.batch_size / 1e6:.2f}M estimated cycles an image")


def run(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return command_line.run(main, define, config="required", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
