"""Every loss, its gradient and the pixels that OHEM keeps, against the reference's in float64."""

import subprocess

import jax
import loss_cases as cases
import numpy as np
import pytest
from conftest import REPOSITORY
from flax import nnx
from networks import GOLDEN
from programs import CLASSES, LIMIT, SIZE, largest
from sharded import mesh_of

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.segmentor import Output, Segmentor
from nonlocal_jax.ops import score_blocks
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training.losses import ohem
from nonlocal_jax.training.losses.loss import make_loss
from nonlocal_jax.training.tasks import task as tasks

SEEDS = 100  # of `make parity`, each with three kinds of labels
TWO_IMAGES = "an_image_ignored"  # a batch whose images have unlike labels


def options_of(settings):
    given = {f"loss.{key}": value for key, value in files.flatten(settings).items()}
    return files.load("demo", **given).loss


def program(options):
    """The jitted loss: from logits, labels and align_corners to value, gradient, kept pixels."""
    loss = make_loss(options)

    def evaluate(logits, labels, align_corners):
        def both(logits):
            result = loss(logits, labels, align_corners)
            return result.loss, result.accuracy

        (value, accuracy), gradient = jax.value_and_grad(both, has_aux=True)(logits)
        found = {"loss": value, "gradient": gradient, "accuracy": accuracy}
        if options.name == "ohem":
            found["kept"] = ohem.hard_pixels(options, logits, labels, align_corners)
        return found

    return jax.jit(evaluate, static_argnums=2)


def check(golden, name, seeds, monkeypatch):
    monkeypatch.setattr(score_blocks, "BLOCK_BYTES", 0)  # blocks of 8 rows, the last filled up
    worst = 0.0
    with jax.enable_x64(True):
        evaluate = program(options_of(cases.CASES[name]))
        for seed in seeds:
            for kind in cases.KINDS:
                found = evaluate(*cases.batch(seed, kind), cases.aligns_corners(seed))
                for key in found.keys() - {"accuracy"}:
                    expected = golden[f"{name}/{kind}/{seed}/{key}"]
                    difference = np.abs(np.asarray(found[key], np.float64) - expected).max()
                    error = difference / max(np.abs(expected).max(), 1e-3)
                    worst = max(worst, error)
                    assert error < 1e-7, f"{name} {kind} {seed} {key}: {error}"
        logits, labels = cases.batch(seeds[0], TWO_IMAGES)
        labels[0, 3, 3] = cases.CLASSES  # which is no class
        assert np.isnan(evaluate(logits, labels, cases.aligns_corners(seeds[0]))["loss"])
    print(f"{name}: {worst:.1e}")


@pytest.mark.parametrize("name", cases.CASES)
def test_equal(name, monkeypatch):
    check(np.load(GOLDEN / "losses.npz"), name, [0], monkeypatch)


@pytest.fixture(scope="module")
def many(reference_python, tmp_path_factory):
    file = tmp_path_factory.mktemp("losses") / "losses.npz"
    script = REPOSITORY / "tests" / "golden" / "make_losses.py"
    command = [reference_python, "-W", "ignore", script, file, "1", str(SEEDS)]
    subprocess.run(command, check=True, capture_output=True)
    return np.load(file)


@pytest.mark.parity
@pytest.mark.parametrize("name", cases.CASES)
def test_equal_for_many_batches(name, many, monkeypatch):
    check(many, name, range(1, 1 + SEEDS), monkeypatch)


# One of each kind: what is summed over an image, found for each pixel, or sorted.
OF_EACH_KIND = ["ohem_threshold", "dice", "lovasz"]


@pytest.mark.devices(8)
@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_eight_devices_find_what_one_finds(name):
    """Four share the rows of an image, which do not divide evenly."""

    logits, labels = cases.batch(0, TWO_IMAGES)
    logits = logits.astype(np.float32)
    evaluate = program(options_of(cases.CASES[name]))
    expected = evaluate(logits, labels, False)
    mesh = mesh_of(2, 1, 4)
    with jax.set_mesh(mesh):
        split = [sharding.put_images(array, mesh) for array in (logits, labels)]
        found = evaluate(*split, False)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=2e-5, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("name", [*OF_EACH_KIND, "focal", "cross_entropy_weights"])
def test_no_scores_at_full_resolution(name):
    logits = jax.ShapeDtypeStruct((1, 65, 129, CLASSES), np.float32)
    labels = jax.ShapeDtypeStruct((1, *SIZE), np.uint8)
    settings = {k: v for k, v in cases.CASES[name].items() if k != "class_weights"}
    if name == "cross_entropy_weights":
        settings["label_smoothing"] = 0.1
    assert largest(program(options_of(settings)).lower(logits, labels, False).compile()) < LIMIT


def test_equal_losses_are_kept_in_order():
    """Where all pixels are as hard, the first ones are kept, and as many as are wanted."""
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, 0] = 255
    options = options_of({"name": "ohem", "by": "loss", "min_kept": 5})
    kept = ohem.hard_pixels(options, np.zeros((2, 4, 4, 3), np.float32), labels, False)
    expected = np.zeros((2, 4, 4), bool)
    expected.ravel()[4:14] = True
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss.class_weights": (1.0, 2.0)},
            r"has 2 numbers.*num_classes is 5",
        ),
        ({"auxiliary_loss.name": "focal", "auxiliary_loss.alpha": (0.1, 0.2)}, "loss.alpha has 2"),
        ({"loss.name": "sum", "loss.second.class_weights": (1.0,)}, r"loss\.second\.class_weights"),
    ],
)
def test_numbers_for_other_classes_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        files.load("demo", **settings)


def test_each_head_has_its_own_loss():

    logits, labels = cases.batch(0, TWO_IMAGES)
    logits = logits.astype(np.float32)

    class TwoHeads(Segmentor):
        def __init__(self):
            pass

        def training_outputs(self, images, *, rngs):
            return {
                "decode": Output(logits, 1.0),
                "decode_more": Output(2 * logits, 0.5),
                "auxiliary": Output(logits, 0.4),
            }

    def losses(**settings):
        objective = tasks.of(files.load("demo", **settings)).objective()
        image = np.zeros((*labels.shape, 3), np.uint8)
        size = np.array([labels.shape[1:]] * 2, np.int32)
        batch = jax.device_put({"image": image, "label": labels, "size": size})
        return objective(TwoHeads(), batch, nnx.Rngs(0))

    both = losses(**{"loss.name": "dice"})
    own = losses(**{"loss.name": "dice", "auxiliary_loss.name": "focal"})
    alone = {
        name: make_loss(options_of({"name": name}))(logits, labels, False).loss
        for name in ("dice", "focal")
    }
    for name in ("loss_decode", "loss_decode_more"):
        assert own[name] == both[name]
    np.testing.assert_allclose(both["loss_auxiliary"], 0.4 * alone["dice"], rtol=1e-6)
    np.testing.assert_allclose(own["loss_auxiliary"], 0.4 * alone["focal"], rtol=1e-6)
    parts = sum(own[f"loss_{name}"] for name in ("decode", "decode_more", "auxiliary"))
    np.testing.assert_allclose(own["loss"], parts, rtol=1e-6)


def test_only_the_auxiliary_loss_may_be_the_same():

    with pytest.raises(UserError, match=r"only config\.auxiliary_loss may be"):
        tasks.of(files.load("demo", **{"loss.name": "same"})).objective()
