"""Whether a checkpoint is of a network: its arrays, what shapes don't say, and its classes."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Model
from nonlocal_jax.errors import UserError

Shape = tuple[int, ...]
SHOWN = 20
# Settings of the network, by the last part of their key, that change no output of a checkpoint.
FREE = (
    *("dtype", "param_dtype", "remat", "frozen_stages", "norm_eval", "scan_blocks"),
    *("dropout", "loss_weight", "implementation"),
)


def difference(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """How arrays differ from those of a network, a line each.

    Args:
      found: shapes by name.
      expected: of the network.
    """
    lines = [f"missing: {name}" for name in sorted(set(expected) - set(found))]
    lines += [f"unexpected: {name}" for name in sorted(set(found) - set(expected))]
    return lines + [
        f"{name}: {shape} there, {expected[name]} here"
        for name, shape in found.items()
        if name in expected and tuple(shape) != tuple(expected[name])
    ]


def meaning(metadata: Metadata, model: Model) -> dict[str, str]:
    """Settings of a network that a checkpoint was made with, and that are others now.

    Returns:
      A line by key, as {"model.backbone.variant": "config.model.backbone.variant was v1c, is v1d"}.
    """
    if metadata.model is None:
        return {}
    before = files.flatten(dataclasses.asdict(metadata.model), "model.")
    now = files.flatten(dataclasses.asdict(model), "model.")
    return {
        key: f"config.{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _is_free(key, metadata.model, model)
    }


def check(
    where: object,
    metadata: Metadata,
    found: Mapping[str, Shape],
    model: Model,
    expected: Mapping[str, Shape],
    *,
    departing: Collection[str] = (),
) -> None:
    """Refuses a checkpoint that is of another network.

    Args:
      where: the checkpoint.
      metadata: what it says.
      found: shapes of its arrays.
      model: settings of the network.
      expected: shapes of the network's arrays.
      departing: dotted keys of the config that were given another value on purpose.

    Raises:
      UserError: with every difference.
    """
    settings = [line for key, line in meaning(metadata, model).items() if key not in departing]
    refuse(where, settings, difference(found, expected))


def refuse(where: object, settings: Iterable[str], arrays: Iterable[str]) -> None:
    """Raises a UserError with the lines of `meaning` and `difference`, if there are any."""
    lines, arrays = list(settings), list(arrays)
    lines += arrays[:SHOWN] + ["..."] * (len(arrays) > SHOWN)
    if lines:
        listed = "\n  ".join(lines)
        raise UserError(f"{where} is of another network than config.model:\n  {listed}")


def classes(metadata: Metadata, names: Sequence[str]) -> str | None:
    """What to tell if a checkpoint's classes are others, or in another order; else None.

    Args:
      metadata: of the checkpoint.
      names: the classes that are in use, by label.
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
    what = "order of classes" if sorted(theirs) == sorted(names) else "names of classes"
    return f"The checkpoint has another {what}: label {shown}."


def _is_free(key: str, *models: Model) -> bool:
    """Whether a key changes no output: for itself, or since its head is built in neither."""
    if key.rpartition(".")[2] in FREE:
        return True
    unbuilt = not any(model.auxiliary_head.loss_weight for model in models)
    return unbuilt and key.startswith("model.auxiliary_head.")
