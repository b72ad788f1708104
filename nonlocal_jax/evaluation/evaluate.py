"""Scores of a network on the validation split, over all devices and processes."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import UInt8

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import batching, programs
from nonlocal_jax.evaluation.batching import Image, Label, Size
from nonlocal_jax.evaluation.metrics.scores import Scores, find_metric
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.evaluation.worst import KEPT, Judged, Worst
from nonlocal_jax.inputs.example import Source
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.models.network import Network
from nonlocal_jax.runtime import console, sharding

Variables = dict[str, jax.Array]
OnMask = Callable[[int, UInt8[np.ndarray, "h w"]], None]
OnBad = Callable[[str], None]


def warn(reason: str) -> None:
    """Logs why an image was left out."""
    logging.warning("Left out: %s", reason)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation depends on, except for the variables of the network.

    Its programs are compiled once, however often it runs.

    Attributes:
      network: the network, as it is trained or folded.
      inputs: the data.
      protocol: how class indices are computed.
      mesh: the devices; images are split over `data` and `fsdp`, their height over `spatial`.
      batch_size: images in a step over all processes, a multiple of the groups of devices.
      metrics: names of the scores, from the table `metrics`.
    """

    network: Network
    inputs: Inputs
    protocol: Protocol
    mesh: Mesh
    batch_size: int
    metrics: tuple[str, ...] = schema.Eval.metrics
    _counting: dict[bool, jax.stages.Wrapped] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in self.metrics:
            find_metric(name)

    @classmethod
    def of(
        cls, config: schema.Config, network: Network, mesh: Mesh, *, tta: bool = False
    ) -> "Evaluation":
        """The evaluation of a config.

        Args:
          config: of the run.
          network: of its model.
          mesh: the devices.
          tta: average over several sizes and mirrored images.

        Raises:
          UserError: it has an unknown metric.
        """
        return cls(
            network=network,
            inputs=Inputs.of(config),
            protocol=Protocol.of(config.eval, config.model.align_corners, tta),
            mesh=mesh,
            batch_size=eval_batch_size(config.eval.batch_size, mesh),
            metrics=config.eval.metrics,
        )

    def run(
        self,
        variables: Variables,
        *,
        limit: int | None = None,
        images: Sequence[str] | None = None,
        on_mask: OnMask | None = None,
        between_batches: Callable[[], None] = lambda: None,
        on_bad: OnBad = warn,
        log: batching.Log = console.say,
        keep_worst: int = KEPT,
    ) -> Scores:
        """Scores of the network with some variables.

        Args:
          variables: its arrays, on the mesh.
          limit: evaluate the first images only, this many.
          images: evaluate the images of these names only.
          on_mask: called with the index of each image in the split and its class indices at the
            original size; each process calls it for the images of its devices.
          between_batches: called in every process after each batch. An exception ends the
            evaluation.
          on_bad: called with a reason for each image that is left out
            (config.data.on_bad_example). If its size can't be read, every process calls it,
            otherwise the process that reads the image.
          log: gets messages on compiling and on progress.
          keep_worst: how many images of lowest accuracy are named.

        Raises:
          UserError: the data set is not there, an image is bad (and config.data.on_bad_example is
            "raise"), or the network's scores are not finite.
        """
        skip = self.inputs.data.on_bad_example == "skip"
        source = self.inputs.open("val")
        chosen = choose(source, limit=limit, images=images)
        examples = Examples(source, chosen, on_bad if skip else None)
        rows = sharding.local_rows(self.mesh, self.batch_size)
        tally = _Tally(self.inputs.num_classes, keep_worst)
        results = batching.run(
            self.counting(keep_masks=on_mask is not None),
            variables,
            examples.read,
            examples.sizes,
            self.protocol,
            batch_size=self.batch_size,
            mesh=self.mesh,
            log=log,
        )
        for members, counts in results:
            tally.add([examples.name(member) for member in members], counts)
            if on_mask:
                for row, mask in zip(rows, batching.local(counts.masks), strict=True):
                    if row < len(members) and members[row] not in examples.unreadable:
                        height, width = examples.sizes[members[row]]
                        on_mask(examples.indices[members[row]], mask[:height, :width])
            between_batches()
        if not tally.labelled:
            log("No pixel has a label, so that there is nothing to score.")
        names = self.inputs.dataset.class_names
        return Scores(tally.confusion, names, self.metrics, tally.worst.images())

    def counting(self, *, keep_masks: bool = False) -> jax.stages.Wrapped:
        """The function of `programs.counting`, made once."""
        if keep_masks not in self._counting:
            self._counting[keep_masks] = programs.counting(
                self.network, self.protocol, self.inputs.num_classes, keep_masks=keep_masks
            )
        return self._counting[keep_masks]


class _Tally:
    """What is counted over the batches of an evaluation.

    Attributes:
      confusion: pixels by label (row) and prediction (column), int64.
      labelled: labelled pixels.
      worst: the images of lowest accuracy.
    """

    def __init__(self, num_classes: int, keep_worst: int):
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.labelled = 0
        self.worst = Worst(keep_worst)

    def add(self, names: Sequence[str], counts: programs.Counts) -> None:
        """Adds the images of a batch, in the order of its first rows; further rows are empty.

        Raises:
          UserError: the network's scores are not finite.
        """
        right, labelled = (np.asarray(each).tolist() for each in (counts.right, counts.labelled))
        self.confusion += np.asarray(counts.confusion)
        self.labelled += sum(labelled)
        if self.confusion.sum() != self.labelled:
            raise UserError(
                f"The network's scores are not finite for one of {len(names)} images, the first "
                f"of them {names[0]}: the checkpoint holds NaN or infinite values."
            )
        for judged in map(Judged, names, right, labelled):
            self.worst.add(judged)


def eval_batch_size(batch_size: int, mesh: Mesh) -> int:
    """The number of images in a step over all processes.

    On a CPU it is one for each device, because more save no time. Elsewhere it is `batch_size`,
    rounded up to a multiple of the groups of devices.
    """
    groups: int = mesh.shape["data"] * mesh.shape["fsdp"]
    if mesh.devices.flat[0].platform == "cpu":
        return groups
    return -(-batch_size // groups) * groups


def choose(
    source: Source, *, limit: int | None = None, images: Sequence[str] | None = None
) -> list[int]:
    """Indices of some examples of a split, in its order.

    Args:
      source: the split.
      limit: the first ones only, this many.
      images: those of these names only, with or without suffix.

    Raises:
      UserError: the split has no image of a name.
    """
    if images is None:
        return list(range(len(source)))[:limit]
    wanted = dict.fromkeys(images, False)
    found = []
    for index in range(len(source)):
        name = source.name(index)
        for key in {name, str(pathlib.PurePosixPath(name).with_suffix(""))} & wanted.keys():
            wanted[key] = True
            found.append(index)
    missing = [name for name, seen in wanted.items() if not seen]
    if missing:
        raise UserError(
            f"The validation split has no image {missing[0]}"
            f"{f', nor {len(missing) - 1} others of the list' if len(missing) > 1 else ''}. "
            f"Its first one is {source.name(0)}."
        )
    return list(dict.fromkeys(found))[:limit]


class Examples:
    """The chosen images of a split that can be used, and their original sizes.

    Args:
      source: the split.
      indices: of the images.
      on_bad: called with the reason if an image can't be read; None to raise the error.

    Attributes:
      indices: indices in the split of the images whose size is known.
      sizes: height and width of each.
      unreadable: those of them that could not be decoded.

    Raises:
      UserError: there is none.
    """

    def __init__(self, source: Source, indices: Sequence[int], on_bad: OnBad | None):
        self._source, self._on_bad = source, on_bad
        self.unreadable: set[int] = set()
        self.indices: list[int] = []
        self.sizes: list[Size] = []
        for index in indices:
            with self._leaving_out():
                self.sizes.append(source.image_size(index))
                self.indices.append(index)
        if not self.indices:
            raise UserError("The validation split holds no image that can be read.")

    def read(self, member: int) -> tuple[Image, Label | None] | None:
        """Image and labels of the n-th usable image; None if it can't be decoded."""
        with self._leaving_out():
            example = self._source[self.indices[member]]
            return example.image, example.label
        self.unreadable.add(member)
        return None

    def name(self, member: int) -> str:
        """The name of the n-th usable image."""
        return self._source.name(self.indices[member])

    @contextlib.contextmanager
    def _leaving_out(self) -> Iterator[None]:
        """Calls `on_bad` for what can't be read, if there is an `on_bad`."""
        try:
            yield
        except UserError as error:
            if self._on_bad is None:
                raise
            self._on_bad(str(error))
