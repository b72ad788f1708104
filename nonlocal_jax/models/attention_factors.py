"""The queries and keys that attention is computed from.

    kind      weights of position i over positions j
    softmax   softmax_j(query_i . key_j)
    mean      query_i . key_j / N, with N keys
    relu      ReLU(query_i + key_j) / N; queries and keys have one channel

With a unary map m, they are the mean of those and of m, which is the same for all positions.
"""

import dataclasses
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Int

Kind = Literal["softmax", "mean", "relu"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionFactors:
    """What the attention of all positions is computed from; see above.

    Attributes:
      query: of each position, float32 [n, *space, c], with the scale of the exponent.
      key: of each position that is attended to, float32 [n, *key_space, c].
      unary: the unary map, float32 [n, *key_space]; None if there is none.
      kind: how weights are computed from them.

    What predictors return are NumPy arrays without the axis n.
    """

    query: Float[Array | np.ndarray, "... c"]
    key: Float[Array | np.ndarray, "... c"]
    unary: Float[Array | np.ndarray, "..."] | None = None
    kind: Kind = dataclasses.field(default="softmax", metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageFactors:
    """Those of a batch of padded images.

    Attributes:
      factors: over the positions of the padded feature maps.
      sizes: height and width of each image in that of the queries.
      key_sizes: the same in that of the keys.
    """

    factors: AttentionFactors
    sizes: Int[Array, "n 2"]
    key_sizes: Int[Array, "n 2"]
