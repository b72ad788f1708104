"""What a PyTorch file holds beside its weights: JSON keeps the plain values of `meta`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nonlocal_jax.checkpoints.pytorch.pickle_names import Unknown, printable

META = "meta"


def json_able(meta: object) -> dict[str, Any]:
    """The parts of `meta` that JSON can hold; tuples become lists."""
    if not isinstance(meta, dict):
        return {}
    return {str(key): _plain(value) for key, value in meta.items() if _is_plain(value)}


def left_out(beside: Mapping[object, object]) -> list[str]:
    """What is not taken over of `meta`, and the other sections with values that are unknown.

    Each is named with what it is: "meta.time (datetime.datetime)".
    """
    return list(_left_out(beside))


def _left_out(beside: Mapping[object, object]) -> Iterator[str]:
    for section, content in beside.items():
        if section == META and isinstance(content, dict):
            for key, value in content.items():
                if not _is_plain(value) or isinstance(key, Unknown):
                    yield f"{META}.{_name(key)} ({next(_others(value), _name(key))})"
        elif isinstance(section, Unknown) or any(_unknown(content)):
            yield f"{_name(section)} ({next(_unknown(content), _name(section))})"


def _name(key: object) -> str:
    return key.what if isinstance(key, Unknown) else printable(str(key))


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return (*(key for key in value if isinstance(key, Unknown)), *value.values())
    return value if isinstance(value, list | tuple) else ()


def _unknown(value: object) -> Iterator[str]:
    """What each unknown value is."""
    if isinstance(value, Unknown):
        yield value.what
    for item in _items(value):
        yield from _unknown(item)


def _others(value: object) -> Iterator[str]:
    """What each value is that JSON cannot hold."""
    if isinstance(value, Unknown):
        yield value.what
    elif isinstance(value, np.ndarray):
        yield "a tensor"
    elif not isinstance(value, dict | list | tuple | str | int | float | None):
        yield type(value).__name__
    for item in _items(value):
        yield from _others(item)


def _is_plain(value: object) -> bool:
    return next(_others(value), None) is None


def _plain(value: object) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
