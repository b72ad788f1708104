"""Programs of a narrow network on a large image, and the largest array that a program holds.

Its arrays are small but for an N x N one and for scores at full resolution, so that those stand
out: what no program may hold is an array with a quarter of their elements.
"""

import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from networks import tiny_config

from nonlocal_jax.config import files
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training.compiled_step import TrainProgram

SIZE, CLASSES = (513, 1025), 150
POSITIONS = 65 * 129
N_BY_N, SCORES = POSITIONS**2, math.prod(SIZE) * CLASSES
LIMIT = min(N_BY_N, SCORES) // 4
# Without s8: a GPU's libraries have workspaces of that type, and nothing else is of it.
ARRAY = re.compile(r"\b(?:f64|f32|bf16|f16|s32|u32|u8|pred)\[([\d,]+)\]")


def largest(compiled):
    """Elements of the largest array that a compiled program's text speaks of, fused ones too."""
    shapes = ARRAY.findall(compiled.as_text())
    return max(math.prod(map(int, dimensions.split(","))) for dimensions in shapes)


def config_of(**overrides):
    """The narrow network's config; overrides are keys of its `model` section."""
    config = tiny_config(num_classes=CLASSES, **{"backbone.depth": 50, **overrides})
    return files.override(config, **{"batch_size": 1, "data.crop_size": SIZE})


def on_one(device):
    """A mesh of one device."""
    shape = (1,) * len(sharding.AXES)
    return Mesh(
        np.array([device]).reshape(shape), sharding.AXES, axis_types=(AxisType.Auto,) * len(shape)
    )


def train_program(config, mesh):
    """The compiled train step."""
    with jax.set_mesh(mesh):
        return TrainProgram.of(config, mesh).compile()
