"""The types of settings, with their ranges."""

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, Predicate
from pydantic import BeforeValidator

IGNORED = 255  # the label of pixels that neither loss nor scores count
MOST_PIXELS = 100_000_000  # of an image, unless config.data.max_pixels says otherwise

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]
Steps = Annotated[int, Ge(1), Lt(2**31)]
"""A number that JAX counts to, in 32 bits."""
StepsOrNone = Annotated[int, Ge(0), Lt(2**31)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
Size = tuple[Count, Count]
"""Height and width, in pixels."""
Scale = tuple[Count, Count]
"""The long and the short side that an image is fitted into, in pixels."""
AutoCount = Annotated[int, Ge(-1)]
"""A number, or -1 to have it chosen."""
AxisSize = Annotated[int, Ge(-1), Predicate(lambda size: size != 0)]
"""Devices along an axis of the mesh. -1: all that the other axes leave."""
DropRate = Annotated[float, Ge(0), Lt(1)]
"""The share of channels that is dropped in training."""
KeptShare = Annotated[float, Ge(0), Lt(1)]
"""The share of a running average that each step keeps."""
Factor = Annotated[float, Ge(0), Le(1e3)]
Label = Annotated[int, Ge(0), Le(IGNORED)]


def _with_integer_keys(value: object) -> object:
    """Keys as integers: JSON and ConfigDict have text keys only."""
    if not isinstance(value, Mapping):
        return value
    return {int(k) if str(k).isdecimal() else k: v for k, v in value.items()}


LabelMap = Annotated[dict[Label, Label], BeforeValidator(_with_integer_keys)]
