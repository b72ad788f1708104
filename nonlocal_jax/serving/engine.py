"""Segments batches of images that share their shapes.

The mask of an image does not depend on its batch, bit for bit: a program always has the same number
of rows. On a CPU it computes the rows in use one after the other, as `Predictor.predict` does, so
that a call with few images takes little time. On an accelerator it computes all rows at once, and
the rows that are not in use are black.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, UInt8

from nonlocal_jax.config import schema
from nonlocal_jax.evaluation import batching, programs
from nonlocal_jax.evaluation.batching import EvaluationBatch, Image, Size
from nonlocal_jax.evaluation.kept import KeptPrograms, Shapes
from nonlocal_jax.evaluation.programs import Segmentation, Variables
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.console import say
from nonlocal_jax.serving.limits import Limits

Mask = UInt8[np.ndarray, "h w"]
Constants = tuple[Variables, Int[Array, ""]]  # and the number of rows in use
NO_LABEL = np.zeros((1, 1), np.uint8)


class Engine:
    """A checkpoint's network on one device, and its compiled programs. Threads may share it.

    Args:
      restored: the checkpoint.
      limits: how many images a call has, and how many programs are kept.
      tta: average over the config's scales and mirrored images.
      one_by_one: compute rows one after the other; by default on a CPU alone.
    """

    def __init__(
        self,
        restored: Restored,
        limits: Limits,
        *,
        tta: bool = False,
        one_by_one: bool | None = None,
    ):
        config, network = restored.config, restored.network
        self._limits = limits
        self._protocol = Protocol.of(config.eval, config.model.align_corners, tta)
        self._mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
        self._variables = sharding.place_variables(restored.variables, self._mesh)
        if one_by_one is None:
            one_by_one = self._mesh.devices.flat[0].platform == "cpu"

        def make() -> jax.stages.Wrapped:
            segment = programs.segmenting(network, self._protocol)
            return _one_by_one(segment) if one_by_one else _all_at_once(segment)

        self._kept = KeptPrograms(make, self._protocol, self._mesh, limits.programs)

    def shapes(self, size: Size) -> Shapes:
        """The shapes for an image of this height and width. Images with equal ones share calls."""
        return Shapes.of(size, self._protocol)

    def rows(self, shapes: Shapes) -> int:
        """How many images a call takes."""
        return self._limits.rows(shapes.canvas)

    def is_compiled(self, shapes: Shapes) -> bool:
        """Whether there is a program for these shapes."""
        return shapes in self._kept

    def compile(self, shapes: Shapes) -> None:
        """Compiles the program of these shapes, unless there is one."""
        if self.is_compiled(shapes):
            return
        height, width = shapes.canvas
        say(f"Compiling for images whose sides round up to {width} x {height}, width x height.")
        self._kept.find(shapes, *self._arguments(shapes, []))

    def segment(self, shapes: Shapes, images: list[Image]) -> list[Mask]:
        """The masks of up to `rows(shapes)` images.

        Raises:
          FloatingPointError: the scores of an image are not finite.
        """
        arguments = self._arguments(shapes, images)
        result = self._kept.find(shapes, *arguments)(*arguments)
        masks, finite = np.asarray(result.masks), np.asarray(result.finite)
        if not finite[: len(images)].all():
            raise FloatingPointError(
                "The network's scores are not finite: the checkpoint holds NaN or infinite values."
            )
        sizes = [image.shape[:2] for image in images]
        # Copies, so that the whole batch is not kept until the last of them is sent.
        return [masks[row, :height, :width].copy() for row, (height, width) in enumerate(sizes)]

    def _arguments(self, shapes: Shapes, images: list[Image]) -> tuple[Constants, EvaluationBatch]:
        """What a program is called with."""
        bucket = shapes.bucket
        rows = [
            batching.make_row(bucket, image, self._protocol.input_sizes(image.shape[:2]))
            for image in images
        ]
        rows += [batching.black_row(bucket)] * (self.rows(shapes) - len(rows))
        # Labels are not looked at, and would be as large as the masks.
        batch = batching.place([row._replace(label=NO_LABEL) for row in rows], self._mesh)
        count = jax.device_put(np.int32(len(images)), sharding.replicated(self._mesh))
        return (self._variables, count), batch


def _all_at_once(segment: jax.stages.Wrapped) -> jax.stages.Wrapped:
    """A function of ((variables, count), batch) that computes all rows."""

    def every_row(
        constants: Constants,
        batch: EvaluationBatch,
        *,
        canvas: Size,
        padded: bool,
    ) -> Segmentation:
        result: Segmentation = segment(constants[0], batch, canvas=canvas, padded=padded)
        return result

    return jax.jit(every_row, static_argnames=("canvas", "padded"))


def _one_by_one(segment: jax.stages.Wrapped) -> jax.stages.Wrapped:
    """A function of ((variables, count), batch) that computes the first `count` rows in turn."""

    def first_rows(
        constants: Constants,
        batch: EvaluationBatch,
        *,
        canvas: Size,
        padded: bool,
    ) -> Segmentation:
        variables, count = constants

        def add(row: Int[Array, ""], done: Segmentation) -> Segmentation:
            alone = jax.tree.map(lambda part: lax.dynamic_slice_in_dim(part, row, 1), batch)
            result = segment(variables, alone, canvas=canvas, padded=padded)
            return Segmentation(
                lax.dynamic_update_slice_in_dim(done.masks, result.masks, row, 0),
                lax.dynamic_update_slice_in_dim(done.finite, result.finite, row, 0),
                None,
            )

        rows = len(batch.sizes)
        nothing = Segmentation(
            jnp.zeros((rows, *canvas), jnp.uint8), jnp.zeros(rows, jnp.bool_), None
        )
        result: Segmentation = lax.fori_loop(jnp.int32(0), count, add, nothing)
        return result

    return jax.jit(first_rows, static_argnames=("canvas", "padded"))
