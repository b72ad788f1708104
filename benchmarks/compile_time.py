"""How long a row's train step takes to be ready, here, or to compile for a TPU that is elsewhere.

    python benchmarks/compile_time.py --config=configs/voc12aug_r50_20k.py
    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/compile_time.py \\
        --config=configs/cityscapes_r50_512x1024_40k.py --config.batch_size=2 --tpu=v5e:2x2

Here it is traced and compiled, or found among what an earlier start has kept: name an empty folder
in JAX_COMPILATION_CACHE_DIR for a first start. For a TPU, which needs the package `libtpu`, one
chip of the topology gets the whole batch, and the compiler's own estimate of the step is printed,
too: cycles an image (Pallas kernels count as 0).
"""

import re
import time

import jax
import numpy as np
from absl import flags
from jax.experimental import topologies

from nonlocal_jax.config import command_line
from nonlocal_jax.runtime import compilation, sharding
from nonlocal_jax.training import compiled_step

_TPU = flags.DEFINE_string("tpu", "", "A topology, e.g. v5e:2x2; by default this machine.")


def main() -> None:
    """Prints one line."""
    config = command_line.config()
    compilation.keep_programs(jax.config.jax_compilation_cache_dir)
    devices = jax.devices()
    if _TPU.value:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=_TPU.value).devices
    mesh = jax.sharding.Mesh(np.array(devices[:1]).reshape(1, 1, 1), sharding.AXES)
    network, optimizer = (
        compiled_step.network_on(config, mesh),
        compiled_step.make_optimizer(config),
    )
    step = config, network, optimizer, mesh
    start, busy = time.perf_counter(), time.process_time()
    if _TPU.value:
        compiled = compiled_step.lower_train_step(*step).compile()
    else:
        compiled = compiled_step.compile_train_step(*step)
    took, busy = time.perf_counter() - start, time.process_time() - busy
    print(
        f"{command_line.config_name()}, {config.batch_size} images: ready after {took:.1f} s ({busy:.1f} s "
        f"of CPU time), temporaries {compiled.memory_analysis().temp_size_in_bytes / 1e9:.2f} GB"
    )
    cycles = re.findall(r'"estimated_cycles":"(\d+)"', compiled.as_text()) if _TPU.value else []
    if cycles:
        print(f"{sum(map(int, cycles)) / config.batch_size / 1e6:.2f}M estimated cycles an image")


if __name__ == "__main__":
    command_line.run(main)
