"""The examples of docs/extending.md: each is one new file and one line, and they train."""

import difflib
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from nonlocal_jax.checkpoints.pytorch import importer
from nonlocal_jax.config import files
from nonlocal_jax.config.tables import TABLES
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets import describe
from nonlocal_jax.models.network import build_network, init_variables
from nonlocal_jax.training.losses import cross_entropy
from nonlocal_jax.training.losses.loss import make_loss

PAGE = REPOSITORY / "docs" / "extending.md"
TABLES_FILE = "nonlocal_jax/config/tables.py"
IMAGES = {"train": 4, "val": 2}
TRAINING = [
    "--config=demo",
    "--config.data.name=leaves",
    "--config.model.num_classes=3",
    "--config.model.backbone.name=plain",
    "--config.model.backbone.channels=4",
    "--config.model.decode_head.name=psp",
    "--config.model.decode_head.channels=8",
    "--config.loss.name=generalised",
    "--config.loss.q=0.5",
    "--config.optimizer.name=lion",
    "--config.optimizer.schedule.name=exponential",
    "--config.eval.metrics=('iou','miss_rate')",
    "--config.data.crop_size=(48,64)",
    "--config.data.scale=(64,48)",
    "--config.eval.scale=(64,48)",
    "--config.log_to=table",
    "--config.batch_size=2",
    "--config.total_steps=2",
    "--config.eval_every=2",
    "--config.log_every=1",
]


def examples():
    """The files of the page by path, and the lines for the tables by table."""
    blocks = re.findall(r'```python title="([^"]+)"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    modules = {path: text for path, text in blocks if not path.startswith(TABLES_FILE)}
    lines = {title.split(": ")[1]: text for title, text in blocks if title not in modules}
    return modules, lines


MODULES, LINES = examples()


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with the files and the lines of the page."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("nonlocal_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=ignored)
    for path, text in MODULES.items():
        assert not (root / path).exists()
        (root / path).write_text(text)
    tables = (root / TABLES_FILE).read_text()
    for table, line in LINES.items():
        tables, count = re.subn(rf"(?m)^({table} = {{\n(?:    .*\n)*)}}", rf"\1{line}}}", tables)
        assert count == 1, f"{table} is not in {TABLES_FILE}"
    (root / TABLES_FILE).write_text(tables)
    return root


@pytest.fixture(scope="module")
def leaves(tmp_path_factory):
    """A data set in the layout of the page's example."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("leaves")
    for split, count in IMAGES.items():
        (root / split).mkdir()
        for index in range(count):
            size = (48 - 5 * index, 64 - 9 * index)
            image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            image.save(root / split / f"{index:04}.jpg")
            mask = Image.fromarray(rng.integers(0, 3, size, dtype=np.uint8))
            mask.save(root / split / f"{index:04}_mask.png")
    return root


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The examples as modules of a package of one's own, `mine`; returns it as an import path."""
    package = tmp_path / "mine"
    package.mkdir()
    for path, text in MODULES.items():
        (package / path.rpartition("/")[2]).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "mine"
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


def test_every_kind_has_an_example():
    # A task is more than a file: its parts are in several rooms.
    assert set(LINES) == {table.upper() for table in TABLES} - {"TASKS"}
    assert len(MODULES) == len(LINES)


def test_each_is_one_new_file_and_one_line(extended):
    changed = {}
    for path in sorted(extended.rglob("*.py")):
        name = str(path.relative_to(extended))
        original = REPOSITORY / name
        before = original.read_text().splitlines() if original.exists() else []
        diff = list(difflib.ndiff(before, path.read_text().splitlines()))
        added, removed = (sum(line.startswith(mark) for line in diff) for mark in ("+ ", "- "))
        if added or removed:
            changed[name] = added, removed
            print(f"{'M' if before else 'A'} {name}  +{added} -{removed}")
    assert changed.pop(TABLES_FILE) == (len(LINES), 0)
    assert set(changed) == set(MODULES)


def test_they_train_together(extended, leaves, tmp_path):
    flags = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
    places = [f"--config.data_dir={leaves}", f"--workdir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-m", "nonlocal_jax.main", *TRAINING, *places],
        cwd=extended,
        env={**os.environ, "PYTHONPATH": str(extended), "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert np.isfinite([entry["loss"] for entry in log if "loss" in entry]).all()
    assert any("mmiss_rate" in entry for entry in log)
    assert "Miss" in done.stdout
    table = [line.split("\t") for line in (tmp_path / "run" / "log.tsv").read_text().splitlines()]
    assert ["1", "loss", str(log[0]["loss"])] in table


def test_the_examples_read_well(extended):
    settings = str(REPOSITORY / "pyproject.toml")
    paths = [str(extended / path) for path in MODULES]
    for command in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", settings, *paths],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_pyramid_pooling_does_not_see_padding(mine):
    config = files.load(
        "demo",
        **{
            "model.backbone.name": f"{mine}.plain",
            "model.backbone.channels": 4,
            "model.decode_head.name": f"{mine}.psp",
            "model.decode_head.channels": 8,
        },
    )
    network, variables = build_network(config.model), init_variables(config.model, seed=0)

    @jax.jit
    def logits(images, sizes=None):
        return network.bind_for_inference(variables)(images, sizes)

    sizes = jnp.asarray([[50, 41], [17, 64], [64, 64]], jnp.int32)
    images = jax.random.normal(jax.random.key(0), (3, 64, 64, 3))
    together = logits(images, sizes)
    assert network.output_stride == 16
    for index, (height, width) in enumerate(np.asarray(sizes)):
        alone = logits(images[index : index + 1, :height, :width])
        rows, columns = -(-height // 16), -(-width // 16)
        assert alone.shape[1:3] == (rows, columns)
        np.testing.assert_allclose(together[index, :rows, :columns], alone[0], atol=1e-6)


def test_a_backbone_without_names_in_pytorch_is_not_converted(mine):
    config = files.load("demo", **{"model.backbone.name": f"{mine}.plain"})
    network = build_network(config.model)
    shapes = {name: leaf.shape for name, leaf in network.shapes.items()}
    with pytest.raises(UserError, match=r"backbone/layers/0/conv/kernel.* no torch_keys"):
        importer.import_checkpoint(
            {"state_dict": {"a.weight": np.zeros(1)}}, shapes, keys=network.torch_keys
        )


def test_generalised_cross_entropy_has_cross_entropy_as_its_limit(mine):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 5, 7, 3)), jnp.float32)
    labels = jnp.asarray(rng.choice([0, 1, 2, 255], (2, 33, 50)), jnp.uint8)
    given = {"loss.name": f"{mine}.generalised", "loss.q": 1e-3}
    result = make_loss(files.load("demo", **given).loss)(logits, labels, False)
    expected = cross_entropy.segmentation_loss(logits, labels, False)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-2)
    np.testing.assert_allclose(result.accuracy, expected.accuracy, rtol=1e-6)


def test_a_mask_beside_every_image(mine, leaves, tmp_path):
    config = files.load("demo", **{"data.name": f"{mine}.leaves", "model.num_classes": 3})
    dataset = describe(config.data, str(leaves))
    assert [pair.name for pair in dataset.pairs(leaves, "val")] == ["0000.jpg", "0001.jpg"]
