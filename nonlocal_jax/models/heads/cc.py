"""The criss-cross head (Huang et al., CCNet, arXiv 1811.11721).

A position u attends to its row and its column, Omega_u, of h + w - 1 positions (equations 1 and 2):

    x'_u = gamma sum_{i in Omega_u} A_{i,u} V_i + x_u        A_{.,u} = softmax_i(Q_u . K_i)

Q, K and V are linear in x. After the second round with the same weights, each position has
information of all positions of the image: two steps, along the row and along the column, lead from
any position to any other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads import fcn
from nonlocal_jax.models.heads.block_head import BlockHead, BlockOptions
from nonlocal_jax.models.heads.head import Features, Head, Position
from nonlocal_jax.models.layers import UNIFORM_FAN_IN, Factor
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, under
from nonlocal_jax.ops.attention.criss_cross import criss_cross_attention, criss_cross_spread
from nonlocal_jax.ops.padding import Valid, zero_outside

REDUCTION = 8  # of the channels of queries and keys

TORCH_KEYS = (
    *fcn.TORCH_KEYS,
    *under(
        "criss_cross",
        "cca",
        (
            Row("query", "query_conv", "linear"),
            Row("key", "key_conv", "linear"),
            Row("value", "value_conv", "linear"),
            Row("gamma", "gamma", "factor"),
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Options(BlockOptions):
    """Settings of the head."""

    name: str = "cc"
    recurrence: schema.Count = 2
    """How many rounds of attention there are, with the same weights."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return CCHead(options, stages, num_classes, numerics)


class CrissCross(nnx.Module):
    """The recurrent criss-cross attention module.

    Args:
      features: channels of the input and the output.
      recurrence: number of rounds.
      numerics: dtypes and random numbers.
    """

    def __init__(self, features: int, recurrence: int, numerics: Numerics):
        self.recurrence, inner = recurrence, max(features // REDUCTION, 1)
        linear = partial(nnx.Linear, features, kernel_init=UNIFORM_FAN_IN, **numerics.of_layers)
        self.query, self.key, self.value = linear(inner), linear(inner), linear(features)
        self.gamma = Factor(param_dtype=numerics.param_dtype)

    def __call__(self, x: Features, valid: Valid | None = None) -> Features:
        """See Block."""
        return self._rounds(x, valid)[-1]

    def attention_map(
        self, x: Features, position: Position, valid: Valid | None = None
    ) -> Float[Array, "n h w"]:
        """See Block. The weights of all ways from the position to another, added up.

        A way has one step each round; its weight is the product of those of its steps.
        """
        index = jnp.ravel_multi_index(position, x.shape[1:3], mode="clip")
        weights = jax.nn.one_hot(index, x.shape[1] * x.shape[2]).reshape(x.shape[:3])
        for y in reversed(self._rounds(x, valid)[:-1]):
            weights = criss_cross_spread(weights, self.query(y), self.key(y), valid)
        return weights

    def _rounds(self, x: Features, valid: Valid | None) -> list[Features]:
        """`x`, and the result of each round."""
        found = [x]
        for _ in range(self.recurrence):
            y = criss_cross_attention(self.query(x), self.key(x), self.value(x), valid=valid)
            x = zero_outside(self.gamma(y) + x, valid)
            found.append(x)
        return found


class CCHead(BlockHead):
    """The FCN head with criss-cross attention between its two convolutions."""

    def __init__(
        self, options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
    ):
        super().__init__(options, stages, num_classes, numerics)
        self.criss_cross = CrissCross(options.channels, options.recurrence, numerics)

    @property
    def block(self) -> CrissCross:
        """See BlockHead."""
        return self.criss_cross

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return TORCH_KEYS
