"""A run of a step ends well with every setting at every choice, its smallest and largest value.

It ends with scores, or with a sentence before anything is computed. `make soak` runs it: it is a
short run for each value.
"""

import re

import pytest
import values
from runs import make_data, tiny

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
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
# What is told of a value that is legal by itself: what does not fit to what is there.
EXPECTED = (
    r"config\.model\.num_classes is|config\.mesh|config\.data\.\w+ is|config\.init_|JAX_ENABLE_X64|"
    r"config\.eval\.stride is|not finite|no prepared|is \d+x\d+, .* million pixels|a window|"
    r"config\.accumulate_steps|config\.batch_size"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.mark.parametrize(("key", "value"), values.outermost(RUN), ids=lambda value: str(value)[:40])
def test_a_step_runs_or_a_sentence_says_why_not(key, value, data, tmp_path):
    try:
        config = files.override(RUN, data_dir=str(data), **{key: value})
        scores = train(config, tmp_path / "run")
    except UserError as error:
        assert re.search(EXPECTED, str(error)), error
        assert len(str(error).splitlines()) < 4
    else:
        assert 0 <= scores.miou <= 1
