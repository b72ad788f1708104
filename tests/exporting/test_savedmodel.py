"""SavedModels: that TensorFlow alone runs them."""

import os
import subprocess
import sysconfig
import venv

import numpy as np
import pytest
from conftest import REPOSITORY
from exports import picture, request

from nonlocal_jax.evaluation.predictor import Predictor

WRITE = """
import sys
from exports import request
from nonlocal_jax.exporting import savedmodel
print(*savedmodel.write(request(sys.argv[1], "probabilities")).lines, sep="\\n")
"""
ALONE = """
import sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
images = tf.constant(np.load(sys.argv[2]))
found = model.segment(images).numpy()
(served,) = model.signatures["serving_default"](images=images).values()
np.testing.assert_array_equal(served.numpy(), found)
np.save(sys.argv[3], found)
assert not any(name.partition(".")[0] in ("jax", "nonlocal_jax") for name in sys.modules)
"""


@pytest.mark.package
def test_tensorflow_alone_runs_it(tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env/bin/python")
    subprocess.run([python, "-m", "pip", "install", "-q", "tensorflow-cpu>=2.20"], check=True)
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    paths = [REPOSITORY, REPOSITORY / "tests/support", sysconfig.get_path("purelib")]
    with_jax = {**plain, "PYTHONPATH": os.pathsep.join(map(str, paths)), "JAX_PLATFORMS": "cpu"}
    model = tmp_path / "model"
    done = subprocess.run(
        [python, "-c", WRITE, str(model)],
        env=with_jax,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Compared with JAX" in done.stdout
    assert (model / "assets.extra/classes.json").is_file()
    assert str(REPOSITORY).encode() not in (model / "saved_model.pb").read_bytes()

    images = np.stack([picture(45, 71, seed=seed) for seed in range(2)])
    np.save(tmp_path / "images.npy", images)
    files = [model, tmp_path / "images.npy", tmp_path / "found.npy"]
    subprocess.run([python, "-c", ALONE, *map(str, files)], env=plain, check=True)
    predictor = Predictor(request("", "probabilities").restored)
    expected = np.stack([predictor.probabilities(image) for image in images])
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=0, atol=1e-5)
