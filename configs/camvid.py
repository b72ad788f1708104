"""A small NonLocalNet, R-18-D8, on CamVid at 180x240: a quarter of an hour on two cores.

    python -m nonlocal_jax.main --config=configs/camvid.py --config.data_dir=FOLDER

FOLDER holds images/train, images/val, labels/train, labels/val and classes.json. Any folder of
images and index masks in this layout trains like this: see data/camvid/README.md.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The config."""
    config = common.base()
    config.init_from = ""
    config.model.num_classes = 11
    config.model.backbone.depth = 18
    config.model.decode_head.channels = 128
    config.model.auxiliary_head.channels = 64

    config.data.name = "camvid"
    config.data.scale = (240, 180)
    config.data.crop_size = (180, 240)
    config.eval.scale = (240, 180)

    config.batch_size = 8
    config.total_steps = 400
    config.log_every = 20
    config.eval_every = 100
    config.checkpoint_every = 50
    return config
