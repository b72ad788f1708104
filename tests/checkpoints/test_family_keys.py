"""The heads of all rows have exactly the tensors of the reference's, in name and shape.

Nothing is computed or compiled. What surrounds a head is that of a NonLocalNet row, whose tensors
test_convert.py compares.
"""

import functools

import numpy as np
import pytest
from conversions import reference_networks
from flax import nnx

from nonlocal_jax import convert
from nonlocal_jax.checkpoints import model
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import exporter, rules, torch_file
from nonlocal_jax.config import files, tables
from nonlocal_jax.models.functional import flat_variables
from nonlocal_jax.models.network import build_backbone, build_network
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import TorchKeys, under

METHODS = [name for name in files.names() if files.rows(name)]


REFERENCE = reference_networks("family_keys.json")  # {"dnl ade20k": {key: shape}}


@functools.cache
def stages(options):
    """The stages of a backbone, which is not built."""
    return nnx.eval_shape(lambda: build_backbone(options, Numerics(rngs=nnx.Rngs(0)))).stages


@functools.cache
def tensors(options, backbone, num_classes):
    """Key and shape of a head's tensors in PyTorch files."""
    module = tables.find("heads", options.name, "model.decode_head.name")
    of_stages = stages(backbone)
    head = nnx.eval_shape(
        lambda: module.build(options, of_stages, num_classes, Numerics(rngs=nnx.Rngs(0)))
    )
    shapes = {f"head/{name}": leaf.shape for name, leaf in flat_variables(head).items()}
    keys = TorchKeys(under("head", "head", head.torch_keys))
    entries, found = rules.torch_entries(shapes, keys), rules.torch_shapes(shapes, keys)
    assert len(found) == sum(len(entry.keys) for entry in entries.values())
    found |= {key: () for entry in entries.values() for key in entry.counters}
    return {key.removeprefix("head."): shape for key, shape in found.items()}


@pytest.mark.parametrize("method", METHODS)
def test_a_head_has_exactly_the_tensors_of_the_references(method):
    for row in files.rows(method):
        options = files.load(f"{method}:{row}").model
        expected = REFERENCE[f"{method} {row.partition('_')[0]}"]
        found = tensors(options.decode_head, options.backbone, options.num_classes)
        assert found == expected, row


def test_the_command_imports_a_row_and_keeps_its_config(tmp_path, capsys):
    small = {"backbone.stem_channels": 2, "backbone.base_channels": 2, "auxiliary_head.channels": 4}
    small |= {"decode_head.channels": 8, "decode_head.attention_channels": 4}
    small = {f"model.{key}": value for key, value in small.items()}
    name = "isa:cityscapes_r50_769x769_40k"
    network = build_network(files.load(name, **small).model)
    shapes = {key: leaf.shape for key, leaf in network.shapes.items()}
    rng = np.random.default_rng(0)
    variables = {key: rng.random(shape).astype(np.float32) for key, shape in shapes.items()}
    given = Metadata(kind="segmentor", meta={"CLASSES": ["road"]})
    tree = exporter.export_checkpoint(variables, given, shapes, keys=network.torch_keys)
    torch_file.write(tmp_path / "file.pth", tree)
    overrides = [f"--config.{key}={value}" for key, value in small.items()]
    paths = [f"--input={tmp_path / 'file.pth'}", f"--output={tmp_path / 'out'}"]
    assert convert.run([f"--config={name}", *overrides, *paths]) == 0
    assert "every value is the file's" in capsys.readouterr().out
    loaded, metadata = model.load_model(tmp_path / "out")
    assert metadata.network == name and metadata.config == files.load(name, **small)
    assert (metadata.config.eval.mode, metadata.config.published.miou) == ("slide", 78.7)
    for key, value in variables.items():
        np.testing.assert_array_equal(loaded[key], value)
