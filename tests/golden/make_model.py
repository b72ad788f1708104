"""Writes model.npz and training.npz: what the PyTorch reference computes at tiny widths.

    PYTHON_OF_THE_REFERENCE -W ignore tests/golden/make_model.py PEER.py

PEER.py drives MMSegmentation 0.30.0 (it offers `load_config`). Weights, images and labels come from
weights.py; stored are outputs, and fingerprints of gradients and parameters.
"""

import importlib.util
import pathlib
import sys

import numpy as np
import torch
from mmseg.models import build_segmentor
from weights import NUM_CLASSES, fingerprint, images, labels, weights

HERE = pathlib.Path(__file__).resolve().parent
ROW_512 = "nonlocal_r50-d8_512x512_80k_ade20k"
ROW_769 = "nonlocal_r50-d8_769x769_40k_cityscapes"
# name -> row, backbone overrides, image size
MODELS = {
    "r50_d8": (ROW_512, {}, (64, 64)),
    "r50_d8_odd": (ROW_512, {}, (57, 71)),
    "r50_d8_aligned": (ROW_769, {}, (65, 49)),
    "r101_d8": (ROW_512, {"depth": 101}, (33, 41)),
    "r152_d16_v1d": (
        ROW_512,
        {"depth": 152, "type": "ResNetV1d", "strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)},
        (45, 51),
    ),
    "r18_d8": (ROW_512, {"depth": 18}, (47, 52)),
    "r34_d32_v1d": (
        ROW_512,
        {"depth": 34, "type": "ResNetV1d", "strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
        (75, 93),
    ),
    "r50_d8_not_contracted": (ROW_512, {"contract_dilation": False}, (41, 41)),
}
STEPS = 10


def main() -> None:
    """Writes both files beside this script."""
    spec = importlib.util.spec_from_file_location("peer", sys.argv[1])
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    outputs = {}
    for name, (row, overrides, size) in MODELS.items():
        model = build(peer, row, overrides)
        outputs |= {f"{name}/{k}": v for k, v in forward(model, images(1, (2, *size, 3))).items()}
    np.savez_compressed(HERE / "model.npz", **outputs)
    training = {}
    for name, row, size in (("512", ROW_512, (48, 56)), ("769", ROW_769, (49, 57))):
        model = build(peer, row, {})
        training |= {f"{name}/{k}": v for k, v in train(model, size).items()}
    np.savez_compressed(HERE / "training.npz", **training)


def build(peer, row, overrides):
    """The reference's model at base width 4, with our weights."""
    config = peer.load_config(row, classes=NUM_CLASSES, dropout=0.0).model
    config.backbone.update(overrides)
    expansion = 4 if config.backbone.depth >= 50 else 1
    config.backbone.base_channels = config.backbone.stem_channels = 4
    config.decode_head.in_channels, config.decode_head.channels = 32 * expansion, 16
    config.auxiliary_head.in_channels, config.auxiliary_head.channels = 16 * expansion, 8
    model = build_segmentor(config)
    values = weights({k: tuple(v.shape) for k, v in model.state_dict().items()})
    model.load_state_dict({k: torch.from_numpy(v) for k, v in values.items()}, strict=True)
    return model


def forward(model, x):
    """Outputs of an evaluation pass, NHWC."""
    out = {}
    model.eval()
    hook = lambda _, __, output: out.update(non_local=nhwc(output))  # noqa: E731
    model.decode_head.nl_block.register_forward_hook(hook)
    with torch.no_grad():
        tensor = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        stages = model.backbone(tensor)
        out |= {
            f"stage{i + 1}": fingerprint(f"stage{i + 1}", nhwc(s)) for i, s in enumerate(stages)
        }
        out["decode"] = nhwc(model.decode_head(stages))
        out["auxiliary"] = nhwc(model.auxiliary_head(stages))
        out["logits"] = nhwc(model.encode_decode(tensor, [{}]))[:1, ::3, ::3]
    return out


def nhwc(tensor):
    """A feature map as a NumPy array in our layout."""
    return tensor.detach().permute(0, 2, 3, 1).contiguous().numpy()


def train(model, size, rate=1e-3):
    """Ten SGD steps in float64; the learning rate falls by the polynomial schedule over 20 steps.

    In float32 a random network this deep amplifies rounding: two runs of the reference itself, in
    float32 and float64, differ by 1% in their first gradients wherever a ReLU's sign flips.
    """
    model.train().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    out, losses = {}, {}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = (rate - 1e-5) * (1 - step / 20) ** 0.9 + 1e-5
        x = torch.from_numpy(images(100 + step, (2, *size, 3)).transpose(0, 3, 1, 2)).double()
        y = torch.from_numpy(labels(200 + step, (2, *size)).astype(np.int64))[:, None]
        result = model.forward_train(x, [{}] * 2, y)
        total = sum(value for key, value in result.items() if "loss" in key)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    out[f"gradient/{name}"] = fingerprint(name, parameter.grad.numpy())
        optimizer.step()
        for key, value in [*result.items(), ("loss", total)]:
            losses.setdefault(key, []).append(float(value))
    for name, value in model.state_dict().items():
        out[f"after/{name}"] = fingerprint(name, value.numpy())
    return out | {f"metric/{key}": np.array(values) for key, values in losses.items()}


if __name__ == "__main__":
    main()
