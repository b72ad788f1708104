"""A config to begin with, for a folder of one's own."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from nonlocal_jax.config import schema
from nonlocal_jax.inputs.datasets.dataset import Dataset

LARGEST_CROP = 512
MULTIPLE = 32  # of the sides of a crop: a power of two that the strides divide
BATCH_SIZE = 8
EPOCHS = 80
STEPS = (1_000, 40_000)
CONFIG = '''\
"""{root}: {count} training images of {classes} classes.

    nonlocal-jax convert --backbone=resnet50_v1c --output={weights}
    nonlocal-jax train --config=my/config.py

The first command downloads the ImageNet weights of the backbone, once for all configs. Without it,
config.init_from = "" starts from random weights.
"""

from nonlocal_jax.config import common


def get_config():
    config = common.base()
    config.data_dir = {root!r}
    config.data.name = "folder"
{lists}    config.model.num_classes = {classes}
    config.data.scale = config.eval.scale = {scale}
    config.data.crop_size = {crop}
    config.batch_size = {batch_size}
    config.total_steps = {steps}
    config.eval_every = config.checkpoint_every = {every}
    return config
'''


def config(
    root: pathlib.Path,
    dataset: Dataset,
    sizes: Sequence[tuple[int, int]],
    lists: Mapping[str, str],
) -> str:
    """The text of a config's file.

    Images keep their usual size, and a crop is as large as fits into it, to 512 pixels. Training
    takes each image about 80 times, but not for fewer than 1000 steps or more than 40000.

    Args:
      root: the folder.
      dataset: its description.
      sizes: height and width of each training image.
      lists: a file with names for each split; empty for none.
    """
    height, width = (int(side) for side in np.median(np.array(sizes), axis=0))
    steps = int(np.clip(EPOCHS * len(sizes) // BATCH_SIZE, *STEPS)) // 100 * 100
    listed = "".join(
        f"    config.data.{split}_list = {file!r}\n" for split, file in lists.items() if file
    )
    return CONFIG.format(
        root=str(root.absolute()),
        count=len(sizes),
        classes=dataset.num_classes,
        lists=listed,
        weights=schema.Config.init_from,
        scale=(max(height, width), min(height, width)),
        crop=(_crop(height), _crop(width)),
        batch_size=BATCH_SIZE,
        steps=steps,
        every=max(steps // 10, 1),
    )


def _crop(side: int) -> int:
    """The largest multiple that fits into a side, at least one."""
    return max(min(side, LARGEST_CROP) // MULTIPLE, 1) * MULTIPLE
