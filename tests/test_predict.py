"""Predicting images from files and in notebooks: what is written, and what is refused."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_evaluate import config_for, run_command, small, write_folder
from test_model import golden_variables

from nonlocal_jax import api, checkpoints, predict
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.models.build import build_network
from nonlocal_jax.ops.normalize import normalize

GOLDEN = pathlib.Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

from pictures import NUM_CLASSES, SIZES, label, picture  # noqa: E402

REFERENCE = np.load(GOLDEN / "inference.npz")
EVERY = 5  # make_inference.py stored the probabilities of one pixel in five along each axis


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set, for its class names."""
    root = tmp_path_factory.mktemp("data")
    write_folder(root, {"0": (picture(0), label(0))})
    return root


def save(config, path):
    """A checkpoint with the auxiliary head, as training and conversion write it."""
    network = build_network(config.model)
    variables = {k: np.asarray(v) for k, v in golden_variables(config, network).items()}
    checkpoints.save_model(path, variables, {"kind": "segmentor", "network": "tiny"})
    return path


@pytest.fixture(scope="module")
def tiny(data, tmp_path_factory):
    """The golden network, for whole images, with its checkpoint."""
    config = config_for(data)
    return config, save(config, tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def quick(data, tmp_path_factory):
    """A network that compiles fast, with its checkpoint."""
    config = small(config_for(data))
    return config, save(config, tmp_path_factory.mktemp("quick") / "checkpoint")


def test_a_predictors_masks_and_probabilities_are_the_references(tiny):
    model = api.load(*tiny)
    for index in (0, 5):
        np.testing.assert_array_equal(
            model.predict(picture(index)), REFERENCE[f"whole/mask{index}"]
        )
        volume = model.probabilities(picture(index))
        assert volume.shape == (*SIZES[index], NUM_CLASSES)
        np.testing.assert_allclose(
            volume[::EVERY, ::EVERY], REFERENCE[f"whole/probabilities{index}"], atol=1e-5
        )


def test_logits_are_the_networks_at_the_configs_scale(tiny):
    logits = api.load(*tiny).logits(picture(1))
    assert logits.shape == (11, 8, NUM_CLASSES)  # 64x48 fits into 85x64, an eighth of it
    assert logits.dtype == np.float32


def test_attention_is_the_blocks_softmax_row(tiny):
    config, checkpoint = tiny
    image, point = picture(2), (30, 60)
    weights = api.load(config, checkpoint).attention(image, point)
    assert weights.sum() == pytest.approx(1, abs=1e-5) and (weights >= 0).all()

    network, variables = api.restore(config, checkpoint)
    model = network.bind({k: jnp.asarray(v) for k, v in variables.items()})
    model.eval()
    size = api.protocol(config).input_sizes(image.shape[:2])[0]
    seen = normalize(jnp.asarray(resize_image(image, size))[None])
    x = model.decode_head.convs[0](model.backbone(seen)["stage4"])[0]
    height, width, _ = x.shape
    block, flat = model.decode_head.non_local, x.reshape(height * width, -1)
    theta, phi = block.theta(flat), block.phi(flat)
    row, column = 30 * height // image.shape[0], 60 * width // image.shape[1]
    scores = phi @ theta[row * width + column] / jnp.sqrt(float(theta.shape[-1]))
    expected = jax.nn.softmax(scores).reshape(height, width)
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-6)


def test_attention_needs_a_pixel_and_a_block(tiny, quick):
    with pytest.raises(UserError, match="Row 50, column 2 is not in an image of 50 rows"):
        api.load(*tiny).attention(picture(2), (50, 2))
    with pytest.raises(UserError, match="non-local block"):
        api.load(*quick).attention(picture(2), (3, 2))


def test_a_checkpoint_of_another_network_is_refused_in_one_sentence(tiny):
    config, checkpoint = tiny
    for key, value, message in (
        ("num_classes", 9, r"it has 7 classes, the config 9\.$"),
        (
            "backbone.depth",
            101,
            r"made for tiny\): of \d+ missing and 0 further arrays, it has no ",
        ),
        ("backbone.base_channels", 8, r"is \(.*\) there, and \(.*\) in the config\.$"),
    ):
        other = config.copy_and_resolve_references()
        other.model.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=message) as refusal:
            api.load(other, checkpoint)
        assert "\n" not in str(refusal.value)


def test_the_command_goes_on_past_bad_files_and_says_so(tiny, tmp_path):
    config, checkpoint = tiny
    folder = tmp_path / "in"
    folder.mkdir()
    image = Image.fromarray(picture(0))
    image.save(folder / "good.png")
    image.save(folder / "good.jpg", quality=95)
    image.convert("L").save(folder / "grey.png")
    image.convert("RGBA").save(folder / "transparent.png")
    image.convert("CMYK").save(folder / "print.jpg", quality=95)
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(
        folder / "deep.png"
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    image.rotate(90, expand=True).save(folder / "turned.jpg", exif=turned, quality=95)
    Image.fromarray(picture(5)).save(folder / "pixel.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:200])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    run = run_command(
        "predict",
        config,
        f"--checkpoint={checkpoint}",
        f"--input={folder}",
        f"--output={out}",
        "--attend=20,30",
        "--probabilities",
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-4:]
    assert last[0].endswith("3 of 10 images failed:")
    assert "cut.png" in "".join(last) and "empty.jpg" in "".join(last)
    assert "pixel.png has no row 20, column 30" in "".join(last)
    names = ["deep", "good.jpg", "good.png", "grey", "pixel", "print", "transparent", "turned"]
    assert sorted(p.name for p in (out / "masks").iterdir()) == [f"{n}.png" for n in names]
    assert sorted(p.name for p in (out / "overlays").iterdir()) == [f"{n}.png" for n in names]
    attended = [f"{name}.png" for name in names if name != "pixel"]
    assert sorted(p.name for p in (out / "attention").iterdir()) == attended
    for name in ("good.png", "transparent"):
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(mask, REFERENCE["whole/mask0"])
    for name in ("deep", "grey", "print", "turned"):
        assert Image.open(out / "masks" / f"{name}.png").size == image.size
    volume = np.load(out / "probabilities" / "good.png.npz")["probabilities"]
    assert volume.shape == (*SIZES[0], NUM_CLASSES)
    np.testing.assert_allclose(volume.sum(-1), 1, atol=5e-3)


def test_a_very_large_image_and_a_pixel_share_a_run(quick, tmp_path):
    config, checkpoint = quick
    paths = [tmp_path / "large.jpg", tmp_path / "pixel.png"]
    Image.new("RGB", (10_000, 3_000), (90, 120, 30)).save(paths[0])
    Image.new("RGB", (1, 1), (1, 2, 3)).save(paths[1])
    network, variables = api.restore(config, checkpoint)
    predict.segment_files(predict.Files(paths), tmp_path / "out", network, variables, config)
    assert Image.open(tmp_path / "out" / "masks" / "large.png").size == (10_000, 3_000)
    assert Image.open(tmp_path / "out" / "masks" / "pixel.png").size == (1, 1)


@pytest.mark.parametrize("name", ["empty folder", "nothing", "no-*.png"])
def test_an_input_without_images_is_refused(tmp_path, name):
    (tmp_path / "empty folder").mkdir()
    with pytest.raises(UserError, match="no image"):
        predict.find_images(str(tmp_path / name))


def test_input_is_a_file_a_folder_or_a_pattern(tmp_path):
    for name in ("a.jpg", "b.PNG", "c.txt", "deeper/d.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = {
        given: [p.name for p in predict.find_images(str(tmp_path / given))]
        for given in ("a.jpg", "", "*.jpg", "**/*.jp*g")
    }
    assert found == {
        "a.jpg": ["a.jpg"],
        "": ["a.jpg", "b.PNG", "d.jpeg"],
        "*.jpg": ["a.jpg"],
        "**/*.jp*g": ["a.jpg", "d.jpeg"],
    }


def test_results_of_images_with_equal_names_are_kept_apart():
    paths = [pathlib.Path(p) for p in ("/x/a.jpg", "/x/a.png", "/x/b.png", "/y/b.png", "/y/c.png")]
    assert predict.output_names(paths) == ["a.jpg", "a.png", "x__b.png", "y__b.png", "c"]


@pytest.mark.parametrize("text", ["12", "3,a", "-1,4", "1,2,3"])
def test_a_point_is_two_numbers(text):
    assert predict.parse_point("12,80") == (12, 80)
    with pytest.raises(UserError, match="ROW,COLUMN"):
        predict.parse_point(text)
