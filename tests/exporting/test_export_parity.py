"""Exports of a published network at full width and of the demo's, on real images of odd sizes."""

import pathlib
import re

import numpy as np
import pytest
from networks import CONFIGS
from PIL import Image

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.exporting import onnx, stablehlo
from nonlocal_jax.exporting.request import Request, portable
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import build_network, init_variables, without_auxiliary_head

COUNT = 10


@pytest.fixture(scope="module")
def images(shared, tmp_path_factory):
    """Ten photographs, each of its own odd height and width."""
    folder = tmp_path_factory.mktemp("images")
    found = sorted(p for p in shared.rglob("*") if p.suffix in (".jpg", ".png") and _is_photo(p))
    chosen = [found[index] for index in np.linspace(0, len(found) - 1, COUNT).astype(int)]
    for number, path in enumerate(chosen):
        with Image.open(path) as image:
            width, height = image.size
            size = (width - 1 + width % 2 - 8 * number, height - 1 + height % 2 - 6 * number)
            image.convert("RGB").crop((0, 0, *size)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def _is_photo(path):
    with Image.open(path) as image:
        return image.mode == "RGB" and min(image.size) > 200


# R-50 of a published row, at a quarter of its pixels, and the demo's network.
NETWORKS = {"voc12aug_r50_40k": (1024, 256), "demo": (512, 512)}
FORMATS = {"stablehlo": stablehlo.write, "onnx": onnx.write}


def random_network(row):
    """A network with random weights in all norms."""
    config = portable(files.load(CONFIGS / f"{row}.py", **{"eval.scale": NETWORKS[row]}))
    model, rng = without_auxiliary_head(config.model), np.random.default_rng(0)
    values = {name: np.asarray(x) for name, x in init_variables(model, 0).items()}
    for name, value in values.items():
        if name.endswith(("norm/scale", "norm/var")):
            values[name] = rng.uniform(0.3, 0.9, value.shape).astype(np.float32)
        elif name.endswith(("norm/bias", "norm/mean")):
            values[name] = rng.normal(0, 0.2, value.shape).astype(np.float32)
    network, folded = fold(build_network(model), values)
    count = model.num_classes
    palette = np.zeros((count, 3), np.uint8)
    found = locate.Found(pathlib.Path("random"), None, None)
    metadata = Metadata(kind="segmentor")
    return Restored(found, metadata, config, network, folded, ("class",) * count, palette)


@pytest.mark.parity
@pytest.mark.parametrize("result", ["indices", "logits"])
@pytest.mark.parametrize("row", NETWORKS)
@pytest.mark.parametrize("form", FORMATS)
def test_full_width_on_ten_images_of_odd_sizes(form, row, result, images, tmp_path):
    asked = Request(random_network(row), tmp_path / "network", result, images=tuple(images))
    compared, _ = FORMATS[form](asked).lines
    print(compared)
    assert len(set(re.findall(r"\d+x\d+", compared))) == COUNT
