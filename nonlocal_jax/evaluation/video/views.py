"""Applies a network to the views of videos, in batches over all devices and processes."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.batching import local
from nonlocal_jax.inputs import cores, opencv
from nonlocal_jax.inputs.video.transforms import Video
from nonlocal_jax.models.video_network import VideoNetwork
from nonlocal_jax.ops.normalize import normalize_clips
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.compilation import compiler_options

Variables = dict[str, Any]  # arrays, or their shapes to compile for
Probabilities = Float[np.ndarray, "classes"]
Read = Callable[[int], Video | None]

AHEAD = 2  # videos that are decoded ahead


class Sizes(NamedTuple):
    """What a program for views is compiled for.

    Attributes:
      batch_size: views in a step over all devices.
      frames: of a view.
      side: its height and width.
    """

    batch_size: int
    frames: int
    side: int


class ViewProgram:
    """The probabilities of views, by a compiled program.

    Args:
      network: the network.
      mesh: the devices; views are split over `data` and `fsdp`.
      sizes: of its batches; the batch size is a multiple of the groups of devices.
    """

    def __init__(self, network: VideoNetwork, mesh: Mesh, sizes: Sizes):
        self.mesh, self.sizes = mesh, sizes
        self._function = jax.jit(view_probabilities(network), out_shardings=_rows(mesh, sizes))
        self._compiled: jax.stages.Compiled | None = None

    def trace(self, variables: Variables) -> jax.stages.Traced:
        """The traced program, for arrays or for their shapes."""
        size, frames, side = self.sizes
        shape = (size, frames, side, side, 3)
        place = sharding.image_sharding(self.mesh, shape)
        with jax.set_mesh(self.mesh):  # the network reads the mesh from the context
            return self._function.trace(
                variables, jax.ShapeDtypeStruct(shape, np.uint8, sharding=place)
            )

    def compile(self, variables: Variables) -> None:
        """Compiles the program, once."""
        if self._compiled is None:
            platform = self.mesh.devices.flat[0].platform
            self._compiled = self.trace(variables).lower().compile(compiler_options(platform))

    def __call__(
        self, variables: Variables, views: UInt8[np.ndarray, "n t s s 3"]
    ) -> Float[Array, "batch classes"]:
        """The probabilities of a global batch, of which this process gives its own views."""
        self.compile(variables)
        assert self._compiled is not None
        probabilities: Float[Array, "batch classes"] = self._compiled(
            variables, sharding.put_images(views, self.mesh)
        )
        return probabilities

    def means(
        self,
        variables: Variables,
        read: Read,
        videos: Iterable[int],
        views: int,
        between_batches: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, Video, Probabilities]]:
        """The mean over its views of the probabilities of each video of this process, in order.

        All processes must have as many videos, so that they take as many steps. A video that can't
        be read, or a number that is -1, takes part as black views, and nothing is returned for it.

        Args:
          variables: the network's arrays, on the mesh.
          read: a video by number; None if it can't be read.
          videos: the numbers of this process's videos.
          views: of each video.
          between_batches: called after each step.

        Raises:
          UserError: the network's probabilities are not finite.
        """
        rows = len(sharding.local_rows(self.mesh, self.sizes.batch_size))
        waiting: collections.deque[tuple[int, Video | None]] = collections.deque()
        kept: list[Probabilities] = []
        batches = _batches(read, videos, views, rows, self.sizes, waiting)
        for rows_of_step in self._one_behind(variables, batches):
            between_batches()
            kept += list(rows_of_step)
            while waiting and len(kept) >= views:
                number, video = waiting.popleft()
                mine, kept = kept[:views], kept[views:]
                if video is None:
                    continue
                mean = np.asarray(np.mean(mine, axis=0, dtype=np.float64), np.float32)
                if not np.isfinite(mean).all():
                    raise UserError(
                        f"The network's probabilities for {video.name} are not finite: the "
                        "checkpoint holds NaN or infinite values."
                    )
                yield number, video, mean

    def _one_behind(
        self, variables: Variables, batches: Iterable[UInt8[np.ndarray, "rows t s s 3"]]
    ) -> Iterator[Float[np.ndarray, "rows classes"]]:
        """The results of each step, fetched when the next one has begun."""
        running = None
        for batch in batches:
            begun = self(variables, batch)
            if running is not None:
                yield local(running)
            running = begun
        if running is not None:
            yield local(running)


def view_probabilities(
    network: VideoNetwork,
) -> Callable[[Variables, UInt8[Array, "n t s s 3"]], Float[Array, "n classes"]]:
    """A function of variables and views that returns the probabilities of the classes."""

    def compute(
        variables: Variables, views: UInt8[Array, "n t s s 3"]
    ) -> Float[Array, "n classes"]:
        model = network.bind_for_inference(sharding.gathered(variables))
        return model.fully_convolutional(normalize_clips(views))

    return compute


def _rows(mesh: Mesh, sizes: Sizes) -> jax.sharding.NamedSharding:
    """Each device holds the results of its own views."""
    return sharding.image_sharding(mesh, (sizes.batch_size, 1))


def _batches(
    read: Read,
    videos: Iterable[int],
    views: int,
    rows: int,
    sizes: Sizes,
    waiting: collections.deque[tuple[int, Video | None]],
) -> Iterator[UInt8[np.ndarray, "rows t s s 3"]]:
    """This process's views of each step; `waiting` gets each video before its last view is used."""
    shape = (sizes.frames, sizes.side, sizes.side, 3)
    batch, filled = np.zeros((rows, *shape), np.uint8), 0
    for number, video in _read_ahead(read, videos):
        waiting.append((number, video))
        for view in range(views):
            batch[filled] = 0 if video is None else video.views[view]
            filled += 1
            if filled == rows:
                yield batch
                batch, filled = np.zeros((rows, *shape), np.uint8), 0
    if filled:
        yield batch


def _read_ahead(read: Read, videos: Iterable[int]) -> Iterator[tuple[int, Video | None]]:
    """Each video with its number; threads read some of them ahead."""
    opencv.use_one_thread()
    with concurrent.futures.ThreadPoolExecutor(max(cores.usable(), 1)) as pool:

        def start(number: int) -> tuple[int, concurrent.futures.Future[Video | None] | None]:
            return number, None if number < 0 else pool.submit(read, number)

        pending: collections.deque[tuple[int, concurrent.futures.Future[Video | None] | None]] = (
            collections.deque()
        )
        left = iter(videos)
        for number in left:
            pending.append(start(number))
            if len(pending) <= AHEAD:
                continue
            first, future = pending.popleft()
            yield first, None if future is None else future.result()
        while pending:
            first, future = pending.popleft()
            yield first, None if future is None else future.result()
