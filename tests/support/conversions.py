"""The network of golden/convert_*.pth, and what an import of them needs."""

from networks import CONFIGS, GOLDEN  # noqa: F401

from nonlocal_jax.config import files
from nonlocal_jax.models.network import build_network

ROW = CONFIGS / "cityscapes_r50_512x1024_40k.py"
TINY = {
    "model.num_classes": 3,
    "model.backbone.stem_channels": 2,
    "model.backbone.base_channels": 2,
    "model.decode_head.channels": 8,
    "model.auxiliary_head.channels": 4,
}


def tiny_config(**overrides):
    """The config of the golden files; overrides are any of its keys."""
    return files.load(ROW, **TINY | overrides)


def shapes_and_keys(config):
    """Shapes of a network's variables, and which tensors of PyTorch they are."""
    network = build_network(config.model)
    return {name: leaf.shape for name, leaf in network.shapes.items()}, network.torch_keys
