"""Video runs that take seconds: a tiny network on moving shapes."""

from conftest import REPOSITORY

from nonlocal_jax.config import files

TINY = {
    "model.backbone.name": "tiny_video.backbone",
    "model.head.window": 4,
    "model.head.dropout": 0.5,
    "data.frames": 4,
    "data.frame_stride": 8,
    "data.short_side": (32, 40),
    "data.crop_size": 32,
    "data.num_threads": 2,
    "eval.short_side": 32,
    "eval.crop_size": 32,
    "batch_size": 8,
    "total_steps": 4,
    "log_every": 1,
    "eval_every": 4,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
    "precise_norm_batches": 2,
    "optimizer.schedule.steps": (3,),
}


def tiny(**overrides):
    """A config of moving shapes; overrides are any of its keys."""
    return files.load(REPOSITORY / "configs" / "moving_shapes.py", **{**TINY, **overrides})
