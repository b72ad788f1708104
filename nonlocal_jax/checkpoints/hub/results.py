"""The scores that are known of a checkpoint: the run's own, and published ones."""

from dataclasses import dataclass

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config.schema import Config, Eval, Run
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import counted


@dataclass(frozen=True)
class Known:
    """A score of a checkpoint.

    Attributes:
      metric: its type, by the hub's name.
      name: its name.
      percent: its value.
      protocol: how it was measured.
      origin: who measured it, and of what.
      url: address of the published file; empty for a score of the run.
    """

    metric: str
    name: str
    percent: float
    protocol: str
    origin: str
    url: str = ""


def known(metadata: Metadata, score: float | None) -> list[Known]:
    """The scores that are known of a checkpoint.

    Args:
      metadata: of the checkpoint, with its config.
      score: what the run's own evaluation gave, from 0 to 1.
    """
    config = metadata.config
    assert config is not None
    measured = [] if score is None else [_measured(config, 100 * score)]
    return measured + _published(config, metadata)


def _measured(config: Run, percent: float) -> Known:
    metric, name, protocol = "accuracy", "top-1", ""
    if isinstance(config, Config):
        metric, name, protocol = "mean_iou", "mIoU", _protocol(config.eval)
    elif isinstance(config, VideoConfig):
        clips, side = config.eval.training_clips, config.eval.short_side
        taken = f"{counted(clips, 'clip')} of a video"
        protocol = f"{taken}, the center crop of each, shorter side {side}"
    return Known(metric, name, round(percent, 2), protocol, "measured by the run itself")


def _protocol(settings: Eval) -> str:
    scale = "x".join(map(str, settings.scale))
    if settings.mode == "whole":
        return f"whole images, fitted into {scale}, one scale, not mirrored"
    window, stride = ("x".join(map(str, size)) for size in (settings.window, settings.stride))
    return f"windows of {window} every {stride}, images fitted into {scale}, not mirrored"


def _published(config: Run, metadata: Metadata) -> list[Known]:
    """What was published, if the checkpoint is the published file, converted."""
    rows: list[tuple[str, str, float | None, str]] = []
    url, is_this_file = "", False
    if isinstance(config, Config):
        row, url = config.published, config.published.url
        digest = metadata.source.get("sha256", "")
        is_this_file = bool(row.sha256) and digest.startswith(row.sha256)
        rows = [
            ("mean_iou", "mIoU", row.miou, "that of the published row"),
            ("mean_iou", "mIoU, ms+flip", row.miou_tta, "several scales and mirrored images"),
        ]
    elif isinstance(config, VideoConfig):
        video, url = config.published, config.published.url
        # These files were published without a hash, so that their name has to do.
        is_this_file = bool(url) and url.rpartition("/")[2] == metadata.source.get("file")
        rows = [
            ("accuracy", "top-1", video.top1, "that of the published row"),
            ("accuracy", "top-5", video.top5, "that of the published row"),
        ]
    origin = "published with the converted file, not measured here"
    return [
        Known(metric, name, value, protocol, origin, url)
        for metric, name, value, protocol in rows
        if value is not None and is_this_file
    ]
