"""What the rows share: NonLocalNet R-50-D8 as MMSegmentation 0.x trained and published it.

A row starts from `cityscapes()`, `ade20k()` or `voc12aug()` and states only what differs.
Every value can be overridden on the command line: `--config.optimizer.learning_rate=0.02`.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import files

PUBLISHED_FILES = "https://download.openmmlab.com/mmsegmentation/v0.5"


def base() -> ConfigDict:
    """Every setting at its default, which is that of the Cityscapes rows; see schema.py."""
    return ConfigDict(files.complete({}))


def cityscapes() -> ConfigDict:
    """Cityscapes, 512x1024 crops: 4 GPUs x 2 images."""
    return base()


def cityscapes_769() -> ConfigDict:
    """Cityscapes, 769x769 crops, aligned corners, sliding-window tests: 4 GPUs x 2 images."""
    config = base()
    config.model.align_corners = True
    config.data.scale = (2049, 1025)
    config.data.crop_size = (769, 769)
    config.eval.mode = "slide"
    config.eval.scale = (2049, 1025)
    return config


def ade20k() -> ConfigDict:
    """ADE20K (SceneParse150), 512x512 crops: 4 GPUs x 4 images."""
    config = base()
    config.model.num_classes = 150
    config.data.name = "ade20k"
    config.data.scale = (2048, 512)
    config.data.crop_size = (512, 512)
    config.eval.scale = (2048, 512)
    config.batch_size = 16
    config.total_steps = 80_000
    config.eval_every = config.checkpoint_every = 8_000
    return config


def voc12aug() -> ConfigDict:
    """Pascal VOC 2012 with the SBD masks, 512x512 crops: 4 GPUs x 4 images."""
    config = base()
    config.model.num_classes = 21
    config.data.name = "voc12aug"
    config.data.scale = (2048, 512)
    config.data.crop_size = (512, 512)
    config.eval.scale = (2048, 512)
    config.batch_size = 16
    config.total_steps = 20_000
    config.eval_every = config.checkpoint_every = 2_000
    return config


def resnet101(config: ConfigDict) -> None:
    """Deepens the backbone, and starts from its ImageNet weights."""
    config.model.backbone.depth = 101
    config.init_from = "checkpoints/resnet101_v1c"


def published(
    stem: str, date_and_hash: str, *, folder: str = "nonlocal_net", **results: float | None
) -> ConfigDict:
    """What MMSegmentation published for a row: the checkpoint's address, and its results.

    The eight hex digits at the end of the name begin the file's SHA-256.

    Args:
      stem: name of the reference's config.
      date_and_hash: what follows it in the file's name.
      folder: the reference's folder of the method.
      **results: mIoU (`miou`), with ms+flip (`miou_tta`), training memory per GPU (`memory_gb`)
        and inference on a V100 (`fps`), where the reference's table has them.
    """
    url = f"{PUBLISHED_FILES}/{folder}/{stem}/{stem}_{date_and_hash}.pth"
    return ConfigDict({"url": url, "sha256": date_and_hash.rpartition("-")[2], **results})
