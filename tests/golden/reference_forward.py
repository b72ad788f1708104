"""Every output of the PyTorch reference for one input, in float32 and in float64.

    PYTHON_OF_THE_REFERENCE -W ignore reference_forward.py PEER.py STEM CKPT.pth IN.npz OUT.npz

IN.npz holds `images` [n, h, w, 3]; OUT.npz "float32/stage0", ..., "float64/logits", NHWC.
"""

import importlib.util
import sys

import numpy as np
import torch


def main() -> None:
    """Reads IN.npz, writes OUT.npz."""
    peer_file, stem, checkpoint, source, target = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("peer", peer_file)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    images = peer.nchw(np.load(source)["images"])
    outputs = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        _, model = peer.build(stem, checkpoint)
        results = forward(model.eval().to(dtype), images.to(dtype))
        outputs |= {f"{name}/{key}": peer.nhwc(value) for key, value in results.items()}
    np.savez(target, **outputs)


@torch.no_grad()
def forward(model, images):
    """Stages, the non-local block's output, both heads' logits, and those at full resolution."""
    out = {}
    hook = lambda _, __, output: out.update(nl_block=output)  # noqa: E731
    model.decode_head.nl_block.register_forward_hook(hook)
    stages = model.backbone(images)
    out |= {f"stage{index}": stage for index, stage in enumerate(stages)}
    out["decode_logits"] = model.decode_head(stages)
    out["aux_logits"] = model.auxiliary_head(stages)
    out["logits"] = model.encode_decode(images, [{}])
    return out


if __name__ == "__main__":
    main()
