"""Prints the PyTorch reference's configs as JSON (mmcv, mmseg 0.30): {name: {dotted key: value}}.

python tests/golden/reference_configs.py dnlnet/dnl_r50-d8_512x512_80k_ade20k ...
"""

import json
import pathlib
import sys

import mmseg
from mmcv import Config

CONFIGS = pathlib.Path(mmseg.__file__).parent / ".mim" / "configs"


def flat(node, prefix=""):
    """The leaves of a config by dotted key; lists of sections are numbered."""
    if isinstance(node, list | tuple) and any(isinstance(item, dict) for item in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): node}
    leaves = {}
    for key, value in node.items():
        leaves.update(flat(value, f"{prefix}{key}."))
    return leaves


if __name__ == "__main__":
    print(
        json.dumps({n: flat(Config.fromfile(f"{CONFIGS}/{n}.py")._cfg_dict) for n in sys.argv[1:]})
    )
