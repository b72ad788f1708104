"""The section `data` of a config of segmentation."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from nonlocal_jax.config.setting_types import (
    IGNORED,
    MOST_PIXELS,
    AutoCount,
    Count,
    LabelMap,
    Positive,
    Probability,
    Scale,
    Size,
)
from nonlocal_jax.errors import counted


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training images and their augmentation."""

    name: str = "cityscapes"
    """The data set; `folder` is for your own images."""
    source: Literal["auto", "array_record", "folder"] = "auto"
    """What is read. array_record: prepared files. folder: the published tree. auto: the prepared
    files if they are there, else the tree."""
    classes_file: str = ""
    """For `folder`: a file with class names and colours. By default classes.json or classes.txt in
    the folder."""
    reduce_zero_label: bool = False
    """For `folder`: label 0 is ignored, and label k becomes k - 1."""
    label_map: LabelMap = field(default_factory=dict)
    """For `folder`: from the values in the masks to labels."""
    train_list: str = ""
    """For `folder`: a text file with names of the training images, one a line. They and their masks
    are below images/ and labels/. Empty: all of images/train and labels/train."""
    val_list: str = ""
    """For `folder`: the same for the validation images."""
    folders: tuple[str, ...] = ()
    """For `folder`: several folders of the same classes, in place of `data_dir`."""
    folder_weights: tuple[Annotated[float, Ge(1e-3), Le(1e3)], ...] = ()
    """How often training takes an example of each of `folders`, relative to the others. They are
    rounded down to hundredths of the smallest. Empty: all examples are taken equally often."""
    scale: Scale = (2048, 1024)
    """Long and short side that an image is fitted into, before the random ratio."""
    ratio_range: tuple[Positive, Positive] = (0.5, 2.0)
    """Smallest and largest ratio of the random resizing."""
    crop_size: Size = (512, 1024)
    """Height and width of a crop."""
    max_class_fraction: Annotated[float, Gt(0), Le(1)] = 0.75
    """A crop is drawn again, up to ten times, if one class has this share of its labelled pixels or
    more. 1: crops are never drawn again."""
    flip_probability: Probability = 0.5
    """Probability that an image is mirrored left to right."""
    vertical_flip_probability: Probability = 0.0
    """Probability that an image is mirrored top to bottom."""
    rotate_probability: Probability = 0.0
    """Probability that an image is rotated."""
    rotate_degrees: Annotated[float, Ge(0), Le(180)] = 10.0
    """Largest angle of a rotation, in either direction."""
    cutout_probability: Probability = 0.0
    """Probability that parts of an image are blacked out."""
    cutout_holes: Count = 1
    """Black boxes in such an image."""
    cutout_size: Size = (64, 64)
    """Height and width of a black box."""
    photometric_distortion: bool = True
    """Random brightness, contrast, saturation and hue."""
    num_threads: AutoCount = -1
    """Threads that load and augment examples. -1 or 0: one for each core."""
    num_workers: AutoCount = -1
    """Worker processes that load and augment examples. 0: threads alone. -1: chosen by the kind of
    files and the number of cores."""
    max_pixels: Count = MOST_PIXELS
    """Images and masks with more pixels are refused before they are decoded, in `predict`, too."""
    on_bad_example: Literal["raise", "skip"] = "raise"
    """What to do about an example that cannot be read. raise: stop. skip: take another one, and log
    it."""


def folder_problems(data: Data, data_dir: str) -> list[str]:
    """Contradictions between settings of several folders, a sentence each."""
    found = []
    if data.folders and data_dir:
        found.append("config.data.folders and config.data_dir exclude each other.")
    if data.folder_weights and len(data.folder_weights) != len(data.folders):
        found.append(
            f"config.data.folder_weights has {counted(len(data.folder_weights), 'number')}, and "
            f"config.data.folders {counted(len(data.folders), 'folder')}: there must be one for "
            "each."
        )
    return found


def label_map_problems(data: Data, classes: int) -> list[str]:
    """Labels in the label map that are no class, a sentence each."""
    least = 1 if data.reduce_zero_label else 0
    most = classes - 1 + least
    return [
        f"config.data.label_map has {value}: {label}; a label must be {least} to {most}, or "
        f"{IGNORED} for ignored (config.model.num_classes is {classes})."
        for value, label in data.label_map.items()
        if label > most and label != IGNORED
    ]
