"""A small NonLocalNet on generated scenes, see nonlocal_jax/inputs/datasets/scenes.py.

    python -m nonlocal_jax.demo
    python -m nonlocal_jax.main --config=configs/demo.py --config.model.decode_head.name=fcn

The first command trains it with and without the non-local block, the second without.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The config."""
    config = common.base()
    config.init_from = ""
    config.model.num_classes = 5
    config.model.backbone.depth = 18
    config.model.backbone.stem_channels = 16
    config.model.backbone.base_channels = 8
    config.model.decode_head.channels = 32
    config.model.decode_head.dropout = 0.0
    # Stage 3 cannot see the lamp, either. A loss there would teach the backbone to guess.
    config.model.auxiliary_head.loss_weight = 0.0

    config.data.name = "scenes"
    config.data.scale = (512, 64)
    config.data.ratio_range = (1.0, 1.0)
    config.data.crop_size = (64, 512)
    config.data.max_class_fraction = 1.0
    config.data.photometric_distortion = False  # it would change the lamp's colour
    config.eval.scale = (512, 64)

    config.optimizer.learning_rate = 0.1
    config.batch_size = 8
    config.total_steps = 480
    config.log_every = 20
    config.eval_every = 480
    config.checkpoint_every = 120
    return config
