"""Scores a checkpoint on its config's validation images, by the published protocol.

    python -m nonlocal_jax.evaluate --config=configs/ROW.py --checkpoint=DIR [--tta]

prints the scores and writes them with a picture of the confusion matrix to --output, by default
runs/CONFIG/evaluation. --save_predictions adds PNGs that the benchmark's server takes,
--save_overlays pictures for people. With --config.data.on_bad_example=skip images that can't be
read are left out and reported, and the exit code is 1.
"""

import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt8
from ml_collections import ConfigDict

from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import batching, inference, metrics, predictor
from nonlocal_jax.evaluation.batching import Batch, Image, Label, Size
from nonlocal_jax.evaluation.inference import Protocol
from nonlocal_jax.inputs import loader, sources
from nonlocal_jax.models.network import Network
from nonlocal_jax.ops import layout
from nonlocal_jax.reporting import outputs, pictures
from nonlocal_jax.runtime import distributed, sharding
from nonlocal_jax.training import run_log

Variables = dict[str, jax.Array]
OnMask = Callable[[int, UInt8[np.ndarray, "h w"]], None]
OnBad = Callable[[str], None]


def warn(reason: str) -> None:
    """Logs why an image was left out."""
    logging.warning("Left out: %s", reason)


def evaluate(
    network: Network,
    variables: Variables,
    config: ConfigDict,
    *,
    mesh: Mesh,
    tta: bool = False,
    limit: int | None = None,
    on_mask: OnMask | None = None,
    between_batches: Callable[[], None] = lambda: None,
    on_bad: OnBad = warn,
    log: batching.Log = run_log.say,
) -> metrics.Scores:
    """Scores of a network on the validation split, over all devices and processes.

    Args:
      network: of `config.model`.
      variables: its arrays, on the mesh.
      config: names the data and the protocol.
      mesh: the devices; images are split over `data` and `fsdp`, their height over `spatial`.
      tta: average over config.eval.tta_ratios, and mirrored images with config.eval.tta_flip.
      limit: only so many images, the first ones.
      on_mask: is given every image's index and its class indices at the original size; in each
        process those of its own devices.
      between_batches: is called in every process after every batch; what it raises ends all.
      on_bad: is told of images that config.data.on_bad_example leaves out: those whose size can't
        be read in every process, others in the one that reads them.
      log: is told what is compiled, and how far it is.

    Raises:
      UserError: the data set is not there, an image is bad (and config.data.on_bad_example is
        "raise"), or the network's scores are not finite.
    """
    dataset = predictor.dataset_of(config)
    skip = config.data.on_bad_example == "skip"
    examples = Examples(loader.open_source(config, "val"), on_bad if skip else None, limit)
    batch_size = eval_batch_size(config, mesh)
    rows = sharding.local_rows(mesh, batch_size)
    confusion, labelled = np.zeros((config.model.num_classes,) * 2, np.int64), 0
    protocol = predictor.protocol(config, tta)
    results = batching.run(
        _counting(_Same(network), protocol, config.model.num_classes, on_mask is not None),
        variables,
        examples.read,
        examples.sizes,
        protocol,
        batch_size=batch_size,
        mesh=mesh,
        log=log,
        made_from=(config.to_json_best_effort(), tta, on_mask is not None),
    )
    for members, counts in results:
        confusion += np.asarray(counts.confusion)
        labelled += int(counts.labelled)
        if confusion.sum() != labelled:
            raise UserError(
                f"The network's scores are not finite for one of {len(members)} images, the first "
                f"of them {examples.name(members[0])}: the checkpoint holds NaN or infinite values."
            )
        if on_mask:
            for row, mask in zip(rows, batching.local(counts.masks), strict=True):
                if row < len(members) and members[row] not in examples.unreadable:
                    height, width = examples.sizes[members[row]]
                    on_mask(examples.indices[members[row]], mask[:height, :width])
        between_batches()
    return metrics.Scores(confusion, dataset.class_names)


def eval_batch_size(config: ConfigDict, mesh: Mesh) -> int:
    """Images in a step over all processes: on CPU one per device, as more would save no time.

    Elsewhere config.eval.batch_size or, if it does not split over the mesh, the next that does.
    """
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    if mesh.devices.flat[0].platform == "cpu":
        return groups
    return -(-config.eval.batch_size // groups) * groups


def counting(network: Network, protocol: Protocol, num_classes: int) -> jax.stages.Wrapped:
    """Evaluates a batch, jitted: (variables, batch, canvas=, padded=) -> Counts."""
    return _counting(_Same(network), protocol, num_classes, False)


class Examples:
    """The images of a split that can be used, and their original sizes.

    Args:
      source: the split.
      on_bad: is told of what can't be read and is left out; None to raise that.
      limit: only so many images, the first ones.

    Attributes:
      indices: in the split, of the images whose size is known.
      sizes: height and width of each.
      unreadable: which of them could not be read after all.
    """

    def __init__(self, source: sources.Source, on_bad: OnBad | None, limit: int | None = None):
        self._source, self._on_bad = source, on_bad
        self.unreadable: set[int] = set()
        self.indices: list[int] = []
        self.sizes: list[Size] = []
        for index in range(len(source))[:limit]:
            with self._leaving_out():
                self.sizes.append(source.image_size(index))
                self.indices.append(index)
        if not self.indices:
            raise UserError("The validation split holds no image that can be read.")

    def read(self, member: int) -> tuple[Image, Label | None] | None:
        """Image and labels of the n-th usable image; None if it proves unusable after all."""
        with self._leaving_out():
            example = self._source[self.indices[member]]
            return example.image, example.label
        self.unreadable.add(member)
        return None

    def name(self, member: int) -> str:
        """What to call the n-th usable image."""
        return self._source[self.indices[member]].name

    @contextlib.contextmanager
    def _leaving_out(self) -> Iterator[None]:
        """Reports what can't be read, if that is what is to be done with it."""
        try:
            yield
        except UserError as error:
            if self._on_bad is None:
                raise
            self._on_bad(str(error))


class Counts(NamedTuple):
    """What the device counts of a batch: the pixels of each label and prediction, and the labels.

    Attributes:
      confusion: by label (row) and prediction (column).
      labelled: pixels that have a label: as many as `confusion` holds if all scores are finite.
      masks: class indices, where they were asked for.
    """

    confusion: Int[Array, "classes classes"]
    labelled: Int[Array, ""]
    masks: UInt8[Array, "n H W"] | None


class _Same:
    """Equal to itself alone, so that what is compiled for a network is found again."""

    def __init__(self, network: Network):
        self.network = network

    def __hash__(self) -> int:
        return id(self.network)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.network is self.network


@functools.lru_cache(maxsize=8)
def _counting(
    same: _Same, protocol: Protocol, num_classes: int, keep_masks: bool
) -> jax.stages.Wrapped:
    """The jitted function that evaluates a batch; the same one for the same arguments."""

    @functools.partial(jax.jit, static_argnames=("canvas", "padded"))
    def count(variables: Variables, batch: Batch, *, canvas: Size, padded: bool) -> Counts:
        model = same.network.bind_for_inference(sharding.gathered(variables))
        scores = inference.low_resolution_scores(
            model, batch.scales, batch.sizes, canvas, protocol, padded=padded
        )
        masks = inference.class_indices(scores)
        labels = layout.whole_rows(batch.labels)
        confusion = metrics.confusion_matrix(masks, labels, num_classes)
        labelled = jnp.sum(labels != metrics.IGNORE, dtype=jnp.int32)
        return Counts(confusion, labelled, masks if keep_masks else None)

    return count


def main() -> None:
    """Evaluates `--checkpoint` on the validation split of `--config`."""
    config, options = command_line.config(), flags.FLAGS
    command_line.require("checkpoint")
    folder = "evaluation_tta" if options.tta else "evaluation"
    output = pathlib.Path(
        options.output or pathlib.Path("runs") / command_line.config_name() / folder
    )
    outputs.check_folder(output)
    left_out: list[str] = []
    with distributed.session():
        mesh = sharding.make_mesh(**config.mesh)
        network, loaded = predictor.restore(config, options.checkpoint)
        variables = sharding.place_variables(loaded, mesh)
        on_mask = _writer(config, output, options.save_predictions, options.save_overlays)
        scores = evaluate(
            network,
            variables,
            config,
            mesh=mesh,
            tta=options.tta,
            on_mask=on_mask,
            on_bad=left_out.append,
        )
        if jax.process_index() == 0:
            sys.stdout.write(f"{scores.table()}\n")
            _write_scores(output, scores, {"checkpoint": options.checkpoint, "tta": options.tta})
            run_log.say(f"Written to {output}.")
    command_line.exit_for_bad_images(left_out, len(loader.open_source(config, "val")))


def _writer(
    config: ConfigDict, output: pathlib.Path, predictions: bool, overlays: bool
) -> OnMask | None:
    """What writes each image's prediction below `output`, or None if nothing is asked for."""
    if not (predictions or overlays):
        return None
    dataset, source = loader.dataset(config), loader.open_source(config, "val")

    def write(index: int, mask: UInt8[np.ndarray, "h w"]) -> None:
        example = source[index]
        stem = pathlib.Path(example.name).with_suffix(".png")
        if predictions:
            outputs.write_server_mask(output / "predictions" / stem, mask, dataset)
        if overlays:
            outputs.write_overlay(output / "overlays" / stem, example.image, mask, dataset)

    return write


def _write_scores(output: pathlib.Path, scores: metrics.Scores, about: dict[str, object]) -> None:
    """scores.json and confusion.png."""
    outputs.write_confusion(output / "confusion.png", scores)
    with pictures.writing(output / "scores.json"):
        (output / "scores.json").write_text(json.dumps({**about, **scores.details()}, indent=1))


def define_flags() -> None:
    """The command's own flags; training, which imports this module, has none of them."""
    command_line.define_inference_flags()
    flags.DEFINE_bool("save_predictions", False, "Write PNGs for the benchmark's server.")
    flags.DEFINE_bool("save_overlays", False, "Write images tinted by predicted class.")


if __name__ == "__main__":
    define_flags()
    distributed.define_flags()
    command_line.run(main)
