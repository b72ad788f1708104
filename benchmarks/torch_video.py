"""The I3D network of a row in plain PyTorch, for video_against_pytorch.py only.

It is told a file of blobs, and answers on standard output what it is asked: "forward" or "train",
with the seconds of one run. PyTorch, and nothing of this project, is needed.
"""

import json
import resource
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

EPSILON = 1.0000001e-5
BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
WIDTHS = {2: 64, 3: 128, 4: 256, 5: 512}
NON_LOCAL = {3: (1, 3), 4: (1, 3, 5)}


def inflated(stage: int, block: int) -> bool:
    """Whether a block's first convolution sees three frames."""
    return {2: True, 3: block % 2 == 0, 4: block % 2 == 0, 5: block == 1}[stage]


def conv_norm(inner: int, outer: int, kernel: tuple[int, int], stride: int = 1) -> nn.Sequential:
    """A convolution and a batch norm."""
    frames, pixels = kernel
    conv = nn.Conv3d(
        inner,
        outer,
        (frames, pixels, pixels),
        (1, stride, stride),
        (frames // 2, pixels // 2, pixels // 2),
        bias=False,
    )
    return nn.Sequential(conv, nn.BatchNorm3d(outer, EPSILON))


class Bottleneck(nn.Module):
    """A residual block."""

    def __init__(self, inner: int, width: int, frames: int, stride: int, *, first: bool):
        super().__init__()
        self.branch2a = conv_norm(inner, width, (frames, 1))
        self.branch2b = conv_norm(width, width, (1, 3), stride)
        self.branch2c = conv_norm(width, 4 * width, (1, 1))
        self.branch1 = conv_norm(inner, 4 * width, (1, 1), stride) if first else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's result."""
        y = functional.relu(self.branch2a(x), inplace=True)
        y = functional.relu(self.branch2b(y), inplace=True)
        y = self.branch2c(y)
        return functional.relu(y + (x if self.branch1 is None else self.branch1(x)), inplace=True)


class NonLocal(nn.Module):
    """A non-local block, written out."""

    def __init__(self, features: int):
        super().__init__()
        inner = features // 2
        self.theta, self.phi, self.g = (nn.Conv3d(features, inner, 1) for _ in range(3))
        self.out = nn.Sequential(nn.Conv3d(inner, features, 1), nn.BatchNorm3d(features, EPSILON))
        self.scale = inner**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's result."""
        pooled = functional.max_pool3d(x, (1, 2, 2))
        theta, phi, g = self.theta(x).flatten(2), self.phi(pooled), self.g(pooled)
        weights = torch.softmax(theta.transpose(1, 2) @ phi.flatten(2) * self.scale, -1)
        y = (g.flatten(2) @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.out(y)


class Network(nn.Module):
    """I3D R-50 with five non-local blocks, for clips of 8x8."""

    def __init__(self, classes: int = 400):
        super().__init__()
        self.stem = conv_norm(3, 64, (5, 7), 2)
        self.blocks, inner = nn.ModuleDict(), 64
        for stage, count in BLOCKS.items():
            for index in range(count):
                stride = 2 if index == 0 and stage > 2 else 1
                frames = 3 if inflated(stage, index) else 1
                block = Bottleneck(inner, WIDTHS[stage], frames, stride, first=index == 0)
                self.blocks[f"res{stage}_{index}"] = block
                inner = 4 * WIDTHS[stage]
                if index in NON_LOCAL.get(stage, ()):
                    self.blocks[f"nonlocal_conv{stage}_{index}"] = NonLocal(inner)
        self.pred = nn.Linear(inner, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = functional.max_pool3d(functional.relu(self.stem(x)), (1, 3, 3), (1, 2, 2))
        for name, block in self.blocks.items():
            x = block(x)
            if name == "res2_2":
                x = functional.max_pool3d(x, (2, 1, 1))
        return self.pred(x.mean((2, 3, 4)))

    def load(self, blobs: dict[str, np.ndarray]) -> None:
        """Sets all weights from Caffe2's blobs."""
        own = {"conv1": self.stem[0], "res_conv1_bn": self.stem[1], "pred": self.pred}
        for name, block in self.blocks.items():
            for part, layer in block.named_children():
                convolution, norm = layer if isinstance(layer, nn.Sequential) else (layer, None)
                own[f"{name}_{part}"] = convolution
                if norm is not None:
                    own[f"{name}_bn" if part == "out" else f"{name}_{part}_bn"] = norm
        for name, layer in own.items():
            if isinstance(layer, nn.BatchNorm3d):
                pairs = zip(
                    ("_s", "_b", "_rm", "_riv"),
                    (layer.weight, layer.bias, layer.running_mean, layer.running_var),
                    strict=True,
                )
            else:
                pairs = ((end, value) for end, value in (("_w", layer.weight), ("_b", layer.bias)))
            for end, value in pairs:
                if value is not None:
                    value.data.copy_(torch.from_numpy(blobs[name + end]))


def main() -> None:
    """Answers what it is asked."""
    file, batch = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(int(sys.argv[3]))
    network = Network()
    with np.load(file) as blobs:
        network.load(dict(blobs))
        clips = torch.from_numpy(blobs["clips"])[:batch].permute(0, 4, 1, 2, 3).contiguous()
    labels = torch.zeros(batch, dtype=torch.long)
    momentum = torch.optim.SGD(network.parameters(), 1e-6, 0.9, nesterov=True)
    for line in sys.stdin:
        network.train(line.strip() == "train")
        start, cpu, answer = time.perf_counter(), time.process_time(), {}
        if line.strip() == "train":
            momentum.zero_grad()
            functional.cross_entropy(network(clips), labels).backward()
            momentum.step()
        else:
            with torch.inference_mode():
                answer["logits"] = network(clips)[0, :8].tolist()
        answer["seconds"] = time.perf_counter() - start
        answer["cpu_seconds"] = time.process_time() - cpu
        answer["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
