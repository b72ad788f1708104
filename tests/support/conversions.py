"""The network of golden/convert_*.pth, and what an import of them needs."""

import functools
import json

from networks import CONFIGS, GOLDEN

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
    network = _network(config.model)
    return {name: leaf.shape for name, leaf in network.shapes.items()}, network.torch_keys


@functools.cache
def _network(options):
    """Many rows have the same one."""
    return build_network(options)


@functools.cache
def reference_networks(file="convert_keys.json"):
    """{network: {key: shape}} of the reference, from a golden's table."""
    golden = json.loads((GOLDEN / file).read_text())
    tensors = [line.split(" ") for line in golden["tensors"]]
    shapes = [(key, tuple(int(n) for n in shape.split("x") if n)) for key, shape in tensors]
    return {
        name: dict(pair for start, stop in ranges for pair in shapes[start:stop])
        for name, ranges in golden["networks"].items()
    }
