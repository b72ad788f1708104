"""Every setting: its default, its type, its range and what it means.

A config is read once (see files.py) and becomes these frozen dataclasses. Code below that edge
takes the section it needs, never the whole config.

A field made by `chosen` is a section whose `name` picks a module from a table (see tables.py). The
module's `Options` dataclass, a subclass of the field's type, says what else the section may hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate
from pydantic import BeforeValidator

IGNORED = 255  # the label of pixels that count for nothing

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
Size = tuple[Count, Count]
"""Height and width, in pixels."""
Scale = tuple[Count, Count]
"""The long and the short side that an image is fitted into, in pixels."""
AutoCount = Annotated[int, Ge(-1)]
"""A number, or -1 for what suits."""
AxisSize = Annotated[int, Ge(-1), Predicate(lambda size: size != 0)]
"""Devices along an axis of the mesh; -1 takes those that the other axes leave."""
DropRate = Annotated[float, Ge(0), Lt(1)]
"""The share of channels that training drops."""
Label = Annotated[int, Ge(0), Le(IGNORED)]


def _with_integer_keys(value: object) -> object:
    """JSON and ConfigDict know keys that are texts only."""
    if not isinstance(value, Mapping):
        return value
    return {int(k) if str(k).isdecimal() else k: v for k, v in value.items()}


LabelMap = Annotated[dict[Label, Label], BeforeValidator(_with_integer_keys)]


def chosen(table: str, name: str, **values: object) -> Any:
    """A section whose `name` picks a module of a table; `values` replace its options' defaults."""
    return field(metadata={"table": table, "values": {"name": name, **values}})


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """What every backbone has."""

    name: str


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """What every head has."""

    name: str
    loss_weight: NotNegative = 1.0
    """Factor of the head's loss. An auxiliary head with weight 0 is not built."""

    def for_platform(self, platform: str, dtype: str) -> Self:
        """The same with its "auto" values decided for a kind of device and a compute dtype."""
        return self


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What every loss has."""

    name: str


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """What every learning-rate schedule has."""

    name: str


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """What every optimiser has."""

    name: str
    learning_rate: Annotated[float, Gt(0), Le(1e3)] = 0.01
    """Learning rate at the start of the schedule."""
    weight_decay: Annotated[float, Ge(0), Le(1e3)] = 5e-4
    """Factor of the parameter in its own gradient."""
    warmup_steps: CountOrNone = 0
    """Steps over which the learning rate rises from near 0 to the schedule's."""
    scale_from_batch_size: CountOrNone = 0
    """The batch size that the learning rate is meant for. With another `batch_size` the schedule is
    multiplied by batch_size / scale_from_batch_size. 0 takes the learning rate as it is."""
    schedule: ScheduleOptions = chosen("schedules", "polynomial")
    """How the learning rate falls."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network."""

    num_classes: Annotated[int, Ge(1), Le(254)] = 19
    """Logits a pixel."""
    align_corners: bool = False
    """Whether bilinear resizing of logits aligns the corners' centres."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """Compute dtype; norms, softmax and loss stay float32. auto: bfloat16 on accelerators."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the parameters."""
    remat: Literal["auto", "none", "norms", "blocks"] = "auto"
    """What the backward pass computes again to save memory: nothing, norms, or whole residual
    blocks. auto: norms on accelerators, nothing on a CPU."""
    backbone: BackboneOptions = chosen("backbones", "resnet")
    """From images to feature maps."""
    decode_head: HeadOptions = chosen("heads", "nonlocal")
    """From feature maps to the logits that are evaluated."""
    auxiliary_head: HeadOptions = chosen(
        "heads",
        "fcn",
        stage="stage3",
        channels=256,
        num_convs=1,
        concat_input=False,
        loss_weight=0.4,
    )
    """A head that training alone sees."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training images and their augmentation."""

    name: str = "cityscapes"
    """A data set of the table, or folder for your own."""
    source: Literal["auto", "array_record", "folder"] = "auto"
    """array_record: prepared files. folder: the published tree. auto: what is there."""
    classes_file: str = ""
    """For `folder`: class names and palette, if not classes.json or classes.txt in the folder."""
    reduce_zero_label: bool = False
    """For `folder`: label 0 becomes ignored, and k becomes k - 1."""
    label_map: LabelMap = field(default_factory=dict)
    """For `folder`: mask value to label, where masks hold other numbers."""
    scale: Scale = (2048, 1024)
    """Long and short side that ratio 1 fits an image into."""
    ratio_range: tuple[Positive, Positive] = (0.5, 2.0)
    """Smallest and largest ratio of the random resize."""
    crop_size: Size = (512, 1024)
    """Height and width of a crop."""
    max_class_fraction: Annotated[float, Gt(0), Le(1)] = 0.75
    """A crop is drawn again while one class holds this share of its labelled pixels. 1: never."""
    flip_probability: Probability = 0.5
    """Of mirroring left to right."""
    vertical_flip_probability: Probability = 0.0
    """Of mirroring top to bottom."""
    rotate_probability: Probability = 0.0
    """Of a rotation."""
    rotate_degrees: Annotated[float, Ge(0), Le(180)] = 10.0
    """Largest angle of a rotation, in either direction."""
    cutout_probability: Probability = 0.0
    """Of black boxes."""
    cutout_holes: Count = 1
    """Black boxes in an image."""
    cutout_size: Size = (64, 64)
    """Height and width of a black box."""
    photometric_distortion: bool = True
    """Random brightness, contrast, saturation and hue."""
    num_threads: AutoCount = -1
    """Threads that make examples. -1 or 0: one a core."""
    num_workers: AutoCount = -1
    """Processes beside this one that make examples. 0: threads alone. -1: what suits."""
    on_bad_example: Literal["raise", "skip"] = "raise"
    """skip: take another example in place of one that can't be read, and count it."""


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Evaluation on the validation split."""

    mode: Literal["whole", "slide"] = "whole"
    """What the network sees: the whole image, or overlapping windows."""
    scale: Scale = (2048, 1024)
    """Long and short side that an image is fitted into."""
    window: Size = (769, 769)
    """Height and width of a window."""
    stride: Size = (513, 513)
    """Distance from window to window, at most the window's own size."""
    batch_size: Count = 8
    """Images a step over all devices. A CPU takes one a device."""
    tta_ratios: Annotated[tuple[Positive, ...], MinLen(1)] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    """Ratios of `scale` that test-time augmentation averages over."""
    tta_flip: bool = True
    """Whether test-time augmentation averages over mirrored images, too."""
    metrics: Annotated[tuple[str, ...], MinLen(1)] = (
        "iou",
        "acc",
        "dice",
        "fscore",
        "precision",
    )
    """Scores of every class, in the order of the table that is printed."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices by what they split. At most one axis may be -1."""

    data: AxisSize = -1
    """Devices that split the batch."""
    fsdp: AxisSize = 1
    """Devices that split the batch, the parameters and the optimiser's state."""
    spatial: AxisSize = 1
    """Devices that split the height of an image."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was published for a row: the checkpoint's address, and its results."""

    url: str = ""
    """Of the checkpoint; empty for a config of your own."""
    sha256: str = ""
    """First digits of the file's SHA-256."""
    miou: float | None = None
    """Mean IoU, in percent."""
    miou_tta: float | None = None
    """The same with several scales and mirrored images."""
    memory_gb: float | None = None
    """Training memory of a GPU."""
    fps: float | None = None
    """Images a second of inference on a V100."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    seed: Seed = 0
    """Of weights, data order, augmentation and dropout."""
    data_dir: str = ""
    """Where the data set lies; empty for its usual folders."""
    init_from: str = "checkpoints/resnet50_v1c"
    """An imported backbone or a checkpoint to start from; empty for random weights."""
    init_skip_classifier: bool = False
    """Leave the classifiers at random where `init_from` has other classes."""
    precision: Literal["default", "high", "highest"] = "default"
    """Of matrix products. With highest, dtype auto is float32."""
    batch_size: Count = 8
    """Global batch: images a step over all devices and hosts."""
    accumulate_steps: Count = 1
    """Parts of a batch that are computed one after another. Batch norm sees one part at a time."""
    total_steps: Count = 40_000
    """Steps of the whole run."""
    skip_nonfinite_steps: CountOrNone = 0
    """How many steps of a run may have an infinite or NaN loss or gradient. They change nothing."""
    log_every: Count = 50
    """Steps between lines of the log."""
    eval_every: Count = 4_000
    """Steps between evaluations."""
    checkpoint_every: Count = 4_000
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Latest checkpoints that are kept. The best by mIoU is kept besides."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: OptimizerOptions = chosen("optimizers", "sgd")
    """What changes the parameters."""
    loss: LossOptions = chosen("losses", "cross_entropy")
    """What training minimises."""
    eval: Eval = field(default_factory=Eval)
    mesh: Mesh = field(default_factory=Mesh)
    published: Published = field(default_factory=Published)


def problems(config: Config) -> list[str]:
    """What is wrong between settings that are right one by one, a sentence each."""
    found = []
    if config.batch_size % config.accumulate_steps:
        found.append(
            f"config.accumulate_steps is {config.accumulate_steps}; it must divide "
            f"config.batch_size, {config.batch_size}."
        )
    low, high = config.data.ratio_range
    if low > high:
        found.append(f"config.data.ratio_range is {low, high}; the smaller ratio comes first.")
    if any(s > w for s, w in zip(config.eval.stride, config.eval.window, strict=True)):
        found.append(
            f"config.eval.stride is {config.eval.stride}; it must be at most config.eval.window, "
            f"{config.eval.window}, or some pixels are in no window."
        )
    if [config.mesh.data, config.mesh.fsdp, config.mesh.spatial].count(-1) > 1:
        found.append("config.mesh has more than one -1; one axis at most takes what is left.")
    found += _label_map_problems(config.data, config.model.num_classes)
    return found


def _label_map_problems(data: Data, classes: int) -> list[str]:
    least = 1 if data.reduce_zero_label else 0
    most = classes - 1 + least
    return [
        f"config.data.label_map has {value}: {label}; a label must be {least} to {most}, or "
        f"{IGNORED} for ignored (config.model.num_classes is {classes})."
        for value, label in data.label_map.items()
        if label > most and label != IGNORED
    ]
