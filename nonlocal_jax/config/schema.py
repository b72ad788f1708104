"""Every setting: its default, its type, its range and what it means.

A config is read once (see files.py) and becomes these frozen dataclasses. Other code
takes the section it needs, never the whole config.

A field made by `chosen` is a section whose `name` picks a module from a table (see tables.py). The
module's `Options` dataclass, a subclass of the field's type, has the other keys of the section.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from nonlocal_jax.config import data as of_data
from nonlocal_jax.config.data import Data as Data
from nonlocal_jax.config.setting_types import IGNORED as IGNORED
from nonlocal_jax.config.setting_types import MOST_PIXELS as MOST_PIXELS
from nonlocal_jax.config.setting_types import AutoCount as AutoCount
from nonlocal_jax.config.setting_types import AxisSize as AxisSize
from nonlocal_jax.config.setting_types import Count as Count
from nonlocal_jax.config.setting_types import CountOrNone as CountOrNone
from nonlocal_jax.config.setting_types import DropRate as DropRate
from nonlocal_jax.config.setting_types import Factor as Factor
from nonlocal_jax.config.setting_types import KeptShare as KeptShare
from nonlocal_jax.config.setting_types import Label as Label
from nonlocal_jax.config.setting_types import LabelMap as LabelMap
from nonlocal_jax.config.setting_types import NotNegative as NotNegative
from nonlocal_jax.config.setting_types import Positive as Positive
from nonlocal_jax.config.setting_types import Probability as Probability
from nonlocal_jax.config.setting_types import Scale as Scale
from nonlocal_jax.config.setting_types import Seed as Seed
from nonlocal_jax.config.setting_types import Size as Size
from nonlocal_jax.config.setting_types import Steps as Steps
from nonlocal_jax.config.setting_types import StepsOrNone as StepsOrNone
from nonlocal_jax.errors import UserError


def chosen(table: str, name: str, **values: object) -> Any:
    """A section whose `name` selects a module of a table; `values` replace its default options."""
    return field(metadata={"table": table, "values": {"name": name, **values}})


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Settings of all backbones."""

    name: str

    def for_platform(self, platform: str, dtype: str) -> "BackboneOptions":
        """These options with "auto" replaced by the choice for a platform and a compute dtype."""
        return self


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Settings of all heads."""

    name: str
    loss_weight: NotNegative = 1.0
    """Factor of the head's loss. An auxiliary head with weight 0 is not built."""

    def for_platform(self, platform: str, dtype: str) -> "HeadOptions":
        """These options with "auto" replaced by the choice for a platform and a compute dtype."""
        return self


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Settings of all losses."""

    name: str

    def problems(self, key: str, num_classes: int) -> list[str]:
        """Contradictions to the number of classes, a sentence each; the section is `key`."""
        return []


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Settings of all learning-rate schedules."""

    name: str

    def problems(self, key: str) -> list[str]:
        """Contradictions between the settings, a sentence each; the section is `key`."""
        return []

    def remarks(self, key: str, total_steps: int) -> list[str]:
        """What is surprising in a run of so many steps, a sentence each; the section is `key`."""
        return []


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Settings of all optimisers."""

    name: str
    learning_rate: Annotated[float, Gt(0), Le(1e12)] = 0.01
    """Learning rate at the start of the schedule."""
    weight_decay: Factor = 5e-4
    """Factor of the weight decay."""
    decay_norms: bool = True
    """Whether scales and biases of norms decay, too."""
    decay_biases: bool = True
    """Whether the biases of other layers decay, too."""
    undecayed: tuple[str, ...] = ()
    """Names of layers whose parameters do not decay, such as theta."""
    clip_norm: Annotated[float, Ge(0), Le(1e6)] = 0.0
    """Gradients are scaled down to this norm over all parameters if theirs is larger. 0: never."""
    backbone_factor: Factor = 1.0
    """Factor of the learning rate of the backbone's parameters."""
    head_factor: Factor = 1.0
    """Factor of the learning rate of all other parameters."""
    warmup_steps: StepsOrNone = 0
    """Steps of warm-up: the learning rate rises from near 0 to that of the schedule."""
    scale_from_batch_size: CountOrNone = 0
    """The batch size that the learning rate was chosen for. The schedule is multiplied by
    batch_size / scale_from_batch_size. 0: no scaling."""
    schedule: ScheduleOptions = chosen("schedules", "polynomial")
    """The schedule of the learning rate."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network."""

    num_classes: Annotated[int, Ge(1), Le(254)] = 19
    """Number of classes, and of logits for each pixel."""
    align_corners: bool = False
    """Bilinear resizing of logits: align the centres of the corner pixels (True), or use half-pixel
    centres (False)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """Compute dtype. Norms, softmax and loss stay float32. auto: bfloat16 on accelerators, float32
    on a CPU."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the parameters."""
    remat: Literal["auto", "none", "norms", "blocks"] = "auto"
    """What the backward pass computes again instead of storing it: nothing, norms, or whole
    residual blocks. auto: norms on TPUs, none elsewhere."""
    backbone: BackboneOptions = chosen("backbones", "resnet")
    """The backbone: from images to feature maps."""
    decode_head: HeadOptions = chosen("heads", "nonlocal")
    """The head whose logits are evaluated."""
    auxiliary_head: HeadOptions = chosen(
        "heads",
        "fcn",
        stage="stage3",
        channels=256,
        num_convs=1,
        concat_input=False,
        loss_weight=0.4,
    )
    """A second head that is used in training only."""


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Evaluation on the validation split."""

    mode: Literal["whole", "slide"] = "whole"
    """What the network is given: the whole image, or overlapping windows (slide)."""
    scale: Scale = (2048, 1024)
    """Long and short side that an image is fitted into."""
    window: Size = (769, 769)
    """Height and width of a window."""
    stride: Size = (513, 513)
    """Distance between windows, at most their size."""
    batch_size: Steps = 8
    """Images in a step over all devices. On a CPU each device takes one image."""
    tta_ratios: Annotated[tuple[Positive, ...], MinLen(1)] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    """Ratios of `scale` that test-time augmentation averages over."""
    tta_flip: bool = True
    """Whether test-time augmentation also averages over mirrored images."""
    metrics: Annotated[tuple[str, ...], MinLen(1)] = (
        "iou",
        "acc",
        "dice",
        "fscore",
        "precision",
    )
    """The scores of each class, in the order of the printed table."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """How the devices are arranged. At most one axis may be -1. With several TPU slices, only
    `data` spans them."""

    data: AxisSize = -1
    """Devices that split the batch. With several TPU slices, a multiple of their number."""
    fsdp: AxisSize = 1
    """Devices that split the batch, the parameters and the optimiser's state."""
    spatial: AxisSize = 1
    """Devices that split the height of an image."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was published for a row: the checkpoint's address, and its results."""

    url: str = ""
    """Address of the checkpoint. Empty for a config of your own."""
    sha256: str = ""
    """First digits of the SHA-256 of that file."""
    miou: float | None = None
    """Mean IoU, in percent."""
    miou_tta: float | None = None
    """Mean IoU with several scales and mirrored images, in percent."""
    memory_gb: float | None = None
    """Training memory of one GPU, in GB."""
    fps: float | None = None
    """Images per second of inference on a V100."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every run has. A subclass says what the sections of its task are."""

    task: str
    """What is learned. It decides what the sections hold."""
    seed: Seed = 0
    """Seed of initial weights, data order, augmentation and dropout."""
    data_dir: str = ""
    """Folder of the data set. Empty: its usual folders."""
    init_from: str = ""
    """An imported backbone, or a checkpoint, to start from. Empty: random weights."""
    init_skip_classifier: bool = False
    """Start with random classifiers, for a checkpoint of other classes in `init_from`."""
    init_match_classes: bool = False
    """Start with the classifiers of `init_from` for the classes that it has by the same name, upper
    and lower case included. The other classes start at random."""
    precision: Literal["default", "high", "highest"] = "default"
    """Precision of matrix products and convolutions. With highest, dtype auto means float32."""
    batch_size: Steps = 8
    """Global batch size: examples in a step over all devices and hosts."""
    accumulate_steps: Count = 1
    """Number of parts that a batch is computed in, one after another. Batch norm sees one part at a
    time."""
    total_steps: Steps = 40_000
    """Number of training steps."""
    skip_nonfinite_steps: CountOrNone = 0
    """Number of steps whose loss or gradient may be infinite or NaN. They change nothing. One more
    ends the run."""
    log_every: Count = 50
    """Steps between entries of the log."""
    eval_every: Count = 4_000
    """Steps between evaluations."""
    checkpoint_every: Count = 4_000
    """Steps between checkpoints."""
    log_to: tuple[str, ...] = ("auto",)
    """Where entries of the log go, besides metrics.jsonl. auto: to TensorBoard's event files if
    tensorboardX is installed."""
    keep_checkpoints: Count = 2
    """Number of latest checkpoints that are kept. The best by score is kept as well."""
    precise_norm_batches: CountOrNone = 0
    """Training batches over which the statistics of batch norm are averaged before an evaluation
    and a checkpoint. 0: they are running averages."""
    optimizer: OptimizerOptions = chosen("optimizers", "sgd")
    """The optimiser."""
    ema_decay: KeptShare = 0.0
    """The share of the exponential moving average of the weights that a step keeps, as 0.999. The
    average is what is evaluated, and what other commands read. 0: there is none."""
    loss: LossOptions = chosen("losses", "cross_entropy")
    """The loss that training minimises."""
    mesh: Mesh = field(default_factory=Mesh)
    model: Any  # a dataclass, as the others below
    data: Any
    eval: Any
    published: Any

    def problems(self) -> list[str]:
        """Contradictions between settings whose values are right, a sentence each."""
        found = []
        if self.batch_size % self.accumulate_steps:
            found.append(
                f"config.accumulate_steps is {self.accumulate_steps}; it must divide "
                f"config.batch_size, {self.batch_size}."
            )
        if [self.mesh.data, self.mesh.fsdp, self.mesh.spatial].count(-1) > 1:
            found.append("config.mesh has more than one -1; one axis at most takes what is left.")
        if self.init_skip_classifier and not self.init_from:
            found.append("config.init_skip_classifier has no effect without config.init_from.")
        if self.init_match_classes and not self.init_from:
            found.append("config.init_match_classes has no effect without config.init_from.")
        if self.init_match_classes and self.init_skip_classifier:
            found.append(
                "config.init_match_classes and config.init_skip_classifier exclude each other."
            )
        if self.ema_decay and self.precise_norm_batches:
            found.append("config.ema_decay and config.precise_norm_batches exclude each other.")
        return found + self.optimizer.schedule.problems("optimizer.schedule")


@dataclass(frozen=True, kw_only=True)
class Config(Run):
    """A run of semantic segmentation."""

    task: Literal["segmentation"] = "segmentation"
    init_from: str = "checkpoints/resnet50_v1c"
    """An imported backbone, or a checkpoint, to start from. Empty: random weights."""
    loss: LossOptions = chosen("losses", "cross_entropy")
    """The loss of the decode head, that is of each of its outputs."""
    auxiliary_loss: LossOptions = chosen("losses", "same")
    """The loss of the auxiliary head."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    eval: Eval = field(default_factory=Eval)
    published: Published = field(default_factory=Published)

    def problems(self) -> list[str]:
        """Contradictions between settings whose values are right, a sentence each."""
        found = super().problems()
        low, high = self.data.ratio_range
        if low > high:
            found.append(f"config.data.ratio_range is {low, high}; the smaller ratio comes first.")
        if any(s > w for s, w in zip(self.eval.stride, self.eval.window, strict=True)):
            found.append(
                f"config.eval.stride is {self.eval.stride}; it must be at most "
                f"config.eval.window, {self.eval.window}, or some pixels are in no window."
            )
        found += of_data.folder_problems(self.data, self.data_dir)
        classes = self.model.num_classes
        found += self.loss.problems("loss", classes)
        found += self.auxiliary_loss.problems("auxiliary_loss", classes)
        return found + of_data.label_map_problems(self.data, classes)


def for_segmentation(run: Run) -> Config:
    """The config, if it is one of segmentation.

    Raises:
      UserError: it has another task.
    """
    if not isinstance(run, Config):
        raise UserError(
            f"This needs a config of segmentation, and config.task is {run.task!r}: name another "
            "--config."
        )
    return run
