"""Makes backbones.npz, backbone_keys.json and kinds.safetensors (torch, torchvision, timm, mmseg):

    PYTHON_OF_THE_REFERENCE -W ignore tests/golden/make_backbones.py

- backbone_keys.json: key and shape of every tensor of torchvision's and timm's networks.
- backbones.npz: fingerprints of the feature maps of networks with one block a stage, whose weights
  come from weights.py.
- kinds.safetensors: a tensor of every type, as the safetensors package writes it.
"""

import pathlib

import numpy as np
import timm
import torch
import torchvision
from make_convert import compact
from mmseg.models.backbones import resnet as mmseg_resnet
from safetensors.torch import save_file
from timm.models import resnet as timm_resnet
from torchvision.models import resnet as torchvision_resnet
from weights import fingerprint, images, weights

HERE = pathlib.Path(__file__).resolve().parent
ONE_EACH = [1, 1, 1, 1]
SIZE = (45, 58)


def networks():
    """Whole networks by what `convert --backbone` calls them."""
    for depth in (18, 50):
        yield f"torchvision resnet{depth}_v1", getattr(torchvision.models, f"resnet{depth}")()
    for name, ours in (
        ("resnet50", "resnet50_v1"),
        ("resnet50c", "resnet50_v1c"),
        ("resnet18d", "resnet18_v1d"),
        ("resnet50d", "resnet50_v1d"),
    ):
        yield f"timm {ours}", timm.create_model(name)


def small():
    """Networks of one block a stage: by case, the network and its four stages."""
    network = torchvision_resnet.ResNet(
        torchvision_resnet.Bottleneck, ONE_EACH, replace_stride_with_dilation=[False, True, True]
    )
    yield "torchvision", network, in_order(network, network.maxpool)
    network = timm_resnet.ResNet(
        timm_resnet.Bottleneck, ONE_EACH, stem_width=32, stem_type="deep", avg_down=True
    )
    yield "timm", network, in_order(network, network.maxpool)
    mmseg_resnet.ResNet.arch_settings[50] = (mmseg_resnet.Bottleneck, ONE_EACH)
    network = mmseg_resnet.ResNet(
        50, style="caffe", strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), contract_dilation=True
    )
    yield "caffe", network, network


def in_order(network, pool):
    """The stages of torchvision's or timm's network, as a function."""

    def stages(x):
        relu = getattr(network, "act1", None) or network.relu
        x = pool(relu(network.bn1(network.conv1(x))))
        for index in range(1, 5):
            x = getattr(network, f"layer{index}")(x)
            yield x

    return stages


def main():
    keys, outputs = {}, {}
    for name, network in networks():
        keys[name] = {key: list(t.shape) for key, t in network.state_dict().items()}
    for name, network, stages in small():
        state = network.state_dict()
        keys[f"small {name}"] = {key: list(t.shape) for key, t in state.items()}
        values = weights({key: tuple(t.shape) for key, t in state.items()})
        network.load_state_dict({k: torch.from_numpy(v) for k, v in values.items()}, strict=True)
        network.double().eval()
        x = torch.from_numpy(images(3, (2, *SIZE, 3)).transpose(0, 3, 1, 2)).double()
        with torch.no_grad():
            for index, features in enumerate(stages(x), start=1):
                stage = f"stage{index}"
                outputs[f"{name}/{stage}"] = fingerprint(
                    stage, features.permute(0, 2, 3, 1).numpy()
                )
    (HERE / "backbone_keys.json").write_text(compact(keys))
    np.savez_compressed(HERE / "backbones.npz", **outputs)
    kinds = {"double": "F64", "float": "F32", "half": "F16", "bfloat16": "BF16"}
    kinds |= {"long": "I64", "int": "I32", "short": "I16", "int8": "I8", "uint8": "U8"}
    kinds["bool"] = "BOOL"
    base = torch.arange(6)
    tensors = {kind: (base % 2).reshape(2, 3).to(getattr(torch, kind)) for kind in kinds}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4)}
    save_file(tensors, HERE / "kinds.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
