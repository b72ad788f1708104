"""The settings of a video run, where they differ from those of segmentation.

The task is action recognition on Kinetics-400 (arXiv 1711.07971, section 4): a clip of frames gets
one label.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from nonlocal_jax.config import schema
from nonlocal_jax.config.schema import Count, CountOrNone, Probability, Steps, chosen


def backbone_details(kind: object, non_local: object) -> str:
    """What tells video backbones of a name apart, in words; "" for a backbone without these.

    Args:
      kind: the setting `kind` of a backbone: c2d, i3d. None: it has none.
      non_local: the setting `non_local`. None: it has none.
    """
    if kind is None or non_local is None:
        return ""
    return f"{str(kind).upper()} {'with' if non_local else 'without'} non-local blocks"


@dataclass(frozen=True, kw_only=True)
class VideoModel:
    """The network."""

    num_classes: Annotated[int, Ge(1)] = 400
    """Number of classes, and of logits for each clip."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """Compute dtype. Norms, softmax and loss stay float32. auto: bfloat16 on accelerators, float32
    on a CPU."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the parameters."""
    remat: Literal["auto", "none", "norms", "blocks"] = "auto"
    """What the backward pass computes again instead of storing it: nothing, norms, or whole
    residual blocks."""
    norm_group: CountOrNone = 8
    """Clips over which batch norm takes its statistics in training; the published networks saw the
    8 clips of a GPU. 0, or more than a batch has: the global batch."""
    backbone: schema.BackboneOptions = chosen("backbones", "video_resnet")
    """The backbone, with its non-local blocks: from clips to a feature map."""
    head: schema.HeadOptions = chosen("heads", "classification")
    """From the feature map to logits."""


@dataclass(frozen=True, kw_only=True)
class VideoData:
    """Training clips and their augmentation."""

    name: str = "kinetics"
    """The data set."""
    source: Literal["auto", "array_record", "list", "folder"] = "auto"
    """What is read. array_record: prepared files. list: a file of `path label` lines. folder: one
    folder of videos for each class. auto: the first of these that is there."""
    frames: Count = 8
    """Frames of a clip."""
    frame_stride: Count = 8
    """Every so many frames of the video, one is taken."""
    short_side: tuple[Count, Count] = (256, 320)
    """Smallest and largest length of the shorter side that a clip is resized to."""
    crop_size: Count = 224
    """Height and width of the crop."""
    flip_probability: Probability = 0.5
    """Probability that a clip is mirrored left to right."""
    num_threads: schema.AutoCount = -1
    """Threads that decode and augment clips. -1 or 0: one for each core."""
    num_workers: schema.AutoCount = -1
    """Worker processes that decode and augment clips. 0: threads alone."""
    on_bad_example: Literal["raise", "skip"] = "raise"
    """What to do about a video that cannot be read. raise: stop. skip: take another one, and log
    it."""


@dataclass(frozen=True, kw_only=True)
class VideoEval:
    """Testing on the validation split: the mean over several views of a video."""

    clips: Count = 10
    """Clips of a video, evenly spaced."""
    training_clips: Count = 1
    """Clips of a video in evaluations during training, one center crop of each."""
    crops: Literal["three", "center"] = "three"
    """Crops of a clip. three: along the longer side. center: one."""
    flip: bool = False
    """Whether each view is also mirrored."""
    short_side: Count = 256
    """Length of the shorter side that a clip is resized to."""
    crop_size: Count = 256
    """Height and width of a crop."""
    batch_size: Steps = 8
    """Views in a step over all devices."""


@dataclass(frozen=True, kw_only=True)
class VideoPublished:
    """What was published for a row: the checkpoint's address, and its results."""

    url: str = ""
    """Address of the checkpoint. Empty for a config of your own."""
    top1: float | None = None
    """Videos whose class has the largest probability, in percent."""
    top5: float | None = None
    """Videos whose class is among the five of largest probability, in percent."""


@dataclass(frozen=True, kw_only=True)
class VideoConfig(schema.Run):
    """A run of action recognition."""

    task: Literal["video"] = "video"
    batch_size: Steps = 64
    """Global batch size: clips in a step over all devices and hosts."""
    total_steps: Steps = 400_000
    """Number of training steps."""
    eval_every: Count = 20_000
    """Steps between evaluations."""
    checkpoint_every: Count = 10_000
    """Steps between checkpoints."""
    precise_norm_batches: CountOrNone = 200
    """Training batches over which the statistics of batch norm are averaged before an evaluation
    and a checkpoint. 0: they are running averages."""
    optimizer: schema.OptimizerOptions = chosen("optimizers", "caffe2_sgd")
    """The optimiser."""
    loss: schema.LossOptions = chosen("losses", "classification")
    """The loss that training minimises."""
    model: VideoModel = field(default_factory=VideoModel)
    data: VideoData = field(default_factory=VideoData)
    eval: VideoEval = field(default_factory=VideoEval)
    published: VideoPublished = field(default_factory=VideoPublished)

    def problems(self) -> list[str]:
        """Contradictions between settings whose values are right, a sentence each."""
        found = super().problems()
        low, high = self.data.short_side
        if low > high:
            found.append(f"config.data.short_side is {low, high}; the smaller one comes first.")
        for section, smallest in (("data", low), ("eval", self.eval.short_side)):
            crop = getattr(self, section).crop_size
            if crop > smallest:
                found.append(
                    f"config.{section}.crop_size is {crop}; it must be at most the shorter side "
                    f"of a clip, config.{section}.short_side, {smallest}."
                )
        if self.mesh.spatial != 1:
            found.append("config.mesh.spatial must be 1: clips are not split over devices.")
        part, group = self.batch_size // self.accumulate_steps, self.model.norm_group
        if 0 < group < part and part % group:
            found.append(
                f"config.model.norm_group is {group}; it must divide the {part} clips of a batch "
                "(config.batch_size / config.accumulate_steps), or be 0."
            )
        return found
