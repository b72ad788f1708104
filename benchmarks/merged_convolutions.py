"""Whether the decode head's two convolutions of the same 2048 channels are faster as one.

    python benchmarks/merged_convolutions.py
    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/merged_convolutions.py --tpu=v5e:2x2

The first measures both on this machine, in turn, in the network's dtype here (float32 on a CPU).
The second prints the TPU compiler's own estimate, in bfloat16; it needs the package `libtpu`.
"""

import argparse
import re
import statistics
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from nonlocal_jax.ops.conv.conv2d import conv2d

INPUTS, OUTPUTS = 2048, 512
SHAPES = [(1, 64, 64), (1, 64, 96), (1, 64, 128), (1, 128, 256), (8, 64, 64)]


def apart(x: jax.Array, first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The head's first convolution with its ReLU, and its last one's part that reads its input."""
    return jax.nn.relu(conv2d(x, first)), conv2d(x, second)


def merged(x: jax.Array, both: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same as one convolution, whose result is split."""
    first, second = jnp.split(conv2d(x, both), 2, axis=-1)
    return jax.nn.relu(first), second


def main() -> None:
    """Prints a line for every shape of the features: images, height, width."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tpu", default="", help="A topology, e.g. v5e:2x2.")
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    for shape in SHAPES:
        x, kernel, both = (*shape, INPUTS), (3, 3, INPUTS, OUTPUTS), (3, 3, INPUTS, 2 * OUTPUTS)
        forms = {"apart": (apart, [x, kernel, kernel]), "merged": (merged, [x, both])}
        if args.tpu:
            print(shape, estimates(args.tpu, forms), flush=True)
        else:
            print(shape, medians(forms, args.runs), flush=True)


def medians(forms: dict, runs: int) -> str:
    """Milliseconds of each form on this machine, the forms alternated."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    calls, seconds = {}, {name: [] for name in forms}
    for name, (function, shapes) in forms.items():
        arrays = [jax.random.normal(jax.random.key(0), shape, dtype) for shape in shapes]
        calls[name] = jax.jit(function), arrays
        jax.block_until_ready(jax.jit(function)(*arrays))
    for _ in range(runs):
        for name, (function, arrays) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arrays))
            seconds[name].append(time.perf_counter() - start)
    return ", ".join(f"{n} {1e3 * statistics.median(s):.0f} ms" for n, s in seconds.items())


def estimates(topology: str, forms: dict) -> str:
    """Millions of cycles that the TPU's compiler expects of each form on one chip."""
    description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    chip = jax.sharding.SingleDeviceSharding(description.devices[0])
    cycles = {}
    for name, (function, shapes) in forms.items():
        arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=chip) for shape in shapes]
        text = jax.jit(function).lower(*arrays).compile().as_text()
        cycles[name] = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text))) / 1e6
    return ", ".join(f"{name} {millions:.2f}M cycles" for name, millions in cycles.items())


if __name__ == "__main__":
    main()
