"""NonLocalNet in plain PyTorch, written from the paper and the checkpoints' keys.

It loads what `python -m nonlocal_jax.convert --export` writes, strictly.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def conv_norm(i: int, o: int, size: int = 3, *, relu: bool = True) -> nn.Sequential:
    """Convolution, batch norm and ReLU, under the names of the checkpoints."""
    layers = {"conv": nn.Conv2d(i, o, size, padding=size // 2, bias=False), "bn": nn.BatchNorm2d(o)}
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(OrderedDict(layers))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride and the dilation, 1x1, and the shortcut."""

    def __init__(self, i: int, width: int, stride: int, dilation: int):
        super().__init__()
        o = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(i, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, o, 1, bias=False), nn.BatchNorm2d(o)
        self.downsample = None
        if stride > 1 or i != o:
            self.downsample = nn.Sequential(
                nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, i, h, w] to [n, 4 * width, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Backbone(nn.Module):
    """ResNetV1c with an output stride of 8; returns stages 3 and 4."""

    def __init__(self, depth: int, stem: int, base: int):
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, stride in ((3, stem // 2, 2), (stem // 2, stem // 2, 1), (stem // 2, stem, 1)):
            conv = nn.Conv2d(i, o, 3, stride, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers)
        i = stem
        for stage, (count, stride, dilation) in enumerate(
            zip(BLOCKS[depth], (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        ):
            width = base * 2**stage
            blocks = [Bottleneck(i, width, stride, max(dilation // 2, 1))]
            i = 4 * width
            blocks += [Bottleneck(i, width, 1, dilation) for _ in range(count - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, 3, h, w] to stages 3 and 4, both at h / 8, w / 8."""
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        return stage3, self.layer4(stage3)


class NonLocal(nn.Module):
    """The embedded Gaussian block, through PyTorch's fused attention."""

    def __init__(self, channels: int):
        super().__init__()
        for name in ("g", "theta", "phi"):
            conv = nn.Conv2d(channels, channels // 2, 1)
            setattr(self, name, nn.Sequential(OrderedDict(conv=conv)))
        self.conv_out = conv_norm(channels // 2, channels, 1, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] to the same shape."""
        n, _, h, w = x.shape
        theta, phi, g = (
            f(x).flatten(2).transpose(1, 2)[:, None] for f in (self.theta, self.phi, self.g)
        )
        gathered = F.scaled_dot_product_attention(theta, phi, g)
        return x + self.conv_out(gathered[:, 0].transpose(1, 2).reshape(n, -1, h, w))


class Head(nn.Module):
    """Both heads: with the block and the second look at the input, or one convolution alone."""

    def __init__(self, i: int, channels: int, classes: int, *, non_local: bool):
        super().__init__()
        self.convs = nn.ModuleList([conv_norm(i, channels)])
        if non_local:
            self.convs.append(conv_norm(channels, channels))
            self.nl_block = NonLocal(channels)
            self.conv_cat = conv_norm(i + channels, channels)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, i, h, w] to logits [n, classes, h, w]. Dropout is left out: both sides train so."""
        y = self.convs[0](x)
        if len(self.convs) > 1:
            y = self.convs[1](self.nl_block(y))
            y = self.conv_cat(torch.cat([x, y], dim=1))
        return self.conv_seg(y)


class NonLocalNet(nn.Module):
    """Normalisation, backbone and heads, for RGB uint8 [n, h, w, 3]."""

    def __init__(self, depth: int, stem: int, base: int, head: int, auxiliary: int, classes: int):
        super().__init__()
        self.backbone = Backbone(depth, stem, base)
        self.decode_head = Head(32 * base, head, classes, non_local=True)
        self.auxiliary_head = Head(16 * base, auxiliary, classes, non_local=False)
        mean, std = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
        for name, value in (("mean", mean), ("std", std)):
            tensor = torch.tensor(value).reshape(1, 3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Decode logits at h / 8, w / 8, and the auxiliary head's in training."""
        stage3, stage4 = self.backbone((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return self.decode_head(stage4), self.auxiliary_head(stage3) if self.training else None
