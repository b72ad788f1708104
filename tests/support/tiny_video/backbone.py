"""One convolution with stride 8, and a non-local block."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nonlocal_jax.config import schema
from nonlocal_jax.models.backbones.video_backbone import Layer, VideoBackbone
from nonlocal_jax.models.non_local import NonLocal
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.video_layers import ConvNorm3d
from nonlocal_jax.models.video_non_local import VideoNonLocal

TASK = "video"


@dataclass(frozen=True, kw_only=True)
class Options(schema.BackboneOptions):
    """Settings of the backbone."""

    name: str = "tiny_video.backbone"
    width: schema.Count = 8
    """Channels."""
    shows: bool = True
    """Whether it tells of its block."""


def build(options: Options, numerics: Numerics) -> "Tiny":
    """The backbone, freshly initialised."""
    return Tiny(options, numerics)


class Tiny(VideoBackbone):
    """The backbone."""

    def __init__(self, options: Options, numerics: Numerics):
        self.features, self.shows = options.width, options.shows
        self.stem = ConvNorm3d(
            3, options.width, (3, 7), stride=(2, 8), norm="batch", numerics=numerics
        )
        self.block = VideoNonLocal(options.width, numerics=numerics)

    @property
    def attention_blocks(self) -> Mapping[str, NonLocal]:
        return {"block": self.block} if self.shows else {}

    def layers(self) -> Iterator[tuple[str, Layer]]:
        yield "stem", self.stem
        yield "block", self.block
