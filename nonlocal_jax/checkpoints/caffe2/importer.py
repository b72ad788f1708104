"""From the blobs of a Caffe2 file to variables. Every blob must have its place."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from nonlocal_jax.checkpoints import compare, finite
from nonlocal_jax.checkpoints.caffe2 import rules
from nonlocal_jax.checkpoints.caffe2.blob_file import ITERATIONS, LEARNING_RATE, Blob, Blobs
from nonlocal_jax.checkpoints.pytorch.pickle_names import printable
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones.video_resnet import describe_caffe2_keys
from nonlocal_jax.models.video_network import VideoNetwork

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
CLASSIFIER, NON_LOCAL, STATISTICS = "pred", "nonlocal_", ("_bn_rm", "_bn_riv")


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
      variables: arrays by our names.
      rest: what else the file of a whole network holds, by its own names: momenta, `lr`,
        `model_iter`.
      left_out: names of blobs that are not used.
      inflated: names of blobs of 2D kernels that were repeated over time.
      new: names of the network's variables that the file lacks, which start at random.
    """

    variables: dict[str, np.ndarray]
    rest: dict[str, Blob] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    @property
    def not_finite(self) -> list[str]:
        """Names of variables, and of blobs of the rest, with NaN or infinite values."""
        return finite.not_finite({**self.variables, **self.rest})


def import_checkpoint(blobs: Blobs, network: VideoNetwork) -> ImportResult:
    """The variables of a whole network.

    Args:
      blobs: of a checkpoint, as `blob_file.read` returns them.
      network: the network that they must fit.

    Raises:
      UserError: the blobs are not exactly those of the network, `lr`, and perhaps `model_iter` and
        momenta: of all trained blobs or of none. All differences are listed at once.
    """
    entries = rules.entries(network.shapes, network.caffe2_keys)
    expected = _shapes(network, entries)
    trained = [entries[name].key for name in network.trainable]
    momenta = {f"{key}{rules.MOMENTUM}": expected[key] for key in trained}
    rest = {key: blobs[key] for key in blobs if key in (*momenta, ITERATIONS, LEARNING_RATE)}
    found = {key: np.asarray(value) for key, value in blobs.items() if key not in rest}
    if any(key.endswith(rules.MOMENTUM) for key in blobs):
        expected = {**expected, **momenta}
        found = {**found, **{key: np.asarray(rest[key]) for key in momenta if key in rest}}
    _refuse(found, expected)
    _check_types(found)
    if np.size(rest.get(LEARNING_RATE, ())) != 1:
        raise UserError(f"it has no {LEARNING_RATE}, the learning rate that each checkpoint holds")
    if not isinstance(rest.get(ITERATIONS, 0), int):
        raise UserError(f"its {ITERATIONS} is not a whole number")
    return ImportResult(_variables(found, entries), rest)


def import_initial(blobs: Blobs, network: VideoNetwork) -> ImportResult:
    """The weights that training starts from: those of another data set, or of a 2D network.

    As in the original, kernels of 2D networks are inflated: repeated over time, and divided by the
    number of frames. The classifier is left out, and so are momenta and numbers. A file may lack
    all non-local blocks, or all running statistics.

    Args:
      blobs: of a checkpoint, or of a file of ImageNet weights, as `blob_file.read` returns them.
      network: the network that is to be trained.

    Raises:
      UserError: the other blobs are not exactly those of the network. All differences are listed.
    """
    entries = rules.entries(network.shapes, network.caffe2_keys)
    expected = _shapes(network, entries)
    left_out = [
        key
        for key in blobs
        if CLASSIFIER in key or key.endswith(rules.MOMENTUM) or key in (ITERATIONS, LEARNING_RATE)
    ]
    found = {key: np.asarray(value) for key, value in blobs.items() if key not in left_out}
    new = _may_be_missing(found, expected)
    needed = {key: shape for key, shape in expected.items() if key not in new}
    inflated = [key for key in found if key in needed and _is_flat(found[key], needed[key])]
    found.update({key: inflate(found[key], needed[key][2]) for key in inflated})
    _refuse(found, needed)
    _check_types(found)
    there = {name: entry for name, entry in entries.items() if entry.key in needed}
    return ImportResult(
        _variables(found, there),
        left_out=left_out,
        inflated=inflated,
        new=sorted(set(entries) - set(there)),
    )


def inflate(kernel: np.ndarray, frames: int) -> np.ndarray:
    """A 2D kernel, [o, i, h, w], as a 3D one, [o, i, frames, h, w], with the same sum."""
    repeated = np.repeat(kernel[:, :, None], frames, axis=2)
    inflated: np.ndarray = repeated / np.asarray(frames, kernel.dtype)
    return inflated


def _may_be_missing(found: Collection[str], expected: Iterable[str]) -> set[str]:
    """Blobs of the network that start at random."""
    optional = [
        {key for key in expected if CLASSIFIER in key},
        {key for key in expected if key.startswith(NON_LOCAL)},
        {key for key in expected if key.endswith(STATISTICS)},
    ]
    if not any(key.startswith(NON_LOCAL) for key in found):
        optional[2] -= optional[1]
    return {key for group in optional if not group & set(found) for key in group}


def _is_flat(kernel: np.ndarray, needed: Shape) -> bool:
    return kernel.ndim == 4 and len(needed) == 5 and kernel.shape == (*needed[:2], *needed[3:])


def _shapes(network: VideoNetwork, entries: Mapping[str, rules.Entry]) -> dict[str, Shape]:
    shapes = network.shapes
    return {
        entry.key: rules.caffe2_shape(shapes[name].shape, entry.layout)
        for name, entry in entries.items()
    }


def _refuse(found: Mapping[str, np.ndarray], expected: Shapes) -> None:
    """Raises a UserError with all differences and, where it is known, the likely reason."""
    lines = compare.difference(found, expected)
    if not lines:
        return
    theirs = describe_caffe2_keys({key: value.shape for key, value in found.items()})
    ours = describe_caffe2_keys(expected)
    reason = "some blobs differ" if theirs == ours else f"it holds {theirs}, the config's is {ours}"
    raise UserError("\n  ".join([reason, *(printable(line) for line in lines)]))


def _check_types(found: Mapping[str, np.ndarray]) -> None:
    wrong = [f"{key} ({value.dtype})" for key, value in found.items() if value.dtype != np.float32]
    if wrong:
        raise UserError(f"these blobs are not of float32: {printable(', '.join(wrong))}")


def _variables(
    found: Mapping[str, np.ndarray], entries: Mapping[str, rules.Entry]
) -> dict[str, np.ndarray]:
    return {name: rules.to_ours(found[entry.key], entry.layout) for name, entry in entries.items()}
