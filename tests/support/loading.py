"""The loader of small images, and what it gives."""

from nonlocal_jax.config.schema import Data
from nonlocal_jax.inputs.loader import Inputs


def small(root, seed=0, num_classes=11, **data):
    usual = {"name": "camvid", "scale": (60, 45), "crop_size": (32, 48), "num_threads": 2}
    return Inputs(
        data=Data(**{**usual, **data}),
        data_dir=str(root),
        num_classes=num_classes,
        batch_size=4,
        seed=seed,
    )


def take(count, inputs, **options):
    batches = inputs.train_batches(**options)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken
