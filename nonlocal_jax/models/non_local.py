"""The non-local block (Wang, Girshick, Gupta, He: Non-local Neural Networks, arXiv 1711.07971).

Each position i of a feature map x is computed from all positions j (equations 1 and 6):

    y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j)          z_i = W_z y_i + x_i

g, theta, phi and W_z are linear in the channels. Four choices of f and its normalisation C:

    mode                f(x_i, x_j)                          C(x)
    gaussian            exp(x_i . x_j)                       sum_j f(x_i, x_j)
    embedded_gaussian   exp(s theta(x_i) . phi(x_j))         sum_j f(x_i, x_j)
    dot_product         theta(x_i) . phi(x_j)                N, the number of positions j
    concatenation       ReLU(w . [theta(x_i), phi(x_j)])     N

`pairwise_weights` computes f / C as a matrix. The block itself never forms that matrix:
ops/attention/ computes the same sums without it.
"""

import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.attention_factors import AttentionFactors, Kind
from nonlocal_jax.models.layers import KAIMING_FAN_OUT, NORMAL_001, BatchNorm, fold_into
from nonlocal_jax.models.torch_keys import Row
from nonlocal_jax.ops.attention.concatenation import concatenation_attention
from nonlocal_jax.ops.attention.dot_product import dot_product_attention
from nonlocal_jax.ops.attention.keys import count_keys
from nonlocal_jax.ops.attention.softmax import softmax_attention
from nonlocal_jax.ops.dims import Dim
from nonlocal_jax.ops.layout import on_each_device, whole_rows
from nonlocal_jax.ops.padding import valid_mask, zero_outside

Mode = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
Features = Float[Array, "n *space c"]

KINDS: dict[str, Kind] = {
    "embedded_gaussian": "softmax",
    "gaussian": "softmax",
    "dot_product": "mean",
    "concatenation": "relu",
}

TORCH_KEYS = (
    Row("g", "g.conv", "linear"),
    Row("theta", "theta.conv", "linear"),
    Row("phi", "phi.conv", "linear"),
    Row("concat_project", "concat_project.conv", "linear"),
    Row("out", "conv_out.conv", "linear"),
    Row("norm", "conv_out.bn", "norm"),
)


def embedded_scale(channels: int) -> float:
    """The s of embedded_gaussian, 1 / sqrt(channels), as the published rows were trained.

    mmdetection once multiplied by sqrt(channels) (its issue 1447). Checkpoints of that time need
    the inverse.
    """
    return 1 / math.sqrt(channels)


class Embeddings(NamedTuple):
    """theta(x_i), phi(x_j) and g(x_j) of all positions, and which j are valid."""

    query: Float[Array, "n *space c"]
    key: Float[Array, "n k c"]
    value: Float[Array, "n k d"]
    key_valid: Bool[Array, "n k"] | None


class NonLocal(nnx.Module):
    """The block in any number of dimensions; NonLocal1d, 2d and 3d set `pool_window`.

    Args:
      features: channels of the input and the output.
      mode: the pairwise function, one of the four above.
      reduction: theta, phi and g have features // reduction channels, at least 1.
      use_scale: whether embedded_gaussian uses the scale s; otherwise s is 1.
      sub_sample: whether phi and g are max-pooled by 2, in space only: a quarter of the keys in 2D.
      norm: whether W_z is a bias-free linear layer and batch norm, as in the published heads, or a
        linear layer with bias. Either starts at zero, so a new block is the identity.
      video: the form of the original code for video. It differs in two places: sub_sample pools x,
        before phi and g; and W_z has a bias before a norm, too, and starts from normal(0.01).
      implementation: how the Gaussian modes compute their sums, see `softmax_attention`.
      dtype: compute dtype; softmax and sums are always float32.
      param_dtype: dtype of the parameters.

    Raises:
      UserError: `mode` is none of the four; in a call, the input has another number of axes or
        channels, or sub_sample meets a single row.
    """

    pool_window: tuple[int, ...]

    def __init__(
        self,
        features: int,
        *,
        mode: str = "embedded_gaussian",
        reduction: int = 2,
        use_scale: bool = True,
        sub_sample: bool = False,
        norm: bool = True,
        video: bool = False,
        implementation: str = "auto",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if mode not in get_args(Mode):
            raise UserError(f"non-local mode {mode!r} is none of {', '.join(get_args(Mode))}")
        self.features, self.mode, self.sub_sample, self.dtype = features, mode, sub_sample, dtype
        self.implementation, self.pool_first = implementation, video and sub_sample
        inner = max(features // reduction, 1)
        scaled = use_scale and mode == "embedded_gaussian"
        self.scale = embedded_scale(inner) if scaled else 1.0

        def linear(
            inputs: int, outputs: int, init: nnx.Initializer, use_bias: bool = True
        ) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=use_bias,
                kernel_init=init,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.g = linear(features, inner, NORMAL_001)
        if mode != "gaussian":
            self.theta = linear(features, inner, NORMAL_001)
            self.phi = linear(features, inner, NORMAL_001)
        if mode == "concatenation":
            self.concat_project = linear(2 * inner, 1, KAIMING_FAN_OUT, use_bias=False)
        before_norm = NORMAL_001 if video else KAIMING_FAN_OUT
        out_init = before_norm if norm else nnx.initializers.zeros
        self.out = linear(inner, features, out_init, use_bias=video or not norm)
        zero_norm = BatchNorm(features, zero_scale=True, dtype=dtype, param_dtype=param_dtype)
        self.norm = zero_norm if norm else None

    def __call__(self, x: Features, valid: Int[Array, "n ndim"] | None = None) -> Features:
        """Returns z, shaped like `x`, in the compute dtype.

        `valid` is the size of each image (height and width in 2D) in a padded batch. Positions
        outside of it are left out of the sums and of N, and are 0 in the result.
        """
        x = self._cast(x, valid)
        z = self.out(self._aggregate(x, valid))
        if self.norm is not None:
            z = self.norm(z)
        return zero_outside(x + z, valid)

    def _aggregate(
        self, x: Features, valid: Int[Array, "n ndim"] | None
    ) -> Float[Array, "n *space d"]:
        """y of all positions; `x` is in the compute dtype, and 0 outside of the images."""
        return self._gather(self._embed(x, valid))

    def fold_norm(self) -> None:
        """See models/fold.py."""
        if self.norm is not None:
            fold_into(self.out, self.norm)
            self.norm = None

    def attention_map(
        self,
        x: Features,
        position: tuple[int | Int[Array, "*n"], ...],
        valid: Int[Array, "n ndim"] | None = None,
    ) -> Float[Array, "n *key_space"]:
        """f(x_i, .) / C(x) of the query at `position` (row, column), over all keys, in float32.

        `position` is the same for all images, or one for each. Weights sum to one in the Gaussian
        modes. With `sub_sample` the keys are the pooled grid.
        """
        x = self._cast(x, valid)
        embeddings = self._embed(x, valid)
        index = jnp.ravel_multi_index(tuple(map(jnp.asarray, position)), x.shape[1:-1], mode="clip")
        each = jnp.broadcast_to(index, x.shape[:1])[:, None, None]
        query = jnp.take_along_axis(_flat(embeddings.query), each, axis=1)
        weights = self.pairwise_weights(embeddings._replace(query=query))
        return weights.reshape(x.shape[0], *self._key_space(x))

    def attention_factors(
        self, x: Features, valid: Int[Array, "n ndim"] | None = None
    ) -> AttentionFactors:
        """The queries and keys that `attention_map` is computed from; keys as there."""
        x = self._cast(x, valid)
        embeddings = self._embed(x, valid)
        query, key = embeddings.query, embeddings.key
        if self.mode == "concatenation":
            query, key = (part[..., None] for part in self._scores(embeddings))
        key = key.reshape(x.shape[0], *self._key_space(x), key.shape[-1])
        return AttentionFactors(
            query.astype(jnp.float32) * self.scale, key.astype(jnp.float32), kind=KINDS[self.mode]
        )

    def pairwise_weights(self, embeddings: Embeddings) -> Float[Array, "n q k"]:
        """f(x_i, x_j) / C(x) for all pairs, as a matrix in float32: the definition of the block."""
        query, key, _, key_valid = embeddings
        valid = True if key_valid is None else key_valid[:, None, :]
        if self.mode == "concatenation":
            a, b = self._scores(embeddings)
            f = nnx.relu(a.reshape(a.shape[0], -1, 1) + b[:, None, :])
        else:
            f = jnp.einsum("nqc,nkc->nqk", _flat(query), key, preferred_element_type=jnp.float32)
        if self.mode in ("gaussian", "embedded_gaussian"):
            return jax.nn.softmax(f * self.scale, axis=-1, where=valid)
        return jnp.where(valid, f / count_keys(key, key_valid), 0.0)

    def _gather(self, embeddings: Embeddings) -> Float[Array, "n *space d"]:
        """y, which is pairwise_weights(embeddings) times g(x), without forming the matrix.

        Queries stay on the devices that hold their rows. All keys of an image are sent to them.
        """
        query, key, value, key_valid = embeddings
        if self.mode == "concatenation":
            query, key = self._scores(embeddings)
        return on_each_device(self._sums, query, (key, value, key_valid))

    def _sums(
        self, query: Float[Array, "n *space_c"], keys: tuple[Array, Array, Array | None]
    ) -> Float[Array, "n *space d"]:
        """`_gather` for some rows of queries; concatenation takes scores, not theta and phi."""
        key, value, key_valid = keys
        if self.mode == "concatenation":
            space, flat = query.shape[1:], query.reshape(query.shape[0], -1)
            y = concatenation_attention(flat, key, value, key_valid=key_valid)
        elif self.mode == "dot_product":
            space = query.shape[1:-1]
            y = dot_product_attention(_flat(query), key, value, key_valid=key_valid)
        else:
            space = query.shape[1:-1]
            y = softmax_attention(
                _flat(query),
                key,
                value,
                scale=self.scale,
                key_valid=key_valid,
                implementation=self.implementation,
            )
        return y.reshape(y.shape[0], *space, y.shape[-1])

    def _cast(self, x: Features, valid: Int[Array, "n ndim"] | None) -> Features:
        """`x` in the compute dtype, 0 outside of the images."""
        if x.ndim != len(self.pool_window) + 2 or x.shape[-1] != self.features:
            raise UserError(
                f"{type(self).__name__} takes arrays with a batch axis, {len(self.pool_window)} "
                f"axes of positions and {self.features} channels; this one is {x.shape}."
            )
        return zero_outside(x.astype(self.dtype), valid)

    def _embed(self, x: Features, valid: Int[Array, "n ndim"] | None) -> Embeddings:
        """theta, phi and g of all positions; phi and g with their spatial axes flattened."""
        keys = self._pool(x) if self.pool_first else x
        theta, phi = (x, keys) if self.mode == "gaussian" else (self.theta(x), self.phi(keys))
        g = self.g(keys)
        if self.sub_sample and not self.pool_first:
            phi, g = self._pool(phi), self._pool(g)
        key_valid = None
        if valid is not None:
            # A pooled key is valid if its whole window is inside the image, as without padding.
            factors = jnp.array(self.pool_window if self.sub_sample else [1] * valid.shape[1])
            key_valid = valid_mask(valid // factors, phi.shape[1:-1]).reshape(x.shape[0], -1)
        # If rows do not divide over the devices, a reshape needs whole rows.
        return Embeddings(theta, _flat(whole_rows(phi)), _flat(whole_rows(g)), key_valid)

    def _scores(
        self, embeddings: Embeddings
    ) -> tuple[Float[Array, "n *space"], Float[Array, "n k"]]:
        """The halves of w . [theta_i, phi_j]: one number per query, and one per key."""
        kernel = self.concat_project.kernel[...][:, 0].astype(self.dtype)
        for_query, for_key = jnp.split(kernel, 2)
        products = [
            jnp.einsum("n...c,c->n...", part, half, preferred_element_type=jnp.float32)
            for part, half in ((embeddings.query, for_query), (embeddings.key, for_key))
        ]
        return products[0], products[1]

    def _pool(self, x: Features) -> Float[Array, "n *key_space c"]:
        if 0 in self._key_space(x):
            raise UserError(f"sub_sample pools by 2: {x.shape[1:-1]} positions are too few for it")
        return self._largest(x)

    def _largest(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *key_space c"]:
        """The largest of each window of `pool_window`; a rest at the end is left out."""
        pooled: Array = nnx.max_pool(x, self.pool_window, self.pool_window, padding="VALID")
        return pooled

    def _key_space(self, x: Features) -> tuple[Dim, ...]:
        if not self.sub_sample:
            return x.shape[1:-1]
        sizes = zip(x.shape[1:-1], self.pool_window, strict=True)
        return tuple(size // window for size, window in sizes)


def _flat(x: Features) -> Float[Array, "n p c"]:
    # Not -1, which JAX can't tell where sizes are symbols.
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


class NonLocal1d(NonLocal):
    """The block over sequences, [n, l, c]."""

    pool_window = (2,)


class NonLocal2d(NonLocal):
    """The block over images, [n, h, w, c]."""

    pool_window = (2, 2)


class NonLocal3d(NonLocal):
    """The block over videos, [n, t, h, w, c]."""

    pool_window = (1, 2, 2)
