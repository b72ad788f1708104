"""Applies one jitted function to a set of images of any sizes.

Images are sorted into buckets (see buckets.py). A few threads read, resize and pad them, ahead of
the device. The program of each bucket is compiled once.
"""

import collections
import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import counted
from nonlocal_jax.evaluation import buckets
from nonlocal_jax.evaluation.buckets import Bucket
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.inputs import cores, opencv
from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.runtime import compilation, console, sharding

# Roughly the pixels that the network processes in the time it takes to compile its program. On a
# CPU: to read it from the cache, because the next evaluation of a set has the same sizes.
COMPILE_COST, COMPILE_COST_CPU = 1e8, 1.5e5
AHEAD = 2  # batches that are prepared while the device computes another one

Size = tuple[int, int]
Image = UInt8[np.ndarray, "h w 3"]
Label = UInt8[np.ndarray, "h w"]
Read = Callable[[int], tuple[Image, Label | None] | None]
Log = Callable[[str], None]
Group = tuple[Bucket, tuple[int, ...]]  # a batch that is not made yet: its bucket, and its images


class EvaluationBatch(NamedTuple):
    """Images of one bucket on the device, padded to its shapes.

    Attributes:
      scales: the images at every scale that they are evaluated at.
      sizes: original height and width of each.
      labels: of the original images, 255 in the padding.
    """

    scales: tuple[Scaled, ...]
    sizes: Int[Array, "n 2"]
    labels: UInt8[Array, "n H W"]


class Row(NamedTuple):
    """One image of a batch, on the host; see `EvaluationBatch`."""

    images: tuple[Image, ...]
    input_sizes: Int[np.ndarray, "scales 2"]
    size: Int[np.ndarray, "2"]
    label: Label


class Result(NamedTuple):
    """The result of the function for a batch.

    Attributes:
      members: indices of the images, in the order of the batch's rows. Further rows are empty.
      output: what the function returned.
    """

    members: tuple[int, ...]
    output: Any


def run(
    function: jax.stages.Wrapped,
    constants: Any,
    read: Read,
    sizes: Sequence[Size],
    protocol: Protocol,
    *,
    batch_size: int,
    mesh: Mesh,
    log: Log,
) -> Iterator[Result]:
    """Applies `function` to all images and yields its results, batch by batch.

    Args:
      function: jitted; called as function(constants, batch, canvas=..., padded=...). It is compiled
        once for each bucket.
      constants: arrays on the mesh that every batch needs: the variables of the network.
      read: image and labels by index. Labels may be None: all are ignored. Both may be None: the
        image is left out.
      sizes: original height and width of every image.
      protocol: decides the sizes that they are evaluated at.
      batch_size: images in a step, over all processes.
      mesh: the devices.
      log: gets messages on compiling and on progress.
    """
    inputs = [protocol.input_sizes(size) for size in sizes]
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    planned = buckets.sort_into_buckets(
        sizes,
        inputs,
        batch_size=batch_size,
        input_cost=protocol.cost,
        compile_cost=len(protocol.ratios) * (COMPILE_COST_CPU if on_cpu else COMPILE_COST),
    )
    groups = buckets.batches(planned, batch_size)
    # On a CPU, two batches in flight would be computed at the same time, in twice the memory.
    in_flight = 0 if on_cpu else 1
    waiting: collections.deque[Result] = collections.deque()
    compiled: dict[Bucket, Callable[..., Any]] = {}
    progress = Progress(len(sizes), log)
    made = make_batches(read, inputs, groups, batch_size, mesh)
    for (bucket, members), batch in zip(groups, made, strict=True):
        if bucket not in compiled:
            with progress.compiling(f"program {len(compiled) + 1} of {len(planned)}"):
                compiled[bucket] = compile_for(function, constants, batch, bucket, protocol, mesh)
        while len(waiting) > in_flight:
            yield waiting[0]
            progress.add(len(waiting.popleft().members))
        waiting.append(Result(members, compiled[bucket](constants, batch)))
    for result in waiting:
        yield result
        progress.add(len(result.members))
    progress.finish()


def compile_for(
    function: jax.stages.Wrapped,
    constants: Any,
    batch: EvaluationBatch,
    bucket: Bucket,
    protocol: Protocol,
    mesh: Mesh,
) -> jax.stages.Compiled:
    """The compiled program of a bucket: (constants, batch) -> result of `function`; see `run`."""
    padded = protocol.meets_padding(bucket)
    with jax.set_mesh(mesh):  # the network reads the mesh from the context
        lowered = function.lower(constants, batch, canvas=bucket.canvas, padded=padded)
    return compilation.compile_inference(lowered, mesh.devices.flat[0].platform)


class Progress:
    """Reports the number of finished examples, their rate, and the remaining time."""

    every = 10.0  # seconds

    def __init__(self, total: int, log: Log, unit: str = "images"):
        self._total, self._log, self._unit, self._done = total, log, unit, 0
        self._start = self._said = time.perf_counter()
        self._compile_seconds = 0.0

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Reports that `what` is compiled. Its time does not count for the rate."""
        self._log(f"Compiling {what} ...")
        start = time.perf_counter()
        yield
        self._compile_seconds += time.perf_counter() - start

    def add(self, images: int) -> None:
        """Counts finished examples."""
        self._done += images
        if time.perf_counter() - self._said > self.every:
            self._said = time.perf_counter()
            rate = self._rate()
            left = console.clock((self._total - self._done) / rate)
            self._log(
                f"{self._done}/{self._total} {self._unit}  {rate:.2f} {self._unit}/s  ETA {left}"
            )

    def finish(self) -> None:
        """Reports the totals."""
        done = counted(self._done, self._unit.removesuffix("s"))
        self._log(
            f"{done} at {self._rate():.2f} {self._unit}/s, "
            f"and {self._compile_seconds:.1f} s of compiling."
        )

    def _rate(self) -> float:
        seconds = time.perf_counter() - self._start - self._compile_seconds
        return self._done / max(seconds, 1e-9)


def make_batches(
    read: Read,
    input_sizes: Sequence[Sequence[Size]],
    groups: Sequence[Group],
    batch_size: int,
    mesh: Mesh,
) -> Iterator[EvaluationBatch]:
    """Yields the arrays of each group; see `run`.

    Each process makes the rows that its devices hold. A group with fewer than `batch_size` members
    is filled up with black images whose labels are all ignored.
    """
    rows = sharding.local_rows(mesh, batch_size)
    opencv.use_one_thread()
    with concurrent.futures.ThreadPoolExecutor(cores.usable()) as pool:

        def make(bucket: Bucket, index: int | None) -> Row:
            loaded = None if index is None else read(index)
            if index is None or loaded is None:
                return black_row(bucket)
            image, label = loaded
            return make_row(bucket, image, input_sizes[index], label)

        def start(group: Group) -> list[concurrent.futures.Future[Row]]:
            bucket, members = group
            indices = [members[row] if row < len(members) else None for row in rows]
            return [pool.submit(make, bucket, index) for index in indices]

        pending = collections.deque(start(group) for group in groups[:AHEAD])
        for position in range(len(groups)):
            if position + AHEAD < len(groups):
                pending.append(start(groups[position + AHEAD]))
            yield place([future.result() for future in pending.popleft()], mesh)


def make_row(
    bucket: Bucket, image: Image, input_sizes: Sequence[Size], label: Label | None = None
) -> Row:
    """An image of a bucket, resized and padded. Without labels, all pixels are ignored."""
    canvas = np.full(bucket.canvas, IGNORED, np.uint8)
    if label is not None:
        canvas[: label.shape[0], : label.shape[1]] = label
    images = tuple(
        _pad(resize_image(image, size), shape)
        for size, shape in zip(input_sizes, bucket.inputs, strict=True)
    )
    return Row(images, np.array(input_sizes), np.array(image.shape[:2]), canvas)


def black_row(bucket: Bucket) -> Row:
    """A black image for an empty row; its labels are all ignored."""
    images = tuple(np.zeros((*size, 3), np.uint8) for size in bucket.inputs)
    labels = np.full(bucket.canvas, IGNORED, np.uint8)
    return Row(images, np.array(bucket.inputs), np.array(bucket.canvas), labels)


def _pad(image: Image, shape: Size) -> UInt8[np.ndarray, "H W 3"]:
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    padded = np.zeros((*shape, 3), np.uint8)
    padded[:height, :width] = image
    return padded


def place(rows: list[Row], mesh: Mesh) -> EvaluationBatch:
    """This process's rows as global arrays."""

    def put(arrays: list[np.ndarray], dtype: type) -> jax.Array:
        return sharding.put_images(np.stack(arrays).astype(dtype, copy=False), mesh)

    scales = tuple(
        Scaled(
            put([row.images[scale] for row in rows], np.uint8),
            put([row.input_sizes[scale] for row in rows], np.int32),
        )
        for scale in range(len(rows[0].images))
    )
    return EvaluationBatch(
        scales,
        put([row.size for row in rows], np.int32),
        put([row.label for row in rows], np.uint8),
    )


def local(array: jax.Array) -> np.ndarray:
    """The rows of a batch's result that this process holds; see `sharding.local_rows`."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
