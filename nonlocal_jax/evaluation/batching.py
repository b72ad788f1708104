"""A whole set of images, whatever their sizes, through one jitted function.

Images are sorted into buckets (see buckets.py), read, resized and padded by a few threads ahead of
the device, and every bucket's program is compiled once.
"""

import collections
import concurrent.futures
import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from nonlocal_jax.evaluation import buckets
from nonlocal_jax.evaluation.buckets import Bucket
from nonlocal_jax.evaluation.inference import Protocol, Scaled
from nonlocal_jax.inputs.transforms import IGNORED, resize_image
from nonlocal_jax.runtime import compilation, sharding
from nonlocal_jax.training import run_log

# Roughly as many pixels as the network sees in the time that compiling it takes; on a CPU, reading
# it from the cache: the sizes of a set are the same in its next evaluation.
COMPILE_COST, COMPILE_COST_CPU = 1e8, 1.5e5
AHEAD = 2  # batches that are ready or in the making while the device is busy with another

Size = tuple[int, int]
Image = UInt8[np.ndarray, "h w 3"]
Label = UInt8[np.ndarray, "h w"]
Read = Callable[[int], tuple[Image, Label | None] | None]
Log = Callable[[str], None]
Group = tuple[Bucket, tuple[int, ...]]  # a batch to be: its bucket, and which images it holds


class Batch(NamedTuple):
    """Images of one bucket on the device, padded to its shapes.

    Attributes:
      scales: the images at every scale that they are evaluated at.
      sizes: int32 [n, 2], original height and width of each.
      labels: uint8 [n, H, W], 255 in the padding.
    """

    scales: tuple[Scaled, ...]
    sizes: jax.Array
    labels: jax.Array


class Row(NamedTuple):
    """One image of a batch, on the host; see `Batch`."""

    images: tuple[Image, ...]
    input_sizes: Int[np.ndarray, "scales 2"]
    size: Int[np.ndarray, "2"]
    label: Label


class Result(NamedTuple):
    """What the function gave for a batch.

    Attributes:
      members: indices of the images, in the order of the batch's rows; rows beyond them are empty.
      output: what it returned.
    """

    members: tuple[int, ...]
    output: Any


def run(
    function: jax.stages.Wrapped,
    variables: dict[str, jax.Array],
    read: Read,
    sizes: Sequence[Size],
    protocol: Protocol,
    *,
    batch_size: int,
    mesh: Mesh,
    log: Log,
    made_from: object,
) -> Iterator[Result]:
    """Puts every image through `function` and yields what it gives, batch by batch.

    Args:
      function: jitted; called as function(variables, batch, canvas=..., padded=...).
      variables: of the network, on the mesh.
      read: image and labels by index; None for labels that are all ignored, or for both where an
        image is to be left out.
      sizes: original height and width of every image.
      protocol: gives the sizes that they are evaluated at.
      batch_size: images a step, over all processes.
      mesh: the devices.
      log: is told what is compiled, and how far it is.
      made_from: what `function` was made from, see `compilation.find_or_compile`.
    """
    inputs = [protocol.input_sizes(size) for size in sizes]
    platform = mesh.devices.flat[0].platform
    on_cpu = platform == "cpu"
    planned = buckets.plan(
        sizes,
        inputs,
        batch_size=batch_size,
        input_cost=protocol.cost,
        compile_cost=len(protocol.ratios) * (COMPILE_COST_CPU if on_cpu else COMPILE_COST),
    )
    groups = buckets.batches(planned, batch_size)
    # A CPU would compute two batches at a time, in twice the memory.
    in_flight = 0 if on_cpu else 1
    waiting: collections.deque[Result] = collections.deque()
    compiled: dict[Bucket, Callable[..., Any]] = {}
    progress = Progress(len(sizes), log)
    made = make_batches(read, inputs, groups, batch_size, mesh)
    for (bucket, members), batch in zip(groups, made, strict=True):
        if bucket not in compiled:
            static = {"canvas": bucket.canvas, "padded": protocol.meets_padding(bucket)}
            which = f"program {len(compiled) + 1} of {len(planned)}"
            with progress.compiling(which), jax.set_mesh(mesh):
                compiled[bucket] = compilation.find_or_compile(
                    "inference",
                    (made_from, static, jax.tree.map(_kind, (variables, batch))),
                    mesh,
                    functools.partial(function.lower, variables, batch, **static),
                )
        while len(waiting) > in_flight:
            yield waiting[0]
            progress.add(len(waiting.popleft().members))
        waiting.append(Result(members, compiled[bucket](variables, batch)))
    for result in waiting:
        yield result
        progress.add(len(result.members))
    progress.finish()


def _kind(array: jax.Array) -> tuple[object, ...]:
    """What a compiled program asks of an argument."""
    return array.shape, array.dtype, array.sharding


class Progress:
    """Says how many images are done, how fast, and how long the rest takes; compiling apart."""

    every = 10.0  # seconds

    def __init__(self, total: int, log: Log):
        self._total, self._log, self._done = total, log, 0
        self._start = self._said = time.perf_counter()
        self._compile_seconds = 0.0

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Says that `what` is compiled, and leaves its time out of the images' time."""
        self._log(f"Compiling {what} ...")
        start = time.perf_counter()
        yield
        self._compile_seconds += time.perf_counter() - start

    def add(self, images: int) -> None:
        """Counts images that are done."""
        self._done += images
        if time.perf_counter() - self._said > self.every:
            self._said = time.perf_counter()
            rate = self._rate()
            left = run_log.clock((self._total - self._done) / rate)
            self._log(f"{self._done}/{self._total} images  {rate:.2f} images/s  ETA {left}")

    def finish(self) -> None:
        """Says what the whole took."""
        self._log(
            f"{self._done} images at {self._rate():.2f} images/s, "
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
) -> Iterator[Batch]:
    """The arrays of one group after the other; see `run`.

    Every process makes only the rows that its devices hold. A group with fewer than `batch_size`
    members is filled up with black images whose labels are all ignored.
    """
    rows = sharding.local_rows(mesh, batch_size)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def start(group: Group) -> list[concurrent.futures.Future[Row]]:
            bucket, members = group
            indices = [members[row] if row < len(members) else None for row in rows]
            return [pool.submit(_make_row, read, input_sizes, bucket, i) for i in indices]

        pending = collections.deque(start(group) for group in groups[:AHEAD])
        for position in range(len(groups)):
            if position + AHEAD < len(groups):
                pending.append(start(groups[position + AHEAD]))
            yield _place([future.result() for future in pending.popleft()], mesh)


def _make_row(
    read: Read, input_sizes: Sequence[Sequence[Size]], bucket: Bucket, index: int | None
) -> Row:
    """Reads, resizes and pads an image; a black one without labels where there is none."""
    loaded = None if index is None else read(index)
    label = np.full(bucket.canvas, IGNORED, np.uint8)
    if index is None or loaded is None:
        black = tuple(np.zeros((*size, 3), np.uint8) for size in bucket.inputs)
        return Row(black, np.array(bucket.inputs), np.array(bucket.canvas), label)
    image, given = loaded
    if given is not None:
        label[: given.shape[0], : given.shape[1]] = given
    images = tuple(
        _pad(resize_image(image, size), shape)
        for size, shape in zip(input_sizes[index], bucket.inputs, strict=True)
    )
    return Row(images, np.array(input_sizes[index]), np.array(image.shape[:2]), label)


def _pad(image: Image, shape: Size) -> Image:
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    padded = np.zeros((*shape, 3), np.uint8)
    padded[:height, :width] = image
    return padded


def _place(rows: list[Row], mesh: Mesh) -> Batch:
    """This process's rows as global arrays."""

    def place(arrays: list[np.ndarray], dtype: type) -> jax.Array:
        return sharding.put_images(np.stack(arrays).astype(dtype, copy=False), mesh)

    scales = tuple(
        Scaled(
            place([row.images[scale] for row in rows], np.uint8),
            place([row.input_sizes[scale] for row in rows], np.int32),
        )
        for scale in range(len(rows[0].images))
    )
    return Batch(
        scales,
        place([row.size for row in rows], np.int32),
        place([row.label for row in rows], np.uint8),
    )


def local(array: jax.Array) -> np.ndarray:
    """The rows of a batch's result that `sharding.local_rows` names."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
