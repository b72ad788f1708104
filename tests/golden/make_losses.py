"""Writes losses.npz: losses, their gradients and the pixels that OHEM keeps, of the reference.

    PYTHON_OF_THE_REFERENCE -W ignore tests/golden/make_losses.py [OUT.npz] [FIRST] [COUNT]

It needs MMSegmentation 0.30.0. Everything is in float64, to which its `.float()` is turned. With
FIRST and COUNT there are so many random batches of each kind, from the seed FIRST on; by default
one, of seed 0.

Two values are not the reference's. Lovász-softmax of an image without labels is meant to be zero
there ("only void pixels, the gradients should be 0"), but comes out as an empty array, or ends in
an error. Label smoothing is PyTorch's, which the reference does not hand over.
"""

import pathlib
import sys
import types

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.core.seg.sampler import OHEMPixelSampler
from mmseg.models.losses import CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss
from mmseg.models.losses.utils import weight_reduce_loss

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from loss_cases import CASES, KINDS, aligns_corners, batch  # noqa: E402

IGNORED = 255
torch.Tensor.float = torch.Tensor.double


def main() -> None:
    """Writes the file."""
    target = sys.argv[1] if len(sys.argv) > 1 else HERE / "losses.npz"
    first, count = map(int, sys.argv[2:4]) if len(sys.argv) > 2 else (0, 1)
    found = {}
    for seed in range(first, first + count):
        for kind in KINDS:
            for name, settings in CASES.items():
                values = loss_and_gradient(settings, *batch(seed, kind), aligns_corners(seed))
                found |= {f"{name}/{kind}/{seed}/{key}": v for key, v in values.items()}
    np.savez_compressed(target, **found)


def loss_and_gradient(settings, logits, labels, align_corners):
    """What one head's `losses` do: resize, sample, loss."""
    logits = torch.tensor(logits.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    labels = torch.from_numpy(labels.astype(np.int64))
    scores = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
    out = {}
    kept = sampled(settings, scores, labels)
    if kept is not None:
        out["kept"] = kept.numpy().astype(np.uint8)
    loss = loss_of(settings, scores, labels, kept)
    loss.backward()
    gradient = logits.grad.numpy().transpose(0, 2, 3, 1)
    return {"loss": loss.detach().numpy(), "gradient": gradient, **out}


def sampled(settings, scores, labels):
    """The weights of the pixels by OHEM, for a loss that has it."""
    if settings["name"] != "ohem":
        return None
    cross_entropy = CrossEntropyLoss(class_weight=settings.get("class_weights"))
    context = types.SimpleNamespace(ignore_index=IGNORED, loss_decode=cross_entropy)
    thresh = None if settings.get("by") == "loss" else settings["threshold"]
    sampler = OHEMPixelSampler(context, thresh, settings["min_kept"])
    return sampler.sample(scores, labels[:, None])


def loss_of(settings, scores, labels, kept=None):
    """The loss of scores at the resolution of the labels."""
    weights = settings.get("class_weights")
    match settings["name"]:
        case "cross_entropy" | "ohem":
            if "label_smoothing" in settings:
                return smoothed(settings, scores, labels)
            loss = CrossEntropyLoss(
                class_weight=weights, avg_non_ignore=settings.get("avg_non_ignore", False)
            )
            return loss(scores, labels, weight=kept, ignore_index=IGNORED)
        case "dice":
            others = {k: settings[k] for k in ("smooth", "exponent") if k in settings}
            return DiceLoss(class_weight=weights, **others)(scores, labels)
        case "focal":
            alpha = settings.get("alpha", 0.5)
            loss = FocalLoss(
                gamma=settings.get("gamma", 2.0),
                alpha=list(alpha) if isinstance(alpha, tuple) else alpha,
                class_weight=None if weights is None else list(weights),
            )
            return loss(scores, labels, ignore_index=IGNORED)
        case "lovasz":
            return lovasz(settings, scores, labels)
    return sum(
        settings.get(f"{term}_weight", 1.0) * loss_of(settings[term], scores, labels)
        for term in ("first", "second", "third")
    )


def smoothed(settings, scores, labels):
    """The reference's reduction of PyTorch's smoothed losses."""
    losses = F.cross_entropy(
        scores,
        labels,
        weight=scores.new_tensor(settings["class_weights"]),
        reduction="none",
        ignore_index=IGNORED,
        label_smoothing=settings["label_smoothing"],
    )
    return weight_reduce_loss(losses, avg_factor=(labels != IGNORED).sum().item())


def lovasz(settings, scores, labels):
    """Image by image where the reference can't; an image without labels counts as 0."""
    loss = LovaszLoss(
        classes=settings.get("classes", "present"),
        class_weight=settings.get("class_weights"),
        reduction="none",
    )
    n = len(labels)
    groups = [slice(i, i + 1) for i in range(n)] if settings.get("per_image") else [slice(0, n)]
    losses = [
        loss(scores[part], labels[part], ignore_index=IGNORED)
        if (labels[part] != IGNORED).any()
        else 0.0 * scores[part].sum()
        for part in groups
    ]
    return torch.stack(losses).mean()


if __name__ == "__main__":
    main()
