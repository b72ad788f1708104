"""The legal and illegal values of settings, from the annotations of the config's dataclasses."""

import dataclasses
import typing

from annotated_types import Ge, Gt, Le, Lt


def bounds(hint):
    """The outermost legal and the first illegal values of a number's type."""
    base, *constraints = typing.get_args(hint)
    legal, illegal = [], []
    for constraint in constraints:
        match constraint:
            case Ge(edge) | Le(edge):
                legal.append(edge)
                illegal.append(beyond(base, edge, -1 if isinstance(constraint, Ge) else 1))
            case Gt(edge) | Lt(edge):
                illegal.append(edge)
                legal.append(beyond(base, edge, 1 if isinstance(constraint, Gt) else -1))
    return [base(value) for value in legal], [base(value) for value in illegal]


def beyond(base, edge, direction):
    """The next number after `edge`; of those that are not whole, one that is near."""
    return edge + direction * (1 if base is int else 1e-6 * max(1, abs(edge)))


def numbers(config):
    """Every setting that is a number, or a pair of them: key, type, whether it is a pair."""
    for key, hint in hints(config):
        pair = typing.get_origin(hint) is tuple
        inner = typing.get_args(hint)[0] if pair else hint
        if typing.get_origin(inner) is typing.Annotated and typing.get_args(inner)[0] in (
            int,
            float,
        ):
            yield key, inner, pair


def hints(section, prefix=""):
    """Every setting's type, by its key."""
    for name, hint in typing.get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            yield from hints(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def outermost(config):
    """Settings and the values at the ends of their ranges: every choice, smallest, largest."""
    for key, hint in hints(config):
        origin = typing.get_origin(hint)
        if origin is typing.Literal:
            yield from ((key, choice) for choice in typing.get_args(hint))
        elif hint is bool:
            yield from ((key, choice) for choice in (False, True))
    for key, hint, pair in numbers(config):
        yield from ((key, (value, value) if pair else value) for value in bounds(hint)[0])
