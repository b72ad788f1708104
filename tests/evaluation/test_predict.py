"""Predicting images from files and in notebooks: what is written, and what is refused."""

import gc
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluations import (
    EVERY,
    NUM_CLASSES,
    REFERENCE,
    SIZES,
    config_for,
    label,
    mesh_of,
    picture,
    run_command,
    saved,
    small,
    write_folder,
)
from networks import golden_variables
from PIL import Image

from nonlocal_jax import predict
from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import save_model
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import predictor, segment_files
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.evaluation.restore import restore
from nonlocal_jax.inputs import decode
from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.models.network import build_network
from nonlocal_jax.ops.normalize import normalize


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set, for its class names."""
    root = tmp_path_factory.mktemp("data")
    write_folder(root, {"0": (picture(0), label(0))})
    return root


@pytest.fixture(scope="module")
def tiny(data, tmp_path_factory):
    """A checkpoint of the golden network, for whole images."""
    return saved(config_for(data), tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def quick(data, tmp_path_factory):
    """A checkpoint of a network that compiles fast."""
    return saved(small(data), tmp_path_factory.mktemp("quick") / "checkpoint")


@pytest.fixture(scope="module")
def model(tiny):
    """The golden network as a predictor."""
    return predictor.load(tiny)


@pytest.fixture(scope="module")
def quick_model(quick):
    """The fast network as a predictor."""
    return predictor.load(quick)


def restored(checkpoint, **overrides):
    """A checkpoint, for `segment_files`."""
    found = locate.find(checkpoint)
    return restore(found, files.override(predictor.load(checkpoint).config, **overrides))


def test_a_predictors_masks_and_probabilities_are_the_references(model):
    for index in (0, 5):
        np.testing.assert_array_equal(
            model.predict(picture(index)), REFERENCE[f"whole/mask{index}"]
        )
        volume = model.probabilities(picture(index))
        assert volume.shape == (*SIZES[index], NUM_CLASSES)
        np.testing.assert_allclose(
            volume[::EVERY, ::EVERY], REFERENCE[f"whole/probabilities{index}"], atol=1e-5
        )


def test_logits_are_the_networks_at_the_configs_scale(model):
    logits = model.logits(picture(1))
    assert logits.shape == (11, 8, NUM_CLASSES)  # 64x48 fits into 85x64, an eighth of it
    assert logits.dtype == np.float32


def test_attention_is_the_blocks_softmax_row(tiny, model):
    image, point = picture(2), (30, 60)
    weights = model.attention(image, point)
    assert weights.sum() == pytest.approx(1, abs=1e-5) and (weights >= 0).all()

    whole = restored(tiny)
    network = whole.network.bind({k: jnp.asarray(v) for k, v in whole.variables.items()})
    network.eval()
    x = network.decode_head.convs[0](network.backbone(seen(image, model.config))["stage4"])[0]
    height, width, _ = x.shape
    block, flat = network.decode_head.non_local, x.reshape(height * width, -1)
    theta, phi = block.theta(flat), block.phi(flat)
    row, column = 30 * height // image.shape[0], 60 * width // image.shape[1]
    scores = phi @ theta[row * width + column] / jnp.sqrt(float(theta.shape[-1]))
    expected = jax.nn.softmax(scores).reshape(height, width)
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-6)


def seen(image, config):
    """What the network is given of an image."""
    size = Protocol.of(config.eval, config.model.align_corners).input_sizes(image.shape[:2])[0]
    return normalize(jnp.asarray(resize_image(image, size))[None])


def test_attention_needs_a_pixel_and_a_block(model, quick_model):
    with pytest.raises(UserError, match="Row 50, column 2 is not in an image of 50 rows"):
        model.attention(picture(2), (50, 2))
    with pytest.raises(UserError, match="no attention map"):
        quick_model.attention(picture(2), (3, 2))


def test_the_command_names_a_head_without_attention(quick, tmp_path, capsys):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    words = [f"--checkpoint={quick}", f"--input={tmp_path / 'a.png'}", "--attend=3,2"]
    assert predict.run([*words, f"--output={tmp_path / 'out'}"]) == 2
    assert "the decode head fcn has no attention map" in capsys.readouterr().err


def test_images_of_many_sizes_keep_a_few_programs(quick_model, monkeypatch):
    monkeypatch.setattr(quick_model._segment.kept, "most", 1)

    def programs():
        gc.collect()
        return len(jax.devices()[0].client.live_executables())

    assert quick_model.predict(picture(0)).shape == (37, 53)
    before = programs()
    assert quick_model.predict(picture(0)[:, :52]).shape == (37, 52)
    assert programs() == before, "nearly equal sizes share a program"
    assert quick_model.predict(picture(5)).shape == (1, 1)
    assert programs() == before, "JAX keeps none of the first one's either"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_classes", 9, r"config\.model\.num_classes was 7, is 9"),
        ("backbone.depth", 101, r"config\.model\.backbone\.depth was 50, is 101"),
        ("backbone.base_channels", 8, r"config\.model\.backbone\.base_channels was 4, is 8"),
        ("align_corners", True, r"config\.model\.align_corners was False, is True"),
        ("decode_head.mode", "dot_product", r"mode was embedded_gaussian, is dot_product"),
        ("decode_head.sub_sample", True, r"sub_sample was False, is True"),
        ("backbone.output_stride", 16, r"output_stride was 8, is 16"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tiny, model, key, value, message):
    other = files.override(model.config, **{f"model.{key}": value})
    with pytest.raises(UserError, match=message) as refusal:
        predictor.load(tiny, other)
    assert str(tiny) in str(refusal.value)


def test_a_setting_that_is_given_on_purpose_departs_from_the_checkpoints(tiny):
    aligned = predictor.load(tiny, **{"model.align_corners": True, "eval.scale": (48, 32)})
    assert aligned.config.model.align_corners and aligned.config.eval.scale == (48, 32)
    with pytest.raises(UserError, match="classifier"):  # there are no arrays for it
        predictor.load(tiny, **{"model.num_classes": 9})


def test_classes_are_those_that_the_checkpoint_names(tmp_path):
    config = small(tmp_path / "nowhere")
    network = build_network(config.model)
    variables = {k: np.asarray(v) for k, v in golden_variables(config, network).items()}
    meta = {"CLASSES": list("abcdefg"), "PALETTE": [[i, 0, 0] for i in range(NUM_CLASSES)]}
    save_model(tmp_path / "it", variables, Metadata(kind="segmentor", config=config, meta=meta))
    model = predictor.load(tmp_path / "it")
    assert model.class_names == tuple("abcdefg")
    np.testing.assert_array_equal(model.palette, meta["PALETTE"])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3), np.float32)],
    ids=["grey", "RGBA", "float"],
)
def test_an_array_that_is_no_rgb_image_is_refused(quick_model, image):
    for name in ("predict", "probabilities", "logits"):
        with pytest.raises(UserError, match=r"must be RGB, uint8 \[h, w, 3\]; this is "):
            getattr(quick_model, name)(image)


def test_attention_of_padded_images_is_that_of_each_alone(tiny, model, tmp_path, monkeypatch):
    """By the command images share programs."""
    paths = []
    for index in (0, 2, 3, 6):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(picture(index)).save(paths[-1])
    drawn = []
    monkeypatch.setattr(
        segment_files.attention,
        "picture",
        lambda image, weights, point: drawn.append(weights) or image,
    )
    images, point, whole = segment_files.ImageFiles(paths), (30, 35), restored(tiny)
    segment_files.write_attention(images, tmp_path / "out", whole, point, mesh=mesh_of(1))

    @jax.jit
    def attend(variables, image, relative):
        network = whole.network.bind_for_inference(variables)
        return network.attention_map(image, relative).weights[0]

    expected = []
    for path in paths:
        image = decode.decode_image(path.read_bytes(), str(path))
        relative = (np.array([point], np.float32) + 0.5) / np.array(image.shape[:2], np.float32)
        expected.append(np.asarray(attend(whole.variables, seen(image, whole.config), relative)))
    np.testing.assert_allclose(
        model.attention(picture(0), point), expected[0], rtol=1e-4, atol=1e-7
    )
    key = lambda weights: (weights.shape, weights.max())  # noqa: E731
    for weights, alone in zip(sorted(drawn, key=key), sorted(expected, key=key), strict=True):
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(weights, alone, rtol=1e-4, atol=1e-7)


def test_the_command_goes_on_past_bad_files_and_says_so(tiny, tmp_path):
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
        predict,
        f"--checkpoint={tiny}",
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
        assert f"{name}.png has " in "".join(last)
    assert "".join(last).count("and no row 20, column 30") == 2
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
    paths = [tmp_path / "large.jpg", tmp_path / "pixel.png"]
    Image.new("RGB", (5_000, 1_500), (90, 120, 30)).save(paths[0])
    Image.new("RGB", (1, 1), (1, 2, 3)).save(paths[1])
    images, out = segment_files.ImageFiles(paths), tmp_path / "out"
    segment_files.segment_files(images, out, restored(quick), mesh=mesh_of(1))
    assert Image.open(out / "masks" / "large.png").size == (5_000, 1_500)
    assert Image.open(out / "masks" / "pixel.png").size == (1, 1)


def test_nothing_but_bad_files_is_reported_like_any(quick, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    images = segment_files.ImageFiles([tmp_path / "text.png", tmp_path / "missing.png"])
    segment_files.segment_files(images, tmp_path / "out", restored(quick), mesh=mesh_of(1))
    assert ["decoded" in reason for reason in images.bad.values()] == [True, False]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["empty folder", "nothing", "no-*.png"])
def test_an_input_without_images_is_refused(tmp_path, name):
    (tmp_path / "empty folder").mkdir()
    with pytest.raises(UserError, match="no image"):
        segment_files.find_images(str(tmp_path / name))


def test_input_is_a_file_a_folder_or_a_pattern(tmp_path):
    for name in ("a.jpg", "b.PNG", "c.txt", "deeper/d.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = {
        given: [p.name for p in segment_files.find_images(str(tmp_path / given))]
        for given in ("a.jpg", "", "*.jpg", "**/*.jp*g")
    }
    assert found == {
        "a.jpg": ["a.jpg"],
        "": ["a.jpg", "b.PNG", "d.jpeg"],
        "*.jpg": ["a.jpg"],
        "**/*.jp*g": ["a.jpg", "d.jpeg"],
    }


def test_input_is_listed_as_data_sets_are(tmp_path, capsys):
    (tmp_path / "real").mkdir()
    for name in ("real/a.jpg", ".hidden.png", "note.txt", "b.png"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    names = [tmp_path / "b.png", tmp_path / "real" / "a.jpg"]
    assert segment_files.find_images(str(tmp_path)) == names
    assert f"Not used of {tmp_path}: 6 that are" in capsys.readouterr().out
    assert segment_files.find_images(str(tmp_path / "**" / "[ab].[jp]*g")) == names
    with pytest.raises(UserError, match="is no pattern"):
        segment_files.find_images(str(tmp_path / "a**" / "*.png"))
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UserError, match="is neither a file nor a folder"):
            segment_files.find_images(str(tmp_path / name))


def test_results_of_images_with_equal_names_are_kept_apart():
    paths = [pathlib.Path(p) for p in ("/x/a.jpg", "/x/a.png", "/x/b.png", "/y/b.png", "/y/c.png")]
    assert segment_files.output_names(paths) == ["a.jpg", "a.png", "x__b.png", "y__b.png", "c"]
    paths = [pathlib.Path(p) for p in ("/x/a__b/1.png", "/x/a/b/1.png", "/x/c.png", "/x/C.png")]
    names = segment_files.output_names(paths)
    assert len({name.casefold() for name in names}) == 4 and max(map(len, names)) < 40
    deep = pathlib.Path("/", *["folder"] * 60)
    names = segment_files.output_names([deep / "1.png", deep / "x" / "1.png"])
    assert len(set(names)) == 2 and max(map(len, names)) < 40


@pytest.mark.parametrize("text", ["12", "3,a", "-1,4", "1,2,3"])
def test_a_point_is_two_numbers(text):
    assert predict.parse_point("12,80") == (12, 80)
    with pytest.raises(UserError, match="ROW,COLUMN"):
        predict.parse_point(text)
