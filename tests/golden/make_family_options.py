"""Writes family_options.npz: logits of the reference's heads with the options of family_options.py.

    PYTHON_OF_THE_REFERENCE -W ignore tests/golden/make_family_options.py

As make_family.py does it: {NAME/HxW: logits of one image, in evaluation}.
"""

import pathlib

import numpy as np
from family_options import VARIANTS
from make_family import complete_reference, evaluate

HERE = pathlib.Path(__file__).resolve().parent


def main():
    complete_reference()
    found = {}
    for name, variant in VARIANTS.items():
        for key, value in evaluate(variant.case).items():
            if key.startswith("logits/"):
                found[f"{name}/{key.partition('/')[2]}"] = np.float32(value)
    np.savez_compressed(HERE / "family_options.npz", **found)


if __name__ == "__main__":
    main()
