"""What `nonlocal_jax.load` returns for a video network.

    import nonlocal_jax

    model = nonlocal_jax.load("checkpoints/kinetics_i3d_nonlocal_8x8")
    model.top("video.mp4")                              # [("abseiling", 0.93), ...]
    weights = model.attention("video.mp4", (4, 120, 80))  # what that pixel attends to

A video is the path of a file, its bytes, or its frames: RGB, uint8 [frames, h, w, 3].
"""

import dataclasses
import functools
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from nonlocal_jax.checkpoints.hub.save import LICENSE, save
from nonlocal_jax.config import schema
from nonlocal_jax.config.video import VideoEval
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.video.evaluate import view_count
from nonlocal_jax.evaluation.video.restore import RestoredVideo
from nonlocal_jax.evaluation.video.scores import SHOWN
from nonlocal_jax.evaluation.video.views import Sizes, Variables, ViewProgram
from nonlocal_jax.inputs.video import transforms
from nonlocal_jax.inputs.video.example import EncodedVideo
from nonlocal_jax.models.attention_factors import AttentionFactors
from nonlocal_jax.models.video_network import VideoNetwork
from nonlocal_jax.ops.normalize import normalize_clips
from nonlocal_jax.runtime import sharding

AnyVideo = str | os.PathLike[str] | bytes | np.ndarray
Clip = UInt8[np.ndarray, "t s s 3"]


class Attended(NamedTuple):
    """What one position of a clip attends to.

    Attributes:
      clip: what the network has seen.
      weights: over the positions of the block's feature map. They sum to one in the Gaussian modes.
    """

    clip: Clip
    weights: Float[np.ndarray, "frames rows columns"]


class VideoPredictor:
    """A video network with its weights and its views; see `nonlocal_jax.load`.

    Args:
      restored: a checkpoint.
      tta: add each view mirrored.

    Attributes:
      class_names: name of each class index.
      config: the config in use.
      found: folder and step of the checkpoint.
    """

    def __init__(self, restored: RestoredVideo, *, tta: bool = False):
        self.class_names, self.config = restored.class_names, restored.config
        self.found = restored.found
        self._network = restored.network
        self._mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
        self._variables: Variables = sharding.place_variables(restored.variables, self._mesh)
        settings = self.config.eval
        self._views = dataclasses.replace(settings, flip=settings.flip or tta)
        self._attend, self._factor = (  # a program for each block
            jax.jit(functools.partial(function, restored.network), static_argnums=0)
            for function in (attention_map, attention_factors)
        )

    def probabilities(self, video: AnyVideo) -> Float[np.ndarray, "classes"]:
        """The probability of each class: the mean over the views of the config's test.

        Raises:
          UserError: the video can't be read, or the probabilities are not finite.
        """
        seen = self._test_views(video, self._views)

        def read(_: int) -> transforms.Video:
            return transforms.Video(seen, 0, "the video")

        ((_, _, mean),) = self._program.means(self._variables, read, [0], view_count(self._views))
        return mean

    def predict(self, video: AnyVideo) -> int:
        """The class index of the largest probability.

        Raises:
          UserError: see `probabilities`.
        """
        return int(np.argmax(self.probabilities(video)))

    def top(self, video: AnyVideo, count: int = SHOWN) -> list[tuple[str, float]]:
        """Names and probabilities of the most probable classes, in order.

        Raises:
          UserError: see `probabilities`.
        """
        found = self.probabilities(video)
        first = np.argsort(-found, kind="stable")[:count]
        return [(self.class_names[label], float(found[label])) for label in first]

    def attention(
        self, video: AnyVideo, point: tuple[int, int, int], *, block: str = ""
    ) -> Attended:
        """What a non-local block attends to at one pixel of the middle clip's center crop.

        Args:
          video: the video.
          point: frame of the clip, row and column of the crop, from 0.
          block: one of `attention_blocks`; by default the last.

        Raises:
          UserError: the network has no such block, or the pixel is outside the clip.
        """
        clip = self._middle_clip(video)
        sizes = clip.shape[:3]
        if not all(0 <= place < size for place, size in zip(point, sizes, strict=True)):
            raise UserError(
                f"Frame {point[0]}, row {point[1]}, column {point[2]} is not in a clip of "
                f"{sizes[0]} frames, {sizes[1]} rows and {sizes[2]} columns."
            )
        relative = (np.array([point], np.float32) + 0.5) / np.array(sizes, np.float32)
        weights = self._attend(block, self._variables, clip[None], relative)
        return Attended(clip, np.asarray(weights)[0])

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, license: str = LICENSE
    ) -> pathlib.Path:
        """Saves the checkpoint as a hub folder; see `Predictor.save_pretrained`.

        Raises:
          UserError: the folder exists or can't be written, or the checkpoint is gone, damaged, or
            of another network than the config.
        """
        return save(
            self.found, self.config, directory, class_names=self.class_names, license=license
        )

    def attention_factors(
        self, video: AnyVideo, *, block: str = ""
    ) -> tuple[Clip, AttentionFactors]:
        """The clip of `attention`, and the queries and keys that its weights are computed from.

        They have no batch axis. See `Predictor.attention_factors` for the position of a pixel.

        Raises:
          UserError: the network has no such block, or it attends inside of groups of frames.
        """
        clip = self._middle_clip(video)
        found = self._factor(block, self._variables, clip[None])
        return clip, AttentionFactors(
            np.asarray(found.query)[0], np.asarray(found.key)[0], kind=found.kind
        )

    @property
    def attention_blocks(self) -> tuple[str, ...]:
        """Names of the non-local blocks, in the order of the network."""
        return self._network.attention_blocks

    @functools.cached_property
    def _program(self) -> ViewProgram:
        batch = min(self._views.batch_size, view_count(self._views))
        sizes = Sizes(batch, self.config.data.frames, self._views.crop_size)
        return ViewProgram(self._network, self._mesh, sizes)

    def _middle_clip(self, video: AnyVideo) -> Clip:
        center = dataclasses.replace(self.config.eval, crops="center", flip=False)
        views = self._test_views(video, center)
        return views[len(views) // 2]

    def _test_views(self, video: AnyVideo, settings: VideoEval) -> transforms.Views:
        data = self.config.data
        if isinstance(video, np.ndarray):
            frames = check_frames(video)
            return transforms.views_of_frames(frames, data.frames, data.frame_stride, settings)
        content = video if isinstance(video, bytes) else pathlib.Path(video)
        where = "The video" if isinstance(video, bytes) else str(content)
        encoded = EncodedVideo(content, 0, where, where)
        return transforms.test_views(encoded, data.frames, data.frame_stride, settings)


def attention_map(
    network: VideoNetwork,
    block: str,
    variables: Variables,
    clips: UInt8[Array, "n t s s 3"],
    relative: Float[Array, "n 3"],
) -> Float[Array, "n frames rows columns"]:
    """What a block attends to at one position of each clip; see `Recognizer.attention_map`."""
    model = network.bind_for_inference(variables)
    return model.attention_map(normalize_clips(jnp.asarray(clips)), relative, block)


def attention_factors(
    network: VideoNetwork, block: str, variables: Variables, clips: UInt8[Array, "n t s s 3"]
) -> AttentionFactors:
    """The queries and keys of a block; see `Recognizer.attention_factors`."""
    model = network.bind_for_inference(variables)
    return model.attention_factors(normalize_clips(jnp.asarray(clips)), block)


def check_frames(video: np.ndarray) -> UInt8[np.ndarray, "n h w 3"]:
    """The frames of a video as an array, if they are RGB, uint8 [frames, h, w, 3].

    Raises:
      UserError: they have another dtype or shape.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
        raise UserError(
            f"A video must be RGB, uint8 [frames, h, w, 3]; this is {video.dtype} "
            f"{list(video.shape)}. The path of a file is decoded for you."
        )
    return video
