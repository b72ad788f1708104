"""The type and the range of a setting, in words, from its annotation."""

import types
import typing
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "True or False"}


def describe(hint: Any) -> str:
    """The range of a setting: "a whole number, at least 1", "one of whole, slide"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        constraints = [words for part in arguments[1:] if (words := _constraint(part))]
        return ", ".join([describe(arguments[0]), *constraints])
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in arguments)}"
    if origin is tuple:
        each = describe(arguments[0])
        return f"a tuple, each {each}" if arguments[1] is ... else f"a pair, each {each}"
    if origin is dict:
        return f'a mapping like "{{7: 0}}", key and value each {describe(arguments[0])}'
    if origin is types.UnionType:
        return " or ".join(describe(part) for part in arguments if part is not type(None))
    return _WORDS.get(hint, str(hint))


def _constraint(part: object) -> str:
    """A bound in words; empty for other annotations."""
    if isinstance(part, Ge):
        return f"at least {part.ge}"
    if isinstance(part, Gt):
        return f"more than {part.gt}"
    if isinstance(part, Le):
        return f"at most {part.le}"
    if isinstance(part, Lt):
        return f"less than {part.lt}"
    if isinstance(part, MinLen):
        return f"{part.min_length} or more of them"
    if isinstance(part, Predicate):
        return "not 0"
    return ""
