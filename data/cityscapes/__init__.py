"""The TFDS builder of this folder; `tfds build data/cityscapes` finds it by its name."""

import pathlib
import sys

# tfds puts only data/ on the module path; the builders import `data` and `nonlocal_jax`.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
