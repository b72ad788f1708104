"""A tiny head of each method, for make_family.py (the reference) and models/test_heads.py."""

from dataclasses import dataclass

import numpy as np
from weights import NUM_CLASSES, images

STAGES = {"stage3": 6, "stage4": 8}  # channels
CANVAS = (9, 12)  # holds every image
TRAINING_SIZE = (9, 7)


@dataclass(frozen=True)
class Case:
    """A head here and in the reference.

    Attributes:
      reference: the class in mmseg.
      theirs: its arguments, without those that all heads share.
      ours: options of the head here.
      reads: the stages that it reads.
      outputs: our names of what it returns in training, in the reference's order.
      sizes: of feature maps, in evaluation; each is one image.
    """

    reference: str
    theirs: dict
    ours: dict
    reads: tuple[str, ...] = ("stage4",)
    outputs: tuple[str, ...] = ("",)
    sizes: tuple[tuple[int, int], ...] = ((9, 7), (5, 12))

    def inputs(self, seed, count, size):
        """Feature maps [n, h, w, c] of the stages that the head reads."""
        shapes = [(count, *size, STAGES[stage]) for stage in self.reads]
        return [images(10 * seed + i, shape) for i, shape in enumerate(shapes)]

    def evaluation(self):
        """(size, feature maps) of each image in evaluation."""
        return [(size, self.inputs(1 + i, 1, size)) for i, size in enumerate(self.sizes)]

    def training(self):
        """The feature maps of the batch in training."""
        return self.inputs(9, 2, TRAINING_SIZE)


def in_network(options):
    """Arguments of a case for a network: DNL's scale is exact in float32 with these channels."""
    return {**options, "channels": 32}


def direction(name):
    """The factors of a training output in the functional whose gradient is compared."""
    seed = 500 + sum(map(ord, name))
    return np.float64(images(seed, (2, *TRAINING_SIZE, NUM_CLASSES)))


CASES = {
    "fcn": Case("FCNHead", {"channels": 8}, {"channels": 8}),
    # The reference holds temperature and scale in float32; these numbers are exact there.
    "dnl": Case(
        "DNLHead", {"channels": 8, "temperature": 0.0625}, {"channels": 8, "temperature": 0.0625}
    ),
    "gc": Case("GCHead", {"channels": 16}, {"channels": 16}),
    "cc": Case("CCHead", {"channels": 16}, {"channels": 16}),
    "da": Case(
        "DAHead",
        {"channels": 8, "pam_channels": 3},
        {"channels": 8, "position_channels": 3},
        outputs=("", "position", "channel"),
    ),
    "ann": Case(
        "ANNHead",
        {"channels": 8, "project_channels": 4},
        {"channels": 8, "project_channels": 4},
        reads=("stage3", "stage4"),
    ),
    "isa": Case(
        "ISAHead",
        {"channels": 8, "isa_channels": 4, "down_factor": (4, 3)},
        {"channels": 8, "attention_channels": 4, "group": (4, 3)},
    ),
    "ema": Case(
        "EMAHead",
        {"channels": 8, "ema_channels": 10, "num_bases": 5, "num_stages": 3},
        {"channels": 8, "ema_channels": 10, "bases": 5},
    ),
    "psa": Case(
        "PSAHead",
        {"channels": 8, "mask_size": (9, 9)},
        {"channels": 8, "mask_size": (9, 9)},
        sizes=((9, 7), (5, 12), (8, 6)),
    ),
}
