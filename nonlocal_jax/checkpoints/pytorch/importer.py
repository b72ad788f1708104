"""From the content of a PyTorch file to variables. Every tensor must have its place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nonlocal_jax.checkpoints.pytorch import difference, rules
from nonlocal_jax.checkpoints.pytorch.pickle_names import printable
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.torch_keys import TorchKeys

WRAPPED = "module."  # by DataParallel
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
      not_finite: names of variables with NaN or infinite values.
    """

    variables: dict[str, np.ndarray]
    counters: dict[str, int]
    ignored: list[str]
    meta: dict[str, Any]
    not_finite: list[str]


def import_checkpoint(
    tree: object,
    expected: Mapping[str, tuple[int, ...]],
    *,
    keys: TorchKeys,
    backbone: bool = False,
) -> ImportResult:
    """Takes the variables of a network out of what `torch_file.read` returned.

    Args:
      tree: {"state_dict": {...}, "meta": {...}}, or the state_dict alone.
      expected: shape of every variable of the network, by our names.
      keys: of the network.
      backbone: the file is one of ImageNet weights, whose keys lack "backbone." and whose
        classifier is left out; `expected` then has backbone variables only.

    Raises:
      UserError: the file's tensors are not exactly those of the network; all differences are
        listed at once.

    Keys that all begin with "module." lose it.
    """
    state, meta = _state_dict(tree)
    if all(key.startswith(WRAPPED) for key in state):
        state = {key.removeprefix(WRAPPED): value for key, value in state.items()}
    left_out = (MOVING_AVERAGE, *keys.ignored) if backbone else (MOVING_AVERAGE,)
    ignored = [key for key in state if key.startswith(left_out)]
    prefix = "backbone." if backbone else ""
    if backbone:
        state = _renamed(state, keys.renamed)
    state = {f"{prefix}{key}": state[key] for key in state if not key.startswith(left_out)}
    try:
        entries = rules.torch_entries(expected, keys)
    except KeyError as error:
        raise UserError(
            f"no PyTorch file has the network's variable {error}: its module has no torch_keys"
        ) from error
    known_counters = {key for entry in entries.values() for key in entry.counters}
    counters = {key: _count(key, state[key]) for key in state if key in known_counters}
    weights = {key: value for key, value in state.items() if key not in counters}
    differences = difference.report(
        rules.torch_shapes(expected, keys),
        {key: value.shape for key, value in weights.items()},
        keys,
    )
    if differences:
        raise UserError(differences)
    _check_types(weights)
    _check_twins(weights, entries.values())
    variables = {
        name: rules.to_ours(weights[entry.key], entry.layout) for name, entry in entries.items()
    }
    return ImportResult(variables, counters, ignored, _json_able(meta), _not_finite(variables))


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


def _state_dict(tree: object) -> tuple[dict[str, np.ndarray], object]:
    state, meta = tree, {}
    if isinstance(tree, dict) and "state_dict" in tree:
        state, meta = tree["state_dict"], tree.get("meta", {})
    if not isinstance(state, dict) or not state:
        raise UserError(
            "it holds no state_dict: it is a PyTorch file, but no checkpoint of a model"
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise UserError(
                f"its state_dict has {printable(str(key))}, which is not a tensor: it is a PyTorch "
                "file, but no checkpoint of a model"
            )
    return state, meta


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


def _not_finite(variables: Mapping[str, np.ndarray]) -> list[str]:
    return [name for name, value in variables.items() if not np.isfinite(value).all()]


def _json_able(meta: object) -> dict[str, Any]:
    """The parts of `meta` that JSON can hold; tuples become lists."""
    if not isinstance(meta, dict):
        return {}
    return {str(key): _plain(value) for key, value in meta.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    items: Iterable[object] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    elif not isinstance(value, str | int | float | None):
        return False
    return all(_is_plain(item) for item in items)


def _plain(value: object) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
