"""TPU chips and slices of them, described to the compiler without having one."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from nonlocal_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip's published figures: cloud.google.com/tpu/docs/v4 and so on; the links of v4, six of
    50 GB/s, are from arXiv 2304.01433.

    Attributes:
      flops: peak of bfloat16 products, per second.
      hbm: bytes of memory.
      hbm_bandwidth: bytes a second between memory and chip.
      ici_bandwidth: bytes a second to other chips of the slice, over all links, one way.
      dimensions: of the grid or torus that chips form.
      cores: the compiler's name of how a chip's cores are used: as one device.
      largest: chips along the axes of the largest slice.
    """

    flops: float
    hbm: int
    hbm_bandwidth: float
    ici_bandwidth: float
    dimensions: int
    cores: str
    largest: tuple[int, ...]


CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1200e9, 300e9, 3, "megacore", (12, 16, 16)),
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, 2, "default", (16, 16)),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, 3, "megacore", (16, 16, 24)),
    "v6e": Chip(918e12, 32 * GIB, 1640e9, 400e9, 2, "default", (16, 16)),
}


# Peak of dense bfloat16 products per second, as published, by the beginning of jax's name of the
# device.
PEAKS = {
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak(device_kind: str) -> float | None:
    """Peak of dense bfloat16 products per second of a kind of device; None where it is unknown."""
    known = [name for name in PEAKS if device_kind.startswith(name)]
    return PEAKS[max(known, key=len)] if known else None


@dataclasses.dataclass(frozen=True)
class Slice:
    """A part of a TPU pod.

    Attributes:
      name: such as "v5e:4x4".
      chip: its kind.
      shape: chips along each axis.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many chips there are."""
        return math.prod(self.shape)

    @property
    def host_shape(self) -> tuple[int, int, int]:
        """Chips of one host along three axes."""
        x, y, z = (*self.shape, 1, 1)[:3]
        if self.chip.dimensions == 2 and self.chips <= 8:
            return x, y, z
        return min(x, 2), min(y, 2), 1


def parse(name: str) -> Slice:
    """The slice that a name such as "v5e:4x4" or "v4:2x2x4" describes.

    Raises:
      UserError: there is no such slice.
    """
    examples = "v4:2x2x1, v5e:4x4, v5e:16x16, v5p:4x4x4 and v6e:2x4"
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match or match[1] not in CHIPS:
        raise UserError(
            f"--topology={name} is unknown: it is one of {', '.join(CHIPS)}, a colon, and the "
            f"chips along each axis, such as {examples}."
        )
    chip, shape = CHIPS[match[1]], tuple(int(part) for part in match[2].split("x"))
    if len(shape) != chip.dimensions:
        raise UserError(
            f"--topology={name}: {match[1]} slices have {chip.dimensions} axes, as {examples}."
        )
    limits = sorted(chip.largest)
    if min(shape) < 1 or any(a > b for a, b in zip(sorted(shape), limits, strict=True)):
        largest = "x".join(str(length) for length in chip.largest)
        raise UserError(f"--topology={name}: the largest {match[1]} slice is {largest}.")
    return Slice(name, chip, shape)


def check_compiler() -> None:
    """Raises a UserError if the TPU's compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "The plan needs the TPU's compiler, though no TPU, and libtpu is not installed: "
            f"pip install '{matching_libtpu()}', or pip install 'nonlocal_jax[tpu]'."
        )


def matching_libtpu() -> str:
    """The requirement of the installed JAX for its TPU compiler: "libtpu==0.0.42.*"."""
    requirements = importlib.metadata.requires("jax") or []
    found = [r.partition(";")[0].strip() for r in requirements if r.startswith("libtpu")]
    return found[0] if found else "libtpu"


@functools.cache
def devices(a_slice: Slice) -> Sequence[jax.Device]:
    """Devices of a slice that programs can be compiled for, but not run on.

    Raises:
      UserError: the compiler does not know the slice.
    """
    check_compiler()
    try:
        description = topologies.get_topology_desc(
            platform="tpu",
            topology_name=a_slice.name,
            chip_config_name=a_slice.chip.cores,
            chips_per_host_bounds=a_slice.host_shape,
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--topology={a_slice.name} is none that the TPU's compiler knows: {reason}"
        ) from error
    return description.devices
