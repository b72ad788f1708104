"""From the content of a PyTorch file to variables. Every tensor must have its place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nonlocal_jax.checkpoints.finite import not_finite
from nonlocal_jax.checkpoints.pytorch import difference, meta, rules, wrapping
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.torch_keys import TorchKeys

MOVING_AVERAGE = "ema_"  # mmcv's EMAHook
FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
      variables: arrays by our names, in the file's precision.
      counters: PyTorch's `num_batches_tracked` by PyTorch's keys, for an export to write again.
      ignored: keys of the file that are not used: `fc.*` of a backbone, and the moving averages
        `ema_*` of weights.
      meta: the file's `meta` section, as far as JSON can hold it.
      not_finite: names of variables with NaN or infinite values, see finite.py.
      path: keys of the file that lead to its tensors: ("state_dict",).
      prefix: of all its keys, which was taken off: "module.", or empty.
      left_out: what is not read beside the weights, with what it is.
    """

    variables: dict[str, np.ndarray]
    counters: dict[str, int]
    ignored: list[str]
    meta: dict[str, Any]
    not_finite: list[str]
    path: tuple[str, ...] = ()
    prefix: str = ""
    left_out: list[str] = field(default_factory=list)


def import_checkpoint(
    tree: object,
    expected: Mapping[str, tuple[int, ...]],
    *,
    keys: TorchKeys,
    backbone: bool = False,
) -> ImportResult:
    """Takes the variables of a network out of what `torch_file.read` returned.

    Args:
      tree: {"state_dict": {...}, "meta": {...}}, {"model": {...}}, or the state_dict alone.
      expected: shape of every variable of the network, by our names.
      keys: of the network.
      backbone: the file is one of ImageNet weights, whose keys lack "backbone." and whose
        classifier is left out; `expected` then has backbone variables only.

    Raises:
      UserError: the file's tensors are not exactly those of the network; all differences are
        listed at once.

    Keys that all begin with one prefix lose it, if the network's own lack it.
    """
    entries = _entries(expected, keys)
    prefix = "backbone." if backbone else ""
    needed = rules.torch_shapes(expected, keys)
    wrapped = wrapping.state_dict(tree)
    state, stripped = wrapping.without_prefix(
        wrapped.state, [key.removeprefix(prefix) for key in needed]
    )
    left_out = (MOVING_AVERAGE, *keys.ignored) if backbone else (MOVING_AVERAGE,)
    ignored = [key for key in state if key.startswith(left_out)]
    if backbone:
        state = _renamed(state, keys.renamed)
    state = {f"{prefix}{key}": state[key] for key in state if not key.startswith(left_out)}
    known_counters = {key for entry in entries.values() for key in entry.counters}
    counters = {key: _count(key, state[key]) for key in state if key in known_counters}
    weights = {key: value for key, value in state.items() if key not in counters}
    shapes = {key: value.shape for key, value in weights.items()}
    differences = difference.report(needed, shapes, keys)
    if differences:
        raise UserError(differences)
    _check_types(weights)
    _check_twins(weights, entries.values())
    variables = {
        name: rules.to_ours(weights[entry.key], entry.layout) for name, entry in entries.items()
    }
    return ImportResult(
        variables=variables,
        counters=counters,
        ignored=ignored,
        meta=meta.json_able(wrapped.beside.get(meta.META)),
        not_finite=not_finite(variables),
        path=wrapped.path,
        prefix=stripped,
        left_out=meta.left_out(wrapped.beside),
    )


def _entries(expected: Mapping[str, tuple[int, ...]], keys: TorchKeys) -> dict[str, rules.Entry]:
    try:
        return rules.torch_entries(expected, keys)
    except KeyError as error:
        raise UserError(
            f"no PyTorch file has the network's variable {error}: its module has no torch_keys"
        ) from error


def _renamed(
    state: Mapping[str, np.ndarray], prefixes: Iterable[tuple[str, str]]
) -> dict[str, np.ndarray]:
    """The tensors with the beginnings of their keys replaced, if all of these occur."""
    found = dict(state)
    for theirs, ours in prefixes:
        begun = [key for key in state if key.startswith(theirs)]
        if not begun:
            return dict(state)
        found |= {ours + key.removeprefix(theirs): found.pop(key) for key in begun}
    return found


def _count(key: str, value: np.ndarray) -> int:
    if value.shape != () or value.dtype.kind not in "iu":
        raise UserError(f"{key} is not a single whole number")
    return int(value)


def _check_types(weights: Mapping[str, np.ndarray]) -> None:
    wrong = [f"{key} ({w.dtype.name})" for key, w in weights.items() if w.dtype.name not in FLOATS]
    if wrong:
        raise UserError(f"these tensors are not of a floating-point type: {', '.join(wrong)}")


def _check_twins(weights: Mapping[str, np.ndarray], entries: Iterable[rules.Entry]) -> None:
    for key, also in (entry.keys for entry in entries if entry.also):
        if weights[key].tobytes() != weights[also].tobytes():
            raise UserError(f"{key} and {also} differ; they belong to one layer with two names")
