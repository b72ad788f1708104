"""The non-local block of the original code for video: see models/non_local.py.

It pools before phi and g, and all its linear layers have a bias. It may attend inside groups of
frames only.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.attention_factors import AttentionFactors
from nonlocal_jax.models.caffe2_keys import Row
from nonlocal_jax.models.non_local import NonLocal3d
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.ops.max_pool import pool_pairs

Clips = Float[Array, "n t h w c"]

CAFFE2_KEYS = (
    Row("theta", "_theta", "linear"),
    Row("phi", "_phi", "linear"),
    Row("g", "_g", "linear"),
    Row("out", "_out", "linear"),
    Row("norm", "_bn", "norm"),
)


class VideoNonLocal(NonLocal3d):
    """The block over clips, [n, t, h, w, c].

    Args:
      features, mode, use_scale, sub_sample, norm, implementation: see NonLocal.
      group_frames: a clip of more frames is cut into groups of so many, and attention stays inside
        of a group. 0: it is over the whole clip.
      numerics: dtypes and random numbers.
    """

    def __init__(
        self,
        features: int,
        *,
        mode: str = "embedded_gaussian",
        use_scale: bool = True,
        sub_sample: bool = True,
        norm: bool = True,
        implementation: str = "auto",
        group_frames: int = 0,
        numerics: Numerics,
    ):
        super().__init__(
            features,
            mode=mode,
            use_scale=use_scale,
            sub_sample=sub_sample,
            norm=norm,
            video=True,
            implementation=implementation,
            **numerics.of_layers,
        )
        self.group_frames = group_frames

    def __call__(self, x: Clips, valid: Int[Array, "n 3"] | None = None) -> Clips:
        """See NonLocal. `valid` must be None: clips are not padded.

        Raises:
          UserError: the number of frames is no multiple of `group_frames`.
        """
        groups = self._groups(x)
        together: Clips = super().__call__(groups.reshape(-1, *groups.shape[2:]), valid)
        return together.reshape(x.shape)

    def attention_map(
        self,
        x: Clips,
        position: tuple[int | Int[Array, "*n"], ...],
        valid: Int[Array, "n 3"] | None = None,
    ) -> Float[Array, "n *key_space"]:
        """See NonLocal; `position` is frame, row, column. Frames of other groups have zeros."""
        groups = self._groups(x)
        frame, row, column = (jnp.broadcast_to(jnp.asarray(p), x.shape[:1]) for p in position)
        clip, (group, frame) = jnp.arange(x.shape[0]), jnp.divmod(frame, groups.shape[2])
        weights = super().attention_map(groups[clip, group], (frame, row, column), valid)
        empty = jnp.zeros((*groups.shape[:2], *weights.shape[1:]), weights.dtype)
        filled = empty.at[clip, group].set(weights)
        return filled.reshape(x.shape[0], x.shape[1], *weights.shape[2:])

    def attention_factors(
        self, x: Clips, valid: Int[Array, "n 3"] | None = None
    ) -> AttentionFactors:
        """See NonLocal.

        Raises:
          UserError: attention stays inside of groups of frames.
        """
        if self._groups(x).shape[1] > 1:
            raise UserError(
                "This block attends inside of groups of frames, so that its keys differ between "
                "them: choose another block, or config.model.backbone.group_frames=0."
            )
        return super().attention_factors(x, valid)

    def _largest(self, x: Clips) -> Float[Array, "n t rows columns c"]:
        """See NonLocal. Clips are not split over devices, so pairs may be sliced."""
        return pool_pairs(pool_pairs(x, 2), 3)

    def _groups(self, x: Clips) -> Float[Array, "n groups group_t h w c"]:
        frames = x.shape[1]
        length = self.group_frames if 0 < self.group_frames < frames else frames
        if frames % length:
            raise UserError(
                f"A block that groups {length} frames is given {frames}: choose config.data.frames "
                f"so that this is a multiple, or set config.model.backbone.group_frames to 0."
            )
        return x.reshape(x.shape[0], frames // length, length, *x.shape[2:])
