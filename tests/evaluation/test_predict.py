"""Predicting images from files and in notebooks: what is written, and what is refused."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_evaluate import config_for, run_command, saved, small, write_folder

from nonlocal_jax import predict
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.ops.normalize import normalize

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
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


@pytest.fixture(scope="module")
def tiny(data, tmp_path_factory):
    """The golden network, for whole images, with its checkpoint."""
    config = config_for(data)
    return config, saved(config, tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def quick(data, tmp_path_factory):
    """A network that compiles fast, with its checkpoint."""
    config = small(config_for(data))
    return config, saved(config, tmp_path_factory.mktemp("quick") / "checkpoint")


def test_a_predictors_masks_and_probabilities_are_the_references(tiny):
    model = predictor.load(*tiny)
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
    logits = predictor.load(*tiny).logits(picture(1))
    assert logits.shape == (11, 8, NUM_CLASSES)  # 64x48 fits into 85x64, an eighth of it
    assert logits.dtype == np.float32


def test_attention_is_the_blocks_softmax_row(tiny):
    config, checkpoint = tiny
    image, point = picture(2), (30, 60)
    weights = predictor.load(config, checkpoint).attention(image, point)
    assert weights.sum() == pytest.approx(1, abs=1e-5) and (weights >= 0).all()

    network, variables = predictor.restore(config, checkpoint)
    model = network.bind({k: jnp.asarray(v) for k, v in variables.items()})
    model.eval()
    size = predictor.protocol(config).input_sizes(image.shape[:2])[0]
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
        predictor.load(*tiny).attention(picture(2), (50, 2))
    with pytest.raises(UserError, match="non-local block"):
        predictor.load(*quick).attention(picture(2), (3, 2))


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
        ("align_corners", True, r"align_corners was False for it, and is True here\.$"),
        ("decode_head.mode", "dot_product", r"mode was embedded_gaussian for it, and is dot_"),
    ):
        other = config.copy_and_resolve_references()
        other.model.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=message) as refusal:
            predictor.load(other, checkpoint)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3), np.float32)],
    ids=["grey", "RGBA", "float"],
)
def test_an_array_that_is_no_rgb_image_is_refused(quick, image):
    model = predictor.load(*quick)
    for method in (model.predict, model.probabilities, model.logits):
        with pytest.raises(UserError, match=r"must be RGB, uint8 \[h, w, 3\]; this is "):
            method(image)


def test_attention_of_padded_images_is_that_of_each_alone(tiny, tmp_path, monkeypatch):
    """By the command images share programs; in a notebook each has its own."""
    config, checkpoint = tiny
    paths = []
    for index in (0, 2, 3, 6):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(picture(index)).save(paths[-1])
    drawn = []
    monkeypatch.setattr(
        predict.visualize,
        "attention_overlay",
        lambda image, weights, point: drawn.append(weights) or image,
    )
    files, point = predict.Files(paths), (30, 35)
    network, variables = predictor.restore(config, checkpoint)
    predict.write_attention(files, tmp_path / "out", network, variables, config, point)
    model = predictor.load(config, checkpoint)
    expected = [model.attention(files.image(path), point) for path in paths]
    key = lambda weights: (weights.shape, weights.max())  # noqa: E731
    for weights, alone in zip(sorted(drawn, key=key), sorted(expected, key=key), strict=True):
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(weights, alone, rtol=1e-4, atol=1e-7)


def test_the_command_goes_on_past_bad_files_and_says_so(tiny, tmp_path):
    config, checkpoint = tiny
    folder = tmp_path / "in"
    folder.mkdir()
    image = Image.fromarray(picture(0))
    image.save(folder / "good.png")
    image.save(folder / "good.jpg", quality=95)
    image.convert("L").save(folder / "grey.png")
    image.convert("LA").save(folder / "grey_and_clear.png")
    image.convert("RGBA").save(folder / "transparent.png")
    image.quantize(64).save(folder / "palette.png", transparency=3)
    image.save(folder / "moving.webp", save_all=True, append_images=[image], lossless=True)
    image.save(folder / "pages.tif", save_all=True, append_images=[image])
    image.convert("CMYK").save(folder / "print.jpg", quality=95)
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(
        folder / "deep.png"
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    image.rotate(90, expand=True).save(folder / "turned.jpg", exif=turned, quality=95)
    Image.fromarray(picture(5)).save(folder / "pixel.png")
    Image.fromarray(picture(0)[:1]).save(folder / "line.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:200])
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:900])
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
    last = run.stderr.splitlines()[-6:]
    assert last[0].endswith("5 of 16 images failed:")
    for name in ("cut.jpg", "cut.png", "empty.jpg"):
        assert f"{name} cannot be decoded as an image" in "".join(last)
    for name in ("line", "pixel"):
        assert f"{name}.png has no row 20, column 30" in "".join(last)
    turned_or_grey = ["deep", "grey", "grey_and_clear", "palette", "print", "turned"]
    same = ["good.png", "moving", "pages", "transparent"]
    names = [*turned_or_grey, *same, "good.jpg", "line", "pixel"]
    for folder in ("masks", "overlays", "attention"):
        written = {path.stem for path in (out / folder).iterdir()}
        assert written == set(names) - ({"line", "pixel"} if folder == "attention" else set())
    for name in same:
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(mask, REFERENCE["whole/mask0"])
    for name in turned_or_grey:
        assert Image.open(out / "masks" / f"{name}.png").size == image.size
    volume = np.load(out / "probabilities" / "good.png.npz")["probabilities"]
    assert volume.shape == (*SIZES[0], NUM_CLASSES)
    np.testing.assert_allclose(volume.sum(-1), 1, atol=5e-3)


def test_a_very_large_image_and_a_pixel_share_a_run(quick, tmp_path):
    config, checkpoint = quick
    paths = [tmp_path / "large.jpg", tmp_path / "pixel.png"]
    Image.new("RGB", (10_000, 3_000), (90, 120, 30)).save(paths[0])
    Image.new("RGB", (1, 1), (1, 2, 3)).save(paths[1])
    network, variables = predictor.restore(config, checkpoint)
    predict.segment_files(predict.Files(paths), tmp_path / "out", network, variables, config)
    assert Image.open(tmp_path / "out" / "masks" / "large.png").size == (10_000, 3_000)
    assert Image.open(tmp_path / "out" / "masks" / "pixel.png").size == (1, 1)


def test_nothing_but_bad_files_is_reported_like_any(quick, tmp_path):
    config, checkpoint = quick
    (tmp_path / "text.png").write_text("no image")
    files = predict.Files([tmp_path / "text.png", tmp_path / "missing.png"])
    predict.segment_files(files, tmp_path / "out", *predictor.restore(config, checkpoint), config)
    assert ["decoded" in reason for reason in files.bad.values()] == [True, False]
    assert not (tmp_path / "out").exists()


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
