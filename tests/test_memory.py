"""Memory on a TPU v5e chip, from its own compiler, which needs no TPU.

Full rows take minutes each to compile: `make compiler` runs them. A row at a quarter of its size
is held by default.
"""

import os

import jax
import numpy as np
import pytest
from conftest import REPOSITORY
from jax.sharding import NamedSharding, PartitionSpec
from test_hlo import CLASSES, LIMIT, SIZE, config_of, largest, on_one, train_program

from nonlocal_jax import api, batching, cli, evaluate, inference
from nonlocal_jax.models.build import build_network

ROWS = {
    "cityscapes_r50_512x1024_40k": 2,
    "cityscapes_r101_512x1024_40k": 2,
    "cityscapes_r50_769x769_40k": 2,
    "cityscapes_r101_769x769_40k": 2,
    "ade20k_r50_80k": 4,
    "ade20k_r101_80k": 4,
    "voc12aug_r50_20k": 4,
    "voc12aug_r101_20k": 4,
}
CHIP_BYTES = 16e9


@pytest.fixture(scope="module")
def chip():
    """A mesh of one v5e chip."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    # libtpu asks the cloud's metadata server, which only a TPU's host has, and locks the chip.
    os.environ["TPU_SKIP_MDS_QUERY"] = os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    described = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return on_one(described.devices[0])


def row_config(row, **overrides):
    return cli.load_config(REPOSITORY / "configs" / f"{row}.py", **overrides)


def temporaries(program, name=""):
    size = program.memory_analysis().temp_size_in_bytes
    print(f"\n{name}: {size / 1e9:.2f} GB of temporaries")
    return size


def arguments(program):
    return program.memory_analysis().argument_size_in_bytes


def evaluation_program(config, size, mesh):
    """What evaluate runs for a bucket of images of one size, one at a time."""
    model = config.model.copy_and_resolve_references()
    model.auxiliary_head.loss_weight = 0.0
    network = build_network(model, platform="tpu")
    place = NamedSharding(mesh, PartitionSpec())

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    two = array((1, 2), np.int32)
    scales = (inference.Scaled(array((1, *size, 3), np.uint8), two),)
    batch = batching.Batch(scales, two, array((1, *size), np.uint8))
    variables = {name: array(leaf.shape, leaf.dtype) for name, leaf in network.shapes.items()}
    protocol, classes = api.protocol(config), config.model.num_classes
    count = evaluate._counting(evaluate._Same(network), protocol, classes, False)
    with jax.set_mesh(mesh):
        return count.lower(variables, batch, canvas=size, padded=False).compile()


@pytest.mark.compiler
@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_in_half_of_the_published_memory(row, chip):
    config = row_config(row, batch_size=ROWS[row])
    program = train_program(config, chip)
    assert temporaries(program, row) <= 0.5e9 * config.published.memory_gb


@pytest.mark.compiler
def test_resnet101_trains_on_eight_large_crops(chip):
    config = row_config(
        "cityscapes_r101_512x1024_40k", **{"batch_size": 8, "model.remat": "blocks"}
    )
    program = train_program(config, chip)
    assert temporaries(program, "R-101, 8 images") + arguments(program) < CHIP_BYTES


@pytest.mark.compiler
@pytest.mark.parametrize("row", ["cityscapes_r50_512x1024_40k", "cityscapes_r101_512x1024_40k"])
def test_whole_cityscapes_images_are_evaluated_in_little_memory(row, chip):
    program = evaluation_program(row_config(row), (1024, 2048), chip)
    assert temporaries(program, f"{row}, 1024x2048") < 0.7e9


@pytest.mark.compiler
def test_a_narrow_row_trains_in_little_memory(chip):
    """ADE20K's classes and a quarter of its crop: scores alone would take 39 MB."""
    config = config_of(**{"backbone.depth": 18})
    program = train_program(config, chip)
    assert largest(program) < LIMIT
    scores = 4 * SIZE[0] * SIZE[1] * CLASSES
    assert temporaries(program) < scores
