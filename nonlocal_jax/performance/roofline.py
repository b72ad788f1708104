"""The roofline of a compiled step: a lower bound of its time."""

import dataclasses

from nonlocal_jax.performance.chips import Slice
from nonlocal_jax.performance.compiler import Compiled

# Times that its bytes go through a chip's links: a sum is first scattered, then gathered.
PASSES = {"all-reduce": 2}


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds of the time of a step, in seconds, by resource.

    Attributes:
      compute: products at the chip's peak.
      memory: traffic at the memory's full bandwidth.
      network: collectives at the full bandwidth of all links.
      between_slices: transfers at the bandwidth between slices.
    """

    compute: float
    memory: float
    network: float
    between_slices: float = 0.0

    @property
    def step(self) -> float:
        """Products and memory at the same time, then the collectives, then the other slices."""
        return max(self.compute, self.memory) + self.network + self.between_slices

    @property
    def bound(self) -> str:
        """What takes the longest: "compute", "memory", "network" or "between_slices"."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def roofline(compiled: Compiled, where: Slice) -> Roofline:
    """The roofline of a step that was compiled for these slices."""
    device = where.chip.device
    passes = sum(c.bytes * PASSES.get(c.kind, 1) for c in compiled.collectives)
    sent = bytes_between_slices(compiled, where.slices)
    return Roofline(
        compute=compiled.flops / device.flops,
        memory=compiled.traffic / device.hbm_bandwidth,
        network=passes / device.ici_bandwidth,
        between_slices=sent / device.dcn_bandwidth if device.dcn_bandwidth else 0.0,
    )


def bytes_between_slices(compiled: Compiled, slices: int) -> float:
    """Bytes that a device sends to other slices in a step, at least.

    A sum of n bytes over s slices takes 2 (s - 1) / s times n: all but an s-th are scattered, then
    gathered.
    """
    part = (slices - 1) / slices
    return sum(t.bytes * part * PASSES.get(t.kind, 1) for t in compiled.transfers)
