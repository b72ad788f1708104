"""A run of a step ends well with every setting at every choice, its smallest and largest value.

It ends with scores, or with a sentence before anything is computed. `make soak` runs it: it is a
short run for each value.
"""

import functools
import re

import jax
import jaxtyping
import pytest
import values
from runs import make_data, tiny

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training.loop import train

pytestmark = pytest.mark.soak
RUN = tiny(
    **{
        "model.num_classes": 3,
        "data.name": "folder",
        "data.scale": (64, 48),
        "data.crop_size": (32, 32),
        "eval.scale": (64, 48),
        "eval.window": (32, 32),
        "eval.stride": (16, 16),
        "init_from": "",
        "batch_size": 2,
        "total_steps": 1,
        "log_every": 1,
    }
)
# What does not fit to the data, the machine or the other settings, and what is then told.
REFUSED = {
    ("init_skip_classifier", True): "has no effect without config.init_from",
    ("init_match_classes", True): "has no effect without config.init_from",
    ("model.dtype", "float64"): "JAX_ENABLE_X64",
    ("model.num_classes", 1): "config.model.num_classes is 1, and folder has 3",
    ("model.num_classes", 254): "config.model.num_classes is 254, and folder has 3",
    ("data.source", "array_record"): "There is no prepared folder",
    ("mesh.fsdp", -1): "config.mesh has more than one -1",
    ("mesh.spatial", -1): "config.mesh has more than one -1",
    ("model.decode_head.implementation", "cudnn"): "which runs on a GPU alone",
    ("model.decode_head.implementation", "pallas"): "which runs on a TPU alone",
    ("data.folder_weights", (0.001, 0.001)): "config.data.folder_weights has 2 numbers",
    ("data.max_pixels", 1): "million pixels, more than",
    ("optimizer.learning_rate", 1e12): "scores are not finite",
    ("optimizer.weight_decay", 1e3): "scores are not finite",
    ("loss.class_weights", (0.0, 0.0)): "config.loss.class_weights has 2 numbers",
    ("eval.window", (1, 1)): "config.eval.stride is",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.mark.parametrize(("key", "value"), values.outermost(RUN), ids=lambda value: str(value)[:40])
def test_a_step_runs_or_a_sentence_says_why_not(key, value, data, tmp_path, monkeypatch):
    make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", make_mesh)
    # In Python 3.11 it asks for properties, and their errors become its own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

    def run():
        config = files.override(RUN, data_dir=str(data), **{key: value})
        return train(config, tmp_path / "run")

    if (key, value) in REFUSED:
        with pytest.raises(UserError, match=re.escape(REFUSED[key, value])):
            run()
    else:
        assert 0 <= run().miou <= 1
