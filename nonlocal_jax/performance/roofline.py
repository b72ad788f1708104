"""The roofline of a compiled step: a lower bound of its time."""

import dataclasses

from nonlocal_jax.performance.chips import Chip
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
    """

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """Products and memory at the same time, then the collectives."""
        return max(self.compute, self.memory) + self.network

    @property
    def bound(self) -> str:
        """What takes the longest: "compute", "memory" or "network"."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def roofline(compiled: Compiled, chip: Chip) -> Roofline:
    """The roofline of a compiled step on a chip."""
    passes = sum(c.bytes * PASSES.get(c.kind, 1) for c in compiled.collectives)
    return Roofline(
        compute=compiled.flops / chip.flops,
        memory=compiled.traffic / chip.hbm_bandwidth,
        network=passes / chip.ici_bandwidth,
    )
