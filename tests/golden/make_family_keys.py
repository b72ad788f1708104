"""Makes family_keys.json with the PyTorch reference (torch, mmcv, mmseg 0.30):

    python tests/golden/make_family_keys.py

Key and shape of every tensor of the decode heads, by method and data set. The rest of a network is
that of the NonLocalNet row of the same name, which convert_keys.json has. mmcv need not have its
compiled operators: that of PSA has no tensors, so a module without any stands in for it.
"""

import importlib.util
import pathlib

import mmcv
import mmseg
import torch
from make_convert import compact, plain_norms
from mmcv import Config
from mmseg.models import build_head
from mmseg.models.decode_heads import cc_head, psa_head

HERE = pathlib.Path(__file__).parent
CONFIGS = pathlib.Path(mmseg.__file__).parent / ".mim" / "configs"
METHODS = {
    "dnl": "dnlnet/dnl",
    "gc": "gcnet/gcnet",
    "ann": "ann/ann",
    "cc": "ccnet/ccnet",
    "da": "danet/danet",
    "isa": "isanet/isanet",
    "ema": "emanet/emanet",
    "psa": "psanet/psanet",
    "fcn": "fcn/fcn",
}
ROWS = {
    "cityscapes": "r50-d8_512x1024_80k_cityscapes",
    "ade20k": "r50-d8_512x512_80k_ade20k",
    "voc12aug": "r50-d8_512x512_20k_voc12aug",
}


def criss_cross():
    """mmcv's module, which is PyTorch's code, from its file."""
    path = pathlib.Path(mmcv.__file__).parent / "ops" / "cc_attention.py"
    spec = importlib.util.spec_from_file_location("cc_attention", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CrissCrossAttention


def main():
    cc_head.CrissCrossAttention = criss_cross()
    psa_head.PSAMask = lambda *options: torch.nn.Identity()
    heads = {}
    for method, reference in METHODS.items():
        for data, row in ROWS.items():
            path = CONFIGS / f"{reference}_{row}.py"
            if path.exists():
                head = Config.fromfile(str(path)).model.decode_head
                plain_norms(head)
                state = build_head(head).state_dict()
                heads[f"{method} {data}"] = {key: list(t.shape) for key, t in state.items()}
    (HERE / "family_keys.json").write_text(compact(heads))


if __name__ == "__main__":
    main()
