"""The queue: images wait there until a batch of theirs is computed.

Two threads take batches, so that one decodes and encodes while the other has the device. A third
thread compiles the programs that are missing, one after the other. Images that have their program
do not wait for it.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import threading
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.batching import Image, Size
from nonlocal_jax.evaluation.kept import Shapes
from nonlocal_jax.inputs import cores, decode, opencv
from nonlocal_jax.serving.engine import Engine
from nonlocal_jax.serving.limits import Limits
from nonlocal_jax.serving.metrics import Metrics

WORKERS = 2

Render = Callable[[Image, UInt8[np.ndarray, "h w"]], bytes]


class QueueFull(Exception):
    """No more images may wait."""


@dataclasses.dataclass(eq=False)
class Job:
    """An image that is to be segmented.

    Attributes:
      encoded: the bytes of its file.
      size: its height and width.
      shapes: those of its program.
      render: makes the answer of the image and its mask.
      answer: the result. It raises UserError for an image that can't be decoded.
    """

    encoded: bytes
    size: Size
    shapes: Shapes
    render: Render
    answer: concurrent.futures.Future[bytes] = dataclasses.field(
        default_factory=concurrent.futures.Future
    )


class Batcher:
    """Segments jobs in batches, in the order in which they came. `start` it.

    Args:
      engine: computes.
      limits: how many images may wait, and how large they may be.
    """

    def __init__(self, engine: Engine, limits: Limits):
        self._engine, self._limits = engine, limits
        self.metrics = Metrics(self.waiting)
        self._jobs: collections.deque[Job] = collections.deque()
        self._change = threading.Condition()
        self._device = threading.Lock()
        self._closed = False
        opencv.use_one_thread()
        self._pool = concurrent.futures.ThreadPoolExecutor(cores.usable(), "images")
        loops = [self._work] * WORKERS + [self._compile]
        # Nothing can interrupt XLA's compiler: daemons, so that the process can end.
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def close(self, patience: float) -> bool:
        """Ends the threads when nothing waits; returns whether they ended in `patience` seconds."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(patience / len(self._threads))
        if any(thread.is_alive() for thread in self._threads):
            return False
        self._pool.shutdown()
        return True

    def waiting(self) -> int:
        """How many images wait."""
        return len(self._jobs)

    def full(self) -> bool:
        """Whether no more images may wait."""
        with self._change:
            self._drop_cancelled()
            return len(self._jobs) >= self._limits.queue

    def submit(self, job: Job) -> None:
        """Puts a job into the queue.

        Raises:
          QueueFull: too many wait.
        """
        with self._change:
            if self.full():
                raise QueueFull
            self._jobs.append(job)
            self._change.notify_all()

    def _drop_cancelled(self) -> None:
        """Forgets jobs whose client waits no longer."""
        if any(job.answer.cancelled() for job in self._jobs):
            self._jobs = collections.deque(job for job in self._jobs if not job.answer.cancelled())

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._process(batch)
            except BaseException as error:  # a thread that ended would leave all others waiting
                _fail(batch, error)

    def _next_batch(self) -> list[Job] | None:
        """Waits for jobs whose program is there: the oldest, and those that share its program."""
        with self._change:
            while True:
                self._drop_cancelled()
                ready = (job for job in self._jobs if self._engine.is_compiled(job.shapes))
                first = next(ready, None)
                if first is not None:
                    break
                if self._closed and not self._jobs:
                    return None
                self._change.wait()
            same = (job for job in self._jobs if job.shapes == first.shapes)
            batch = list(itertools.islice(same, self._engine.rows(first.shapes)))
            taken = set(map(id, batch))
            self._jobs = collections.deque(job for job in self._jobs if id(job) not in taken)
            self._change.notify_all()
            return [job for job in batch if job.answer.set_running_or_notify_cancel()]

    def _process(self, batch: list[Job]) -> None:
        """Answers the jobs of a batch."""
        decoded = zip(batch, self._pool.map(self._decode, batch), strict=True)
        good = [(job, image) for job, image in decoded if image is not None]
        if not good:
            return
        with self._device:  # two calls at once would take twice the memory
            masks = self._engine.segment(batch[0].shapes, [image for _, image in good])
        self.metrics.batches.observe(len(good))
        self.metrics.images.inc(len(good))
        jobs, images = zip(*good, strict=True)
        list(self._pool.map(_render, jobs, images, masks))

    def _decode(self, job: Job) -> Image | None:
        """The image of a job; None if it can't be decoded, which is its answer."""
        try:
            image = decode.decode_image(job.encoded, "The image", self._limits.max_pixels)
            if image.shape[:2] != job.size:
                raise UserError("The image has another size than its header says.")
        except Exception as error:
            job.answer.set_exception(error)
            return None
        return image

    def _compile(self) -> None:
        while (shapes := self._next_shapes()) is not None:
            try:
                self._engine.compile(shapes)
                self.metrics.compilations.inc()
            except BaseException as error:
                with self._change:
                    failed = [job for job in self._jobs if job.shapes == shapes]
                    self._jobs = collections.deque(j for j in self._jobs if j.shapes != shapes)
                _fail([job for job in failed if job.answer.set_running_or_notify_cancel()], error)
            with self._change:
                self._change.notify_all()

    def _next_shapes(self) -> Shapes | None:
        """Waits for jobs whose program is missing, and for room for that program."""
        with self._change:
            while True:
                self._drop_cancelled()
                wanted = list(dict.fromkeys(job.shapes for job in self._jobs))
                missing = [each for each in wanted if not self._engine.is_compiled(each)]
                if missing and len(wanted) - len(missing) < self._limits.programs:
                    return missing[0]
                if self._closed and not self._jobs:
                    return None
                self._change.wait()


def _render(job: Job, image: Image, mask: UInt8[np.ndarray, "h w"]) -> None:
    try:
        job.answer.set_result(job.render(image, mask))
    except Exception as error:
        job.answer.set_exception(error)


def _fail(jobs: list[Job], error: BaseException) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error)
