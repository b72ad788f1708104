"""What a run may start from, and what is said of the difference."""

import numpy as np
import pytest
from runs import tiny
from saved import contents

from nonlocal_jax.checkpoints import model
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.network import build_network, init_variables
from nonlocal_jax.training import starting_weights


def save(path, config, kind="segmentor", network="", only="", classes=None):
    """A checkpoint with random weights of the config's network."""
    chosen = {
        name: np.asarray(value)
        for name, value in init_variables(config.model, 7).items()
        if name.startswith(only)
    }
    whole = None if kind == "backbone" else config
    meta = {"CLASSES": classes} if classes else {}
    model.save_model(path, chosen, Metadata(kind=kind, config=whole, network=network, meta=meta))
    return chosen


def start(config, path, names=None, **overrides):
    config = files.override(config, init_from=str(path), **overrides)
    return starting_weights.initial_variables(config, build_network(config.model), names)


def test_a_backbone_of_another_variant_is_refused(tmp_path):
    save(tmp_path / "v1c", tiny(), "backbone", "resnet18_v1c", "backbone/")
    before = contents(tmp_path)
    start(tiny(), tmp_path / "v1c")
    with pytest.raises(UserError, match=r"backbone\.variant was v1c, is v1d"):
        start(tiny(), tmp_path / "v1c", **{"model.backbone.variant": "v1d"})
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decode_head.mode", "dot_product"),
        ("decode_head.use_scale", False),
        ("decode_head.sub_sample", True),
        ("auxiliary_head.concat_input", True),
    ],
)
def test_another_head_is_refused_also_if_its_shapes_are_the_same(tmp_path, key, value):
    save(tmp_path / "saved", tiny())
    with pytest.raises(UserError, match=rf"config\.model\.{key} was .*, is {value}"):
        start(tiny(), tmp_path / "saved", **{f"model.{key}": value})


def test_what_training_adapts_to_is_said(tmp_path, capsys):
    save(tmp_path / "saved", tiny(), classes=["a", "b", "c", "d", "e"])
    start(
        tiny(),
        tmp_path / "saved",
        ("a", "c", "b", "d", "e"),
        **{"model.backbone.output_stride": 16, "model.align_corners": True},
    )
    out = capsys.readouterr().out
    assert "output_stride was 8, is 16" in out and "align_corners was False, is True" in out
    assert "classes in another order: label 1 is 'b' there and 'c' here" in out


def test_the_same_network_is_taken_without_a_word_more(tmp_path, capsys):
    names = tuple("abcde")
    saved = save(tmp_path / "saved", tiny(), classes=list(names))
    variables = start(tiny(), tmp_path / "saved", names)
    for name, value in saved.items():
        np.testing.assert_array_equal(variables[name], value)
    assert capsys.readouterr().out.count("\n") == 1


def test_classifiers_of_a_head_that_is_not_there_are_skipped(tmp_path):
    save(tmp_path / "saved", tiny())
    without = tiny(**{"model.auxiliary_head.loss_weight": 0.0})
    with pytest.raises(UserError, match="unexpected: auxiliary_head/"):
        start(without, tmp_path / "saved", init_skip_classifier=True)
    save(tmp_path / "without", without)
    variables = start(tiny(), tmp_path / "saved", init_skip_classifier=True)
    assert "auxiliary_head/classifier/bias" in variables
