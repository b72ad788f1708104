"""Heads with options that no published row has, against the reference, in padding.

Those of FEW go through the most code; `make soak` has all.
"""

import jax
import numpy as np
import pytest
from device import ROUNDING
from heads import golden_variables, head_of, logits, one_batch
from networks import GOLDEN

from family_options import VARIANTS  # isort: skip  # heads has put golden/ on the path
from nonlocal_jax.errors import UserError

FEW = ("psa_even_shrunk", "psa_compact")


def marked(name):
    return name if name in FEW else pytest.param(name, marks=pytest.mark.soak)


@pytest.mark.parametrize("name", map(marked, VARIANTS))
def test_logits_in_padding_equal_the_references_of_each_image_alone(name):
    variant, case = VARIANTS[name], VARIANTS[name].case
    head = head_of(variant.method, case.ours, align_corners=variant.align_corners)
    largest = tuple(max(side) for side in zip(*case.sizes, strict=True))
    features, valid = one_batch(case, case.evaluation(), largest)
    found = jax.jit(lambda v, x, sizes: logits(head, v, x, sizes))(
        golden_variables(head), features, valid
    )
    with np.load(GOLDEN / "family_options.npz") as golden:
        for own, (height, width) in zip(found, case.sizes, strict=True):
            expected = golden[f"{name}/{height}x{width}"][0]
            error = np.abs(own[:height, :width] - expected).max() / np.abs(expected).max()
            assert error < ROUNDING * 2e-6, f"{height}x{width}: {error:.1e}"


def test_a_compact_mask_that_is_too_small_is_refused():
    variant = VARIANTS["psa_compact"]
    head = head_of("psa", variant.case.ours)
    features, valid = one_batch(variant.case, [((9, 10), variant.case.inputs(1, 1, (9, 10)))])
    with pytest.raises(UserError, match="mask_size"):
        jax.eval_shape(lambda v: logits(head, v, features, valid), head.shapes)
