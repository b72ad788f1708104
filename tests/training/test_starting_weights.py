"""What a run may start from, and what is said of the difference."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from runs import tiny
from saved import contents

from nonlocal_jax.checkpoints import model
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.functional import Functional
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


class OnlyShapes(Functional):
    """A network by the shapes of its arrays."""

    def __init__(self, arrays):
        object.__setattr__(self, "state", arrays)

    @property
    def shapes(self):
        return self.state


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A function that starts a network of two heads, of which few arrays exist."""

    def arrays(classes, seed):
        rng = np.random.default_rng(seed)
        shapes = {"kernel": (1, 1, 3, classes), "bias": (classes,)}
        names = ("decode_head/classifier", "decode_head/channel_classifier")
        drawn = {f"{n}/{array}": rng.random(s) for n in names for array, s in shapes.items()}
        drawn["decode_head/convs/0/conv/kernel"] = rng.random((3, 3, 2, 3))
        return {name: value.astype(np.float32) for name, value in drawn.items()}

    def start(theirs, ours, **overrides):
        saved, fresh = arrays(3, 1), arrays(len(ours), 2)
        initial = {name: jnp.asarray(value) for name, value in fresh.items()}
        meta = {"CLASSES": theirs} if theirs else {}
        model.save_model(tmp_path / "saved", saved, Metadata(kind="segmentor", meta=meta))
        task = SimpleNamespace(initial_variables=lambda: initial)
        monkeypatch.setattr(starting_weights.tasks, "of", lambda config: task)
        config = files.override(tiny(), init_from=str(tmp_path / "saved"), **overrides)
        network = OnlyShapes(fresh)
        return saved, fresh, starting_weights.initial_variables(config, network, ours)

    return start


def test_classes_of_the_same_name_keep_their_classifiers(small, capsys):
    saved, fresh, variables = small(
        ["road", "sky", "c"], ("sky", "Road", "car", "road"), init_match_classes=True
    )
    assert variables.keys() == saved.keys()
    for name, value in variables.items():
        expected = fresh[name]
        if "classifier" in name:
            expected[..., 0], expected[..., 3] = saved[name][..., 1], saved[name][..., 0]
        else:
            expected = saved[name]
        np.testing.assert_array_equal(value, expected.astype(value.dtype))
    out = capsys.readouterr().out
    assert "Classes with the classifier of" in out and "saved: sky, road.\n" in out
    assert "Classes with a random classifier: Road, car.\n" in out


def test_classes_without_any_in_common_all_start_at_random(small, capsys):
    _, fresh, variables = small(["a", "b", "c"], ("x", "y", "z"), init_match_classes=True)
    name = "decode_head/classifier/kernel"
    np.testing.assert_array_equal(variables[name], fresh[name].astype(variables[name].dtype))
    assert "saved: none.\n" in capsys.readouterr().out


def test_matching_classes_needs_their_names(small):
    with pytest.raises(UserError, match="does not name its classes"):
        small(None, ("x", "y", "z"), init_match_classes=True)
    with pytest.raises(UserError, match="exclude each other"):
        tiny(init_from="x", init_match_classes=True, init_skip_classifier=True)


def test_another_number_of_classes_is_refused_with_both_ways_out(small):
    with pytest.raises(UserError, match=r"set --config\.init_match_classes=True; to leave"):
        small(["a", "b", "c"], ("a", "b"))
