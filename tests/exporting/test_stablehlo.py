"""StableHLO files: what they hold, that JAX alone runs them, and what is refused."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import REPOSITORY
from exports import picture, request
from networks import NUM_CLASSES
from runs import ONE_DEVICE

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting import stablehlo

# Reads a file and applies it to an image, where this package can't be imported.
ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "nonlocal_jax":
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
try:
    import nonlocal_jax
except ImportError:
    pass
else:
    sys.exit("this package is there")

import jax, numpy as np
with open(sys.argv[1], "rb") as file:
    call = jax.export.deserialize(bytearray(file.read())).call
np.save(sys.argv[3], call(np.load(sys.argv[2])))
assert not any(name.partition(".")[0] in ("nonlocal_jax", "flax") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A request that was written, and the lines that tell it."""
    asked = request(tmp_path_factory.mktemp("export") / "network.stablehlo", "probabilities")
    return asked, stablehlo.write(asked)


@pytest.fixture(scope="module")
def program(written):
    """The file, deserialised."""
    return jax.export.deserialize(bytearray(written[0].output.read_bytes()))


def test_it_is_compared_before_it_is_written(written):
    asked, ((compared, wrote), _) = written
    assert re.fullmatch(
        r"Compared with JAX on images of 511x63, 63x511: (100.0000|99.99\d\d)% of the classes are "
        r"equal, and numbers differ by at most \d.\de-\d\d of the largest.",
        compared,
    )
    assert str(asked.output) in wrote


def test_jax_runs_it_where_this_package_is_not(written, program, tmp_path):
    image = picture(45, 71)[None]
    np.save(tmp_path / "image.npy", image)
    arguments = [written[0].output, tmp_path / "image.npy", tmp_path / "found.npy"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *map(str, arguments)],
        cwd=tmp_path,
        env=ONE_DEVICE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npy")
    assert found.shape == (1, 45, 71, NUM_CLASSES)
    np.testing.assert_allclose(found, program.call(image), rtol=0, atol=1e-6)


def test_it_is_for_all_platforms_without_kernels_of_ours(program):
    assert program.platforms == ("cpu", "cuda", "tpu")
    called = set(re.findall(r"custom_call @(\w+)", program.mlir_module()))
    assert called <= {"shape_assertion"}
    assert program.disabled_safety_checks == ()


def test_it_holds_no_path_of_this_machine(written):
    content = written[0].output.read_bytes()
    assert b"resnet.py" in content  # of the tracebacks of its operations
    assert str(REPOSITORY).encode() not in content


def test_factors_are_float32_on_all_platforms(program):
    found = re.findall(
        r"precision<?[ \w=_]*\[?(#stablehlo<precision \w+>|\w+)", program.mlir_module()
    )
    precisions = set(re.findall(r"\b(HIGHEST|HIGH|DEFAULT)\b", " ".join(found)))
    assert precisions == {"HIGHEST"}


def test_classes_and_colours_are_beside_it(written):
    asked, _ = written
    told = json.loads(asked.output.with_name("network.stablehlo.json").read_text())
    assert told["class_names"] == list(asked.restored.class_names)
    assert told["palette"] == asked.restored.palette.tolist()
    assert told["output"].startswith("float32 [n, height, width, classes]")


@pytest.mark.parametrize("result", ["indices", "logits"])
def test_an_export_that_differs_is_not_written(result, tmp_path, monkeypatch):
    asked = request(tmp_path / "network.stablehlo", result)
    name = "decode_head/classifier/kernel"
    other = dict(asked.restored.variables)
    other[name] = 1.01 * other[name][..., ::-1]
    plain = stablehlo.exported

    def wrong(asked):
        return plain(
            dataclasses.replace(
                asked, restored=dataclasses.replace(asked.restored, variables=other)
            )
        )

    monkeypatch.setattr(stablehlo, "exported", wrong)
    with pytest.raises(UserError, match=r"not what JAX computes.*Nothing was written"):
        stablehlo.write(asked)
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_with_its_classes_or_not_at_all(tmp_path, monkeypatch):
    program = jax.export.export(jax.jit(lambda x: x))(np.zeros(3, np.float32))
    monkeypatch.setattr(stablehlo, "exported", lambda asked: program)
    monkeypatch.setattr(stablehlo.check, "compare", lambda *_: "")
    path, beside = tmp_path / "network", tmp_path / "network.json"
    asked = request(path)
    beside.write_text("precious")
    with pytest.raises(UserError, match=r"network\.json exists already"):
        stablehlo.write(asked)
    assert beside.read_text() == "precious" and not path.exists()
    beside.unlink()
    (path / "a folder").mkdir(parents=True)
    with pytest.raises(UserError, match="network cannot be written"):
        stablehlo.write(asked)
    assert not beside.exists()
