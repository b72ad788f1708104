"""Finds the weights in what a PyTorch file holds: below other keys, or with a prefix."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from nonlocal_jax.checkpoints.pytorch.pickle_names import Unknown, printable
from nonlocal_jax.errors import UserError

# Keys under which training programs keep the weights. Below the first one is nothing else.
SECTIONS = ("state_dict", "model", "model_state_dict")
MAX_PREFIX = 200  # characters


class Wrapped(NamedTuple):
    """The content of a file.

    Attributes:
      state: the tensors, by the file's keys.
      beside: all other sections, such as `meta`.
      path: keys that lead to the tensors.
    """

    state: dict[str, np.ndarray]
    beside: dict[object, object]
    path: tuple[str, ...]


def state_dict(tree: object) -> Wrapped:
    """The tensors in what `torch_file.read` returned.

    Raises:
      UserError: it holds something else than tensors, or none.
    """
    beside: dict[object, object] = {}
    path: tuple[str, ...] = ()
    while (key := _section(tree)) and isinstance(tree, dict):
        beside |= {other: value for other, value in tree.items() if other != key}
        path, tree = (*path, key), tree[key]
    if isinstance(tree, Unknown):
        raise UserError(f"its {path[-1] if path else 'content'} is no state_dict: {tree.reason}")
    if not isinstance(tree, dict) or not tree:
        raise UserError(
            "it holds no state_dict: it is a PyTorch file, but no checkpoint of a model"
        )
    for key, value in tree.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise _no_tensor(key, value)
    return Wrapped(tree, beside, path)


def without_prefix(
    state: Mapping[str, np.ndarray], expected: Collection[str]
) -> tuple[dict[str, np.ndarray], str]:
    """The tensors without the prefix of all their keys, such as "module.", and this prefix.

    Args:
      state: the tensors, by the file's keys.
      expected: the keys that the network needs. The prefix that leaves most of them is removed; of
        equally good ones, the shortest.
    """
    first = next(iter(state))[:MAX_PREFIX]
    ends = [end + 1 for end, letter in enumerate(first) if letter == "."]
    common = [end for end in ends if all(key.startswith(first[:end]) for key in state)]
    needed = set(expected)
    best = max([0, *common], key=lambda end: sum(key[end:] in needed for key in state))
    return {key[best:]: value for key, value in state.items()}, first[:best]


def _section(tree: object) -> str:
    """The key below which the tensors are; empty if they are here."""
    if not isinstance(tree, dict):
        return ""
    if SECTIONS[0] in tree:
        return SECTIONS[0]
    return next((key for key in SECTIONS if isinstance(tree.get(key), dict)), "")


def _no_tensor(key: object, value: object) -> UserError:
    if isinstance(key, Unknown):
        return UserError(f"its state_dict cannot be read: {key.reason}")
    name = printable(str(key))
    if isinstance(value, Unknown):
        return UserError(f"{name} in its state_dict is no tensor that is known: {value.reason}")
    return UserError(
        f"its state_dict has {name}, which is not a tensor: it is a PyTorch file, but no "
        "checkpoint of a model"
    )
