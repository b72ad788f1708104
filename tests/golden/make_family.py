"""Writes family/METHOD.npz: what the PyTorch reference's heads compute at tiny widths.

    PYTHON_OF_THE_REFERENCE -W ignore tests/golden/make_family.py [METHOD ...]

Weights and feature maps come from weights.py, shapes from family_cases.py. Everything is computed
in float64 and stored in float32:

    logits/HxW       of one image, in evaluation
    strayed/HxW      error of the reference's own float32 logits, as a share of the largest
    training/NAME    logits that have a loss in training, of a batch; NAME is ours
    gradient/KEY     of their scalar product with `direction`, by each parameter and input
    after/KEY        buffers after that call
"""

import pathlib
import sys

import numpy as np
import torch
from family_cases import CASES, NUM_CLASSES, STAGES, direction
from make_family_keys import criss_cross
from mmseg.models import build_head
from mmseg.models.decode_heads import cc_head, psa_head
from weights import weights

HERE = pathlib.Path(__file__).resolve().parent


class PSAMask(torch.nn.Module):
    """PSANet's rearrangement of masks, by its definition; the reference's needs a compiler.

    Channel (k, m) of position (i, j) is about the position (i + k - K, j + m - M), where K and M
    are half the size of the mask. "collect": result[that position, i, j]. "distribute":
    result[(i, j), that position]. Positions that the mask does not reach have 0.
    """

    def __init__(self, kind, mask_size):
        super().__init__()
        self.kind, self.mask_size = kind, mask_size

    def forward(self, x):
        n, _, height, width = x.shape
        masks = x.view(n, *self.mask_size, height, width)
        result = x.new_zeros(n, height, width, height, width)
        for i, j in np.ndindex(height, width):
            rows, of_rows = reached(i, height, self.mask_size[0])
            columns, of_columns = reached(j, width, self.mask_size[1])
            mask = masks[:, of_rows, of_columns, i, j]
            if self.kind == "collect":
                result[:, rows, columns, i, j] = mask
            else:
                result[:, i, j, rows, columns] = mask
        return result.view(n, height * width, height, width)


def reached(center, length, mask_length):
    """The positions of a line that a mask around `center` reaches, and their channels."""
    first = center - (mask_length - 1) // 2
    start, stop = max(first, 0), min(first + mask_length, length)
    return slice(start, stop), slice(start - first, stop - first)


def build(case):
    """The reference's head with our weights."""
    channels = [STAGES[stage] for stage in case.reads]
    indices = list(range(len(channels)))
    one = len(channels) == 1
    head = build_head(
        {
            "type": case.reference,
            "in_channels": channels[0] if one else channels,
            "in_index": 0 if one else indices,
            "num_classes": NUM_CLASSES,
            "dropout_ratio": 0.0,
            "norm_cfg": {"type": "BN"},
            "align_corners": False,
            **case.theirs,
        }
    )
    head.dropout = torch.nn.Identity()  # with a rate of 0 it is None, which ANN's head calls
    return with_our_weights(head)


def with_our_weights(module):
    """The module with the weights of weights.py."""
    tensors, first = module.state_dict(), {}
    values = weights({k: tuple(v.shape) for k, v in tensors.items()})
    for key, tensor in tensors.items():  # ANN has one layer under two names
        values[key] = values[first.setdefault(tensor.data_ptr(), key)]
    state = {k: torch.from_numpy(np.asarray(v)) for k, v in values.items()}
    module.load_state_dict(state, strict=True)
    return module


def nchw(array):
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())


def nhwc(tensor):
    return tensor.detach().permute(0, 2, 3, 1).contiguous().numpy()


def evaluate(case):
    """Logits in evaluation, and how far float32 strays."""
    head, found = build(case).eval(), {}
    for (height, width), maps in case.evaluation():
        maps = [nchw(x) for x in maps]
        with torch.no_grad():
            single = head.float().forward_test(maps, None, None)
            double = head.double().forward_test([x.double() for x in maps], None, None)
        strayed = (single.double() - double).abs().max() / double.abs().max()
        found[f"logits/{height}x{width}"] = nhwc(double)
        found[f"strayed/{height}x{width}"] = np.array(float(strayed))
    return found


def train(case):
    """Outputs, gradients and buffers of a call in training."""
    head, found = build(case).train().double(), {}
    maps = [nchw(x).double().requires_grad_() for x in case.training()]
    outputs = head(maps)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = 0
    for name, output in zip(case.outputs, outputs, strict=True):
        found[f"training/{name}"] = nhwc(output)
        total = total + (output * nchw(direction(name))).sum()
    total.backward()
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            found[f"gradient/{name}"] = parameter.grad.numpy()
    for i, x in enumerate(maps):
        found[f"gradient/input{i}"] = nhwc(x.grad)
    for name, buffer in head.named_buffers():
        if not name.endswith("num_batches_tracked"):
            found[f"after/{name}"] = buffer.numpy()
    return found


def complete_reference():
    """Gives the reference the two modules that it takes from compiled operators."""
    cc_head.CrissCrossAttention = criss_cross()
    psa_head.PSAMask = PSAMask


def main():
    """Writes the files of the methods that are named, or of all."""
    complete_reference()
    for method in sys.argv[1:] or CASES:
        found = evaluate(CASES[method]) | train(CASES[method])
        single = {name: np.float32(value) for name, value in found.items()}
        np.savez_compressed(HERE / "family" / f"{method}.npz", **single)
        strayed = max(value for name, value in found.items() if name.startswith("strayed"))
        print(f"{method}: {len(found)} arrays, float32 strays by {strayed:.1e}")


if __name__ == "__main__":
    main()
