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


GBIT = 1e9 / 8


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip's published figures.

    They are from docs.cloud.google.com/tpu/docs/v4 and so on, those of tpu7x from /tpu/docs/tpu7x
    and compute/docs/tpus. The links of v4, six of 50 GB/s, are from arXiv 2304.01433. The share of
    v5e in the network between slices is that of its pod, 6.4 Tbit/s, over its 256 chips.

    Attributes:
      flops: peak of bfloat16 products, per second.
      hbm: bytes of memory.
      hbm_bandwidth: bytes a second between memory and chip.
      ici_bandwidth: bytes a second to other chips of the slice, over all links, one way.
      dcn_bandwidth: bytes a second to other slices, one way; None where no figure is known.
      dimensions: of the grid or torus that chips form.
      cores: the compiler's name of how a chip's cores are used.
      largest: chips along the axes of the largest slice.
      accelerator: GKE's name of the chip.
      machine: Google's name of a machine with four chips.
      cloud_name: Cloud TPU's names of slices begin with it, as v4-8; empty where it offers none.
      cores_in_name: cores of a chip that such a name counts.
      devices: devices that JAX sees in a chip; each has an equal part of all of the above.
    """

    flops: float
    hbm: int
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float | None
    dimensions: int
    cores: str
    largest: tuple[int, ...]
    accelerator: str
    machine: str
    cloud_name: str = ""
    cores_in_name: int = 1
    devices: int = 1

    @property
    def device(self) -> "Chip":
        """The figures of one of its devices."""
        dcn = self.dcn_bandwidth
        return dataclasses.replace(
            self,
            flops=self.flops / self.devices,
            hbm=self.hbm // self.devices,
            hbm_bandwidth=self.hbm_bandwidth / self.devices,
            ici_bandwidth=self.ici_bandwidth / self.devices,
            dcn_bandwidth=None if dcn is None else dcn / self.devices,
            devices=1,
        )


CHIPS = {
    "v4": Chip(
        flops=275e12,
        hbm=32 * GIB,
        hbm_bandwidth=1200e9,
        ici_bandwidth=300e9,
        dcn_bandwidth=None,
        dimensions=3,
        cores="megacore",
        largest=(12, 16, 16),
        accelerator="tpu-v4-podslice",
        machine="ct4p-hightpu-4t",
        cloud_name="v4",
        cores_in_name=2,
    ),
    "v5e": Chip(
        flops=197e12,
        hbm=16 * GIB,
        hbm_bandwidth=819e9,
        ici_bandwidth=200e9,
        dcn_bandwidth=25 * GBIT,
        dimensions=2,
        cores="default",
        largest=(16, 16),
        accelerator="tpu-v5-lite-podslice",
        machine="ct5lp-hightpu-4t",
        cloud_name="v5litepod",
    ),
    "v5p": Chip(
        flops=459e12,
        hbm=95 * GIB,
        hbm_bandwidth=2765e9,
        ici_bandwidth=600e9,
        dcn_bandwidth=50 * GBIT,
        dimensions=3,
        cores="megacore",
        largest=(16, 16, 24),
        accelerator="tpu-v5p-slice",
        machine="ct5p-hightpu-4t",
        cloud_name="v5p",
        cores_in_name=2,
    ),
    "v6e": Chip(
        flops=918e12,
        hbm=32 * GIB,
        hbm_bandwidth=1640e9,
        ici_bandwidth=400e9,
        dcn_bandwidth=100 * GBIT,
        dimensions=2,
        cores="default",
        largest=(16, 16),
        accelerator="tpu-v6e-slice",
        machine="ct6e-standard-4t",
        cloud_name="v6e",
    ),
    # Ironwood. A pod has 9216 chips.
    "tpu7x": Chip(
        flops=2307e12,
        hbm=192 * GIB,
        hbm_bandwidth=7380e9,
        ici_bandwidth=600e9,
        dcn_bandwidth=100 * GBIT,
        dimensions=3,
        cores="default",
        largest=(16, 24, 24),
        accelerator="tpu7x",
        machine="tpu7x-standard-4t",
        devices=2,
    ),
}


# Peak of dense bfloat16 products per second, as published, by the beginning of jax's name of the
# device.
PEAKS = {
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU7x": CHIPS["tpu7x"].device.flops,
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
    """A part of a TPU pod, or several equal ones that a slower network (DCN) joins.

    Attributes:
      name: such as "v5e:4x4".
      chip: its kind.
      shape: chips of a slice along each axis.
      slices: how many there are.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        """Such as "v5e:4x4" or "2 x v5e:4x4"."""
        return self.name if self.slices == 1 else f"{self.slices} x {self.name}"

    @property
    def chips(self) -> int:
        """How many chips all slices have."""
        return self.slices * math.prod(self.shape)

    @property
    def devices(self) -> int:
        """How many devices JAX sees in all slices."""
        return self.chips * self.chip.devices

    @property
    def host_shape(self) -> tuple[int, int, int]:
        """Chips of one host along three axes."""
        x, y, z = (*self.shape, 1, 1)[:3]
        if self.chip.dimensions == 2 and self.chips // self.slices <= 8:
            return x, y, z
        return min(x, 2), min(y, 2), 1

    @property
    def settings(self) -> str:
        """The settings of launch/ that ask for this, on Cloud TPU and on GKE."""
        chip, host = self.chip, math.prod(self.host_shape)
        each = self.chips // self.slices
        found = [
            f"SLICES={self.slices}",
            f"GKE_ACCELERATOR={chip.accelerator}",
            *([f"GKE_MACHINE={chip.machine}"] if host == 4 else []),
            f"GKE_TOPOLOGY={self.name.partition(':')[2]}",
            f"GKE_HOSTS={each // host}",
            f"GKE_CHIPS_PER_HOST={host}",
        ]
        if chip.cloud_name:
            found.insert(1, f"ACCELERATOR_TYPE={chip.cloud_name}-{each * chip.cores_in_name}")
        return " ".join(found)


def parse(name: str, slices: int = 1, dcn_gbps: float | None = None) -> Slice:
    """The slice that a name such as "v5e:4x4" or "v4:2x2x4" describes.

    Args:
      name: its name.
      slices: how many equal ones.
      dcn_gbps: gigabits a second of a chip to other slices, instead of the published figure.

    Raises:
      UserError: there is no such slice.
    """
    examples = "v4:2x2x1, v5e:4x4, v5e:16x16, v5p:4x4x4, v6e:2x4 and tpu7x:2x2x1"
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
    if match[1] == "tpu7x" and (shape[0] % 2 or shape[1] % 2):
        raise UserError(f"--topology={name}: tpu7x slices are whole machines of 2x2x1 chips.")
    if dcn_gbps is not None:
        chip = dataclasses.replace(chip, dcn_bandwidth=dcn_gbps * GBIT)
    if slices > 1 and chip.dcn_bandwidth is None:
        raise UserError(
            f"--topology={name}: no published bandwidth between slices of {match[1]} is known "
            "here; state that of a chip, in Gbit/s, with --dcn_gbps."
        )
    return Slice(name, chip, shape, slices)


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
            **({"num_slices": a_slice.slices} if a_slice.slices > 1 else {}),
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--topology={a_slice.name} is none that the TPU's compiler knows: {reason}"
        ) from error
    return description.devices
