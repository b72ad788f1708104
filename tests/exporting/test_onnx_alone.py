"""ONNX files where this package is not: in ONNX Runtime alone, and in onnxruntime-web."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from exports import SLIDE, picture, request

from nonlocal_jax.exporting.onnx import network
from nonlocal_jax.exporting.onnx.session import Session

ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nonlocal_jax", "jax", "flax", "onnx"):
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
import json, numpy as np, onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(masks,) = session.run(None, {"images": np.load(sys.argv[2])})
np.save(sys.argv[3], masks)
print(json.loads(session.get_modelmeta().custom_metadata_map["class_names"])[1])
"""
WEB = """
import fs from "fs";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
const [model, pixels, height, width, output] = process.argv.slice(2);
const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(model)), {
  executionProviders: ["wasm"],
});
const bytes = new Uint8Array(fs.readFileSync(pixels));
const images = new ort.Tensor("uint8", bytes, [1, +height, +width, 3]);
const { indices } = await session.run({ images });
fs.writeFileSync(output, Buffer.from(indices.data));
"""


def write_model(path, **overrides):
    content = network.build(request("", **overrides)).SerializeToString()
    path.write_bytes(content)
    return Session(content, threads=1)


def test_onnx_runtime_alone_runs_it(tmp_path):
    run, images = write_model(tmp_path / "network.onnx"), picture(45, 71)[None]
    np.save(tmp_path / "images.npy", images)
    paths = [tmp_path / name for name in ("network.onnx", "images.npy", "masks.npy")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *map(str, paths)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "class 1"
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), run(images))


@pytest.mark.package
@pytest.mark.parametrize("overrides", [{}, SLIDE], ids=["whole", "windows"])
def test_a_browsers_runtime_runs_it(overrides, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("no npm, which installs onnxruntime-web")
    run, image = write_model(tmp_path / "network.onnx", **overrides), picture(45, 71)
    (tmp_path / "pixels").write_bytes(image.tobytes())
    (tmp_path / "package.json").write_text(json.dumps({"type": "module"}))
    (tmp_path / "run.js").write_text(WEB)
    subprocess.run(["npm", "install", "onnxruntime-web"], cwd=tmp_path, check=True)
    arguments = ["network.onnx", "pixels", "45", "71", "masks"]
    subprocess.run(["node", "run.js", *arguments], cwd=tmp_path, check=True)
    found = np.frombuffer((tmp_path / "masks").read_bytes(), np.uint8).reshape(45, 71)
    assert np.mean(found == run(image[None])[0]) >= 0.9999
