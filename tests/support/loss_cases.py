"""Losses with settings, and batches for them, that the reference and our tests both make.

CASES has our settings. The reference's names of them are in make_losses.py.
"""

import numpy as np

CLASSES = 5
ABSENT = 3  # a class without labels
WEIGHTS = (0.5, 2.0, 0.0, 1.5, 1.0)
LOW, HIGH = (4, 5), (17, 13)
KINDS = ("some_ignored", "an_image_ignored", "all_ignored")
CASES = {
    "cross_entropy": {"name": "cross_entropy"},
    "cross_entropy_mean_of_labelled": {"name": "cross_entropy", "avg_non_ignore": True},
    "cross_entropy_weights": {"name": "cross_entropy", "class_weights": WEIGHTS},
    "cross_entropy_all": {
        "name": "cross_entropy",
        "class_weights": WEIGHTS,
        "avg_non_ignore": True,
        "label_smoothing": 0.1,
    },
    "ohem_threshold": {"name": "ohem", "threshold": 0.3, "min_kept": 20},
    "ohem_least": {"name": "ohem", "threshold": 0.0, "min_kept": 35, "avg_non_ignore": True},
    "ohem_most": {"name": "ohem", "threshold": 0.2, "min_kept": 1000},
    "ohem_loss": {"name": "ohem", "by": "loss", "min_kept": 30, "class_weights": WEIGHTS},
    "ohem_loss_all": {"name": "ohem", "by": "loss", "min_kept": 1000},
    "dice": {"name": "dice"},
    "dice_all": {"name": "dice", "class_weights": WEIGHTS, "smooth": 0.5, "exponent": 1.5},
    "focal": {"name": "focal"},
    "focal_all": {
        "name": "focal",
        "class_weights": WEIGHTS,
        "gamma": 1.5,
        "alpha": (0.1, 0.25, 0.5, 0.75, 0.9),
    },
    "lovasz": {"name": "lovasz"},
    "lovasz_all": {"name": "lovasz", "classes": "all", "class_weights": WEIGHTS},
    "lovasz_image": {"name": "lovasz", "per_image": True},
    "sum": {
        "name": "sum",
        "first": {"name": "cross_entropy", "class_weights": WEIGHTS},
        "second": {"name": "dice"},
        "third": {"name": "lovasz"},
        "second_weight": 3.0,
        "third_weight": 0.25,
    },
}


def batch(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits [2, *LOW, CLASSES] float64 and labels [2, *HIGH] uint8."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((2, *LOW, CLASSES))
    present = [number for number in range(CLASSES) if number != ABSENT]
    labels = rng.choice(present, (2, *HIGH)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    if kind == "an_image_ignored":
        labels[1] = 255
    if kind == "all_ignored":
        labels[:] = 255
    return logits, labels


def aligns_corners(seed: int) -> bool:
    """Both conventions in turn."""
    return seed % 2 == 1
