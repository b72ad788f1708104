"""Names of a ResNet and of its layers in PyTorch files: MMSegmentation's, torchvision's and timm's.

All three agree on the stages. torchvision has the plain stem alone (v1). timm names the layers of a
deep stem "conv1.0", ..., and the last norm of it "bn1".
"""

import re
from collections.abc import Iterable
from typing import Any

from nonlocal_jax.models.torch_keys import Row, TorchKeys

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
NAME = re.compile(r"resnet(\d{1,4})_(v1[cd]?)(_caffe)?")

PLAIN_STEM = (Row("stem/0/conv", "conv1", "conv"), Row("stem/0/norm", "bn1", "norm"))
DEEP_STEM = (
    Row("stem/0/conv", "stem.0", "conv"),
    Row("stem/0/norm", "stem.1", "norm"),
    Row("stem/1/conv", "stem.3", "conv"),
    Row("stem/1/norm", "stem.4", "norm"),
    Row("stem/2/conv", "stem.6", "conv"),
    Row("stem/2/norm", "stem.7", "norm"),
)
# timm's deep stem: the beginnings of its keys, and what MMSegmentation has in their place.
TIMM_STEM = (*((f"conv1.{i}.", f"stem.{i}.") for i in (0, 1, 3, 4, 6)), ("bn1.", "stem.7."))
BLOCKS = (
    Row("stage{s}/{b}/conv{c}/conv", "layer{s}.{b}.conv{c}", "conv"),
    Row("stage{s}/{b}/conv{c}/norm", "layer{s}.{b}.bn{c}", "norm"),
)
SHORTCUT = (
    Row("stage{s}/{b}/downsample/conv", "layer{s}.{b}.downsample.0", "conv"),
    Row("stage{s}/{b}/downsample/norm", "layer{s}.{b}.downsample.1", "norm"),
)
# V1d's shortcut begins with an average-pool, which counts as number 0.
POOLED_SHORTCUT = (
    Row("stage{s}/{b}/downsample/conv", "layer{s}.{b}.downsample.1", "conv"),
    Row("stage{s}/{b}/downsample/norm", "layer{s}.{b}.downsample.2", "norm"),
)


def torch_keys(variant: str) -> TorchKeys:
    """The names of a variant's layers. A file of ImageNet weights has a classifier, too."""
    plain = variant == "v1"
    rows = (
        *(PLAIN_STEM if plain else DEEP_STEM),
        *BLOCKS,
        *(POOLED_SHORTCUT if variant == "v1d" else SHORTCUT),
    )
    renamed = () if plain else TIMM_STEM
    return TorchKeys(rows, describe_torch_keys, ignored=("fc.",), renamed=renamed)


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a backbone by its name: "resnet50_v1c", "resnet101_v1_caffe"; {} if unknown.

    With "_caffe", the first convolution of a bottleneck has the stride.
    """
    match = NAME.fullmatch(name)
    if match is None or int(match[1]) not in BLOCKS_PER_STAGE:
        return {}
    style = "caffe" if match[3] else "pytorch"
    return {"depth": int(match[1]), "variant": match[2], "style": style}


def describe_torch_keys(keys: Iterable[str]) -> str:
    """The name of a backbone by its keys in a PyTorch file: "R-50 (V1c)"."""
    keys = list(keys)
    blocks = tuple(_count_blocks(keys, stage) for stage in (1, 2, 3, 4))
    bottleneck = any(".conv3." in key for key in keys)
    depths = [d for d, n in BLOCKS_PER_STAGE.items() if n == blocks and (d >= 50) == bottleneck]
    name = f"R-{depths[0]}" if depths else "no ResNet that is known"
    if not any(key.startswith("stem.") for key in keys):
        return f"{name} without the deep stem (V1)"
    v1d = any(re.search(r"\.downsample\.2\.", key) for key in keys)
    return f"{name} ({'V1d' if v1d else 'V1c'})"


def _count_blocks(keys: Iterable[str], stage: int) -> int:
    pattern = re.compile(rf"layer{stage}\.(\d{{1,4}})\.")
    return len({match[1] for key in keys if (match := pattern.match(key))})
