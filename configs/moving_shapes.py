"""A small video network on generated videos, whose class is a direction of motion.

    python -m nonlocal_jax.main --config=configs/moving_shapes.py
    python -m nonlocal_jax.main --config=configs/moving_shapes.py --config.model.backbone.kind=i3d

See nonlocal_jax/inputs/datasets/moving_shapes.py. One frame, and two neighbouring ones, say nothing
about the class. With --config.model.backbone.non_local=False this C2D can only guess.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The config."""
    config = kinetics.base()
    config.init_from = ""
    config.model.num_classes = 4
    config.model.norm_group = 0
    config.model.backbone.kind = "c2d"
    config.model.backbone.base_channels = 8
    config.model.head.dropout = 0.0
    config.model.head.window = 1

    config.data.name = "moving_shapes"
    config.data.frames = 8
    config.data.frame_stride = 2
    config.data.short_side = (32, 32)
    config.data.crop_size = 32
    config.eval.clips = 1
    config.eval.crops = "center"
    config.eval.short_side = 32
    config.eval.crop_size = 32

    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule.steps = (360, 450)
    config.batch_size = 16
    config.total_steps = 480
    config.log_every = 20
    config.eval_every = 480
    config.checkpoint_every = 120
    config.precise_norm_batches = 10
    return config
