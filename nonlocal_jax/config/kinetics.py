"""What the video rows share: the networks of the non-local paper as they were published.

A row is `row(...)` and states what differs from its siblings, and what was published for it.
"""

from typing import Literal

from ml_collections import ConfigDict

from nonlocal_jax.config import files

PUBLISHED_FILES = "https://dl.fbaipublicfiles.com/video-nonlocal"


def base() -> ConfigDict:
    """Every setting of a video run at its default; see video.py."""
    return ConfigDict(files.complete({"task": "video"}))


def row(
    kind: Literal["c2d", "i3d"], clip: Literal["8x8", "32x2"], *, non_local: bool, depth: int = 50
) -> ConfigDict:
    """Trained from ImageNet weights: 8 GPUs x 8 clips, 400k steps.

    Args:
      kind: the backbone.
      clip: frames x the distance between them. 32x2 strides over time in the stem.
      non_local: whether there are non-local blocks.
      depth: of the ResNet.
    """
    config = base()
    config.model.backbone.kind = kind
    config.model.backbone.depth = depth
    config.model.backbone.non_local = non_local
    _set_clip(config, clip)
    network = f"r101_{kind}" if depth == 101 else kind
    block = "nonlocal" if non_local else "baseline"
    config.init_from = f"checkpoints/kinetics_{network}_{block}_{clip}_initial"
    return config


def affine_row(clip: Literal["32x4", "128x1"], *, non_local: bool) -> ConfigDict:
    """I3D with frozen norms, trained from the baseline of shorter clips: 8 GPUs x 2 clips.

    Args:
      clip: frames x the distance between them. 128x1 strides over time in the stem.
      non_local: whether there are non-local blocks.
    """
    config = row("i3d", "8x8", non_local=non_local)
    config.model.backbone.norm = "affine"
    config.model.backbone.group_frames = 4
    config.model.norm_group = 0
    config.precise_norm_batches = 0
    _set_clip(config, clip)
    block = "nonlocal" if non_local else "baseline"
    config.init_from = f"checkpoints/kinetics_i3d_{block}_{clip}_initial"
    config.optimizer.learning_rate = 0.0025
    config.batch_size = 16
    return config


def four_gpus(config: ConfigDict) -> None:
    """Halves batch and learning rate: 4 GPUs x 8 clips."""
    config.batch_size = 32
    config.optimizer.learning_rate = 0.005


def published(stem: str, top1: float, top5: float) -> ConfigDict:
    """What was published for a row: the checkpoint's address, and its results in percent."""
    return ConfigDict({"url": f"{PUBLISHED_FILES}/{stem}.pkl", "top1": top1, "top5": top5})


def _set_clip(config: ConfigDict, clip: str) -> None:
    config.data.frames, config.data.frame_stride = (int(part) for part in clip.split("x"))
    config.model.backbone.time_stride = 2 if clip in ("32x2", "128x1") else 1
