"""Memory on a TPU v5e chip, from its own compiler, which needs no TPU.

Half a minute each: an evaluation is always held, `make compiler` runs all.
"""

import os

import pytest
from conftest import REPOSITORY
from programs import LIMIT, config_of, largest, on_one, train_program

from nonlocal_jax.config import files
from nonlocal_jax.performance import chips, compiler
from nonlocal_jax.runtime import sharding

BATCH = {"cityscapes": 2, "ade20k": 4, "voc12aug": 4}  # published, of a device
LARGE = pytest.mark.compiler
ROWS = [
    pytest.param("ade20k_r50_80k", marks=LARGE),
    pytest.param("cityscapes_r50_512x1024_40k", marks=LARGE),
    pytest.param("cityscapes_r101_512x1024_40k", marks=LARGE),
    pytest.param("cityscapes_r50_769x769_40k", marks=LARGE),
    pytest.param("cityscapes_r101_769x769_40k", marks=LARGE),
    pytest.param("ade20k_r101_80k", marks=LARGE),
    pytest.param("voc12aug_r50_20k", marks=LARGE),
    pytest.param("voc12aug_r101_20k", marks=LARGE),
]
WHOLE = [
    "cityscapes_r50_512x1024_40k",
    pytest.param("cityscapes_r101_512x1024_40k", marks=LARGE),
]
CHIP_BYTES = 16e9


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """compiled(row, "train" or "eval", **overrides): the step on one v5e chip."""
    pytest.importorskip("libtpu")
    cache, mesh = tmp_path_factory.mktemp("plans"), dict.fromkeys(sharding.AXES, 1)

    def step(row, kind, **overrides):
        config = files.load(REPOSITORY / "configs" / f"{row}.py", **overrides)
        found = compiler.compile_step(config, chips.parse("v5e:1x1"), mesh, kind, cache)
        print(f"\n{row} {kind} {overrides}: {found.parts['temporaries'] / 1e9:.2f} GB temporaries")
        return found, config

    return step


@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_in_half_of_the_published_memory(row, compiled):
    found, config = compiled(row, "train", batch_size=BATCH[row.partition("_")[0]])
    assert found.parts["temporaries"] <= 0.5e9 * config.published.memory_gb


@pytest.mark.compiler
def test_resnet101_trains_on_eight_large_crops(compiled):
    more = {"batch_size": 8, "model.remat": "blocks"}
    found, _ = compiled("cityscapes_r101_512x1024_40k", "train", **more)
    assert found.fits and found.needed < CHIP_BYTES


@pytest.mark.parametrize("row", WHOLE)
def test_whole_cityscapes_images_are_evaluated_in_little_memory(row, compiled):
    found, _ = compiled(row, "eval", **{"eval.batch_size": 1})
    assert found.parts["temporaries"] < 0.7e9


@pytest.fixture
def chip():
    """A mesh of one v5e chip."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    # libtpu asks the cloud's metadata server, which only a TPU's host has, and locks the chip.
    os.environ["TPU_SKIP_MDS_QUERY"] = os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    described = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return on_one(described.devices[0])


@pytest.mark.compiler
def test_a_chips_program_holds_neither_pairs_nor_scores(chip):
    """The TPU's own optimised program of a narrow row, as test_hlo.py reads a CPU's."""
    program = train_program(config_of(**{"backbone.depth": 18}), chip)
    assert largest(program) < LIMIT
