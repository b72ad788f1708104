"""From a Caffe2 file to a checkpoint folder and back, and what that prints."""

import json

import numpy as np
import pytest
from video import weights

from nonlocal_jax.checkpoints import locate, model
from nonlocal_jax.checkpoints.caffe2 import blob_file, convert, rules
from nonlocal_jax.checkpoints.folder import damage
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones import video_resnet
from nonlocal_jax.models.video_network import build_network


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    monkeypatch.setitem(video_resnet.BLOCKS_PER_STAGE, 50, (1, 1, 1, 1))
    monkeypatch.setitem(video_resnet.NON_LOCAL_AFTER, 50, {"res4": (0,)})


def config(num_classes=5, **settings):
    """A row with few channels, and some settings of its backbone."""
    backbone = {f"model.backbone.{key}": value for key, value in settings.items()}
    values = {"model.num_classes": num_classes, "model.backbone.base_channels": 2, **backbone}
    return files.load("kinetics_i3d_nonlocal_8x8", **values)


def write(path, of, **changes):
    """A file of the network of a config, with momenta."""
    network = build_network(of.model)
    entries = rules.entries(network.shapes, network.caffe2_keys)
    table = {
        entry.key: rules.caffe2_shape(network.shapes[name].shape, entry.layout)
        for name, entry in entries.items()
    }
    momenta = {
        f"{entries[name].key}_momentum": table[entries[name].key] for name in network.trainable
    }
    blobs = {**weights(table, 0), **weights(momenta, 1)}
    blobs |= {"lr": np.array(0.001, np.float32), "model_iter": 7, **changes}
    blob_file.write(path, blobs)
    return blobs


def test_import_and_export(tmp_path, capsys):
    blobs = write(tmp_path / "x.pkl", config())
    convert.import_(config(), "row", str(tmp_path / "x.pkl"), tmp_path / "imported")
    printed = capsys.readouterr().out
    assert "SHA-256" in printed and "Kept for an export: " in printed
    assert damage(tmp_path / "imported") is None
    variables, metadata = model.load_model(tmp_path / "imported")
    assert metadata.kind == "recognizer" and metadata.config == config()
    assert variables["head/classifier/bias"].tobytes() == blobs["pred_b"].tobytes()
    found = locate.find(tmp_path / "imported")
    convert.export(found, metadata.config, tmp_path / "out" / "y.pkl")
    written = blob_file.read(tmp_path / "out" / "y.pkl")
    assert set(written) == set(blobs)
    for key, value in blobs.items():
        assert np.asarray(written[key]).tobytes() == np.asarray(value).tobytes(), key
        assert np.shape(written[key]) == np.shape(value)
    (tmp_path / "imported" / "beside.npz").write_bytes(b"x")
    assert "beside.npz has changed" in damage(tmp_path / "imported")


def test_weights_to_start_from(tmp_path, capsys):
    """A file of batch norms becomes a start of an affine network, as an export does."""
    baseline, affine = config(non_local=False), config(norm="affine")
    write(tmp_path / "x.pkl", baseline)
    convert.import_(affine, "row", str(tmp_path / "x.pkl"), tmp_path / "start", initial=True)
    printed = capsys.readouterr().out
    assert "Batch norms were made affine layers." in printed and "Left out by rule: " in printed
    variables, metadata = model.load_model(tmp_path / "start")
    assert metadata.kind == "backbone" and set(variables) < set(build_network(affine.model).shapes)
    assert set(metadata.meta["new"]) == set(build_network(affine.model).shapes) - set(variables)
    json.dumps(metadata.to_tree())

    convert.import_(baseline, "row", str(tmp_path / "x.pkl"), tmp_path / "whole")
    found = locate.find(tmp_path / "whole")
    convert.export(found, baseline, tmp_path / "affine.pkl", form="affine")
    convert.import_(affine, "row", str(tmp_path / "affine.pkl"), tmp_path / "again", initial=True)
    again, _ = model.load_model(tmp_path / "again")
    for name, value in variables.items():
        np.testing.assert_array_equal(again[name], value)


def test_nan_is_refused_and_nothing_is_left(tmp_path):
    source = str(tmp_path / "x.pkl")
    write(tmp_path / "x.pkl", config(), pred_b_momentum=np.full(5, np.nan, np.float32))
    with pytest.raises(UserError, match="NaN or infinite values in 1 variables"):
        convert.import_(config(), "row", source, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]
    convert.import_(config(), "row", source, tmp_path / "imported", allow_nan=True)


def test_a_file_of_another_network_is_refused(tmp_path):
    write(tmp_path / "x.pkl", config())
    other = config(num_classes=6)
    with pytest.raises(UserError, match=r"x\.pkl does not fit row: .*5 classes.*6 classes"):
        convert.import_(other, "row", str(tmp_path / "x.pkl"), tmp_path / "imported")
    with pytest.raises(UserError, match="no published file of row"):
        own = files.override(config(), **{"published.url": ""})
        convert.import_(own, "row", "", tmp_path / "imported")
