"""Compares a checkpoint with a network: arrays, settings that shapes do not show, and classes."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Model
from nonlocal_jax.config.video import VideoModel
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones.resnet_keys import settings_of

Array = Any  # an array, a jax.ShapeDtypeStruct, or a shape
SHOWN = 20
# Settings of the network, by the last part of their key, that do not change its outputs.
FREE = (
    *("dtype", "param_dtype", "remat", "frozen_stages", "norm_eval", "scan_blocks"),
    "norm_group",
    *("dropout", "loss_weight", "implementation"),
)


def difference(found: Mapping[str, Array], expected: Mapping[str, Array]) -> list[str]:
    """Differences between arrays and those of a network in name and shape, a line each.

    Args:
      found: arrays or their shapes, by name.
      expected: of the network.
    """
    lines = [f"missing: {name}" for name in sorted(set(expected) - set(found))]
    lines += [f"unexpected: {name}" for name in sorted(set(found) - set(expected))]
    return lines + [
        f"{name}: {_shape(array)} there, {_shape(expected[name])} here"
        for name, array in found.items()
        if name in expected and _shape(array) != _shape(expected[name])
    ]


def meaning(
    metadata: Metadata, model: Model | VideoModel, *, auxiliary_head: bool = True
) -> dict[str, str]:
    """Settings of a network that change the function of a checkpoint's arrays.

    Args:
      metadata: of the checkpoint.
      model: settings of the network.
      auxiliary_head: whether to compare that head; inference does not use it.

    Returns:
      A line by key, as {"model.backbone.variant": "config.model.backbone.variant was v1c, is v1d"}.
    """
    now = files.flatten(dataclasses.asdict(model), "model.")
    if metadata.kind == "backbone":
        before, keys = _backbone(metadata.network), set(_backbone(metadata.network))
    elif metadata.model is not None:
        before = files.flatten(dataclasses.asdict(metadata.model), "model.")
        keys = before.keys() | now.keys()
    else:
        return {}
    skipped = () if auxiliary_head else ("model.auxiliary_head.",)
    return {
        key: f"config.{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(keys)
        if before.get(key) != now.get(key)
        and key.rpartition(".")[2] not in FREE
        and not key.startswith(skipped)
    }


def check(
    where: object,
    metadata: Metadata,
    found: Mapping[str, Array],
    model: Model | VideoModel,
    expected: Mapping[str, Array],
    *,
    auxiliary_head: bool = True,
    departing: Collection[str] = (),
) -> None:
    """Raises an error for a checkpoint of another network.

    Args:
      where: the checkpoint.
      metadata: its metadata.
      found: its arrays.
      model: settings of the network.
      expected: the network's arrays.
      auxiliary_head: whether to compare the settings of that head; inference does not use it.
      departing: dotted keys of the config that were given another value on purpose.

    Raises:
      UserError: with every difference.
    """
    told = meaning(metadata, model, auxiliary_head=auxiliary_head)
    refuse(where, [told[key] for key in told if key not in departing], difference(found, expected))


def refuse(where: object, settings: Sequence[str], arrays: Sequence[str]) -> None:
    """Raises a UserError with the lines of `meaning` and `difference`, if there are any."""
    lines = [*settings, *arrays[:SHOWN], *["..."] * (len(arrays) > SHOWN)]
    if lines:
        listed = "\n  ".join(lines)
        raise UserError(f"{where} is of another network than config.model:\n  {listed}")


def classes(metadata: Metadata, names: Sequence[str]) -> str | None:
    """A message if the classes of a checkpoint differ in name or order; else None.

    Args:
      metadata: of the checkpoint.
      names: the expected classes, by label.
    """
    theirs = metadata.class_names
    if theirs is None or theirs == tuple(names):
        return None
    if len(theirs) != len(names):
        return f"The checkpoint has {len(theirs)} classes, and there are {len(names)} here."
    others = [
        f"{label} is {before!r} there and {now!r} here"
        for label, (before, now) in enumerate(zip(theirs, names, strict=True))
        if before != now
    ]
    shown = ", ".join(others[:5] + ["..."] * (len(others) > 5))
    what = "its classes in another order" if sorted(theirs) == sorted(names) else "other classes"
    return f"The checkpoint has {what}: label {shown}."


def _shape(array: Array) -> tuple[int, ...]:
    return tuple(array.shape if hasattr(array, "shape") else array)


def _backbone(name: str) -> dict[str, Any]:
    """Settings in the name of an imported backbone, such as "resnet50_v1c"."""
    return {f"model.backbone.{key}": value for key, value in settings_of(name).items()}
