"""Compiled programs for images that come one by one: those that were used last are kept."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from nonlocal_jax.evaluation import batching, buckets
from nonlocal_jax.evaluation.batching import EvaluationBatch
from nonlocal_jax.evaluation.buckets import Bucket, Size
from nonlocal_jax.evaluation.protocol import Protocol

KEPT_PROGRAMS = 8  # of each function


class Shapes(NamedTuple):
    """What decides which program an image needs; images that are equal in it can share a batch.

    Attributes:
      canvas: height and width of the result.
      inputs: height and width of the network's input at each scale.
      padded: whether the image is smaller than an input.
    """

    canvas: Size
    inputs: tuple[Size, ...]
    padded: bool

    @classmethod
    def of(cls, size: Size, protocol: Protocol) -> "Shapes":
        """The shapes for an image of this height and width."""
        bucket = buckets.alone(size, protocol.input_sizes(size))
        return cls(bucket.canvas, bucket.inputs, protocol.meets_padding(bucket))

    @property
    def bucket(self) -> Bucket:
        """A bucket of these shapes, without members."""
        smallest = tuple((1, 1) for _ in self.inputs) if self.padded else self.inputs
        return Bucket(self.canvas, self.inputs, smallest, ())


class KeptPrograms:
    """The compiled programs of a function, by shapes. Threads may share it.

    Each program has a function of its own, because JAX keeps a compiled program as long as its
    function.

    Args:
      make: makes the function; see `programs`.
      protocol: that of the function.
      mesh: the devices.
      most: how many programs are kept.
    """

    def __init__(
        self,
        make: Callable[[], jax.stages.Wrapped],
        protocol: Protocol,
        mesh: Mesh,
        most: int = KEPT_PROGRAMS,
    ):
        self.most = most
        self._make, self._protocol, self._mesh = make, protocol, mesh
        self._compiled: dict[Shapes, tuple[jax.stages.Wrapped, jax.stages.Compiled]] = {}
        self._lock = threading.Lock()

    def __contains__(self, shapes: Shapes) -> bool:
        with self._lock:
            return shapes in self._compiled

    def find(self, shapes: Shapes, constants: Any, batch: EvaluationBatch) -> jax.stages.Compiled:
        """The program for these shapes, (constants, batch) -> result; it is compiled if needed."""
        with self._lock:
            kept = self._compiled.pop(shapes, None)
            if kept is not None:
                self._compiled[shapes] = kept  # the last in order is the last used
                return kept[1]
        function = self._make()
        compiled = batching.compile_for(
            function, constants, batch, shapes.bucket, self._protocol, self._mesh
        )
        with self._lock:
            self._compiled[shapes] = function, compiled
            while len(self._compiled) > self.most:
                del self._compiled[next(iter(self._compiled))]
        return compiled
