"""A visitor's picture: the network in the page, here a hand-made ONNX model, runs in a browser."""

import os
import pathlib

import browser
import numpy as np
import pages
import pytest
from evaluations import picture, run_command, start_command
from PIL import Image

from nonlocal_jax import export
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.exporting.page import assemble, entry, onnx_model, own_picture, quantise
from nonlocal_jax.inputs.transforms import test_sizes as sizes_of
from nonlocal_jax.models.attention_factors import AttentionFactors

CELL = 8  # pixels to a side of a position of the hand-made model
PICTURE = np.random.default_rng(2).integers(0, 256, (40, 56, 3), np.uint8)
PICTURE[:, :20] //= 4


def hand_made_model():
    """A model whose classes are dark and bright, and whose queries and keys are mean colours."""
    onnx = pytest.importorskip("onnx")
    node, types = onnx.helper.make_node, onnx.TensorProto
    nodes = [
        node("Cast", ["images"], ["float"], to=types.FLOAT),
        node("ReduceMean", ["float", "last"], ["grey"], keepdims=0),
        node("Greater", ["grey", "limit"], ["bright"]),
        node("Cast", ["bright"], ["indices"], to=types.UINT8),
        node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["first"], ["means"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        node("Transpose", ["means"], ["colours"], perm=[0, 2, 3, 1]),
        node("Mul", ["colours", "factor"], ["query"]),
        node("Identity", ["query"], ["key"]),
    ]
    constants = {"last": np.array([3]), "limit": np.float32(90), "factor": np.float32(0.02)}
    shape = [1, "h", "w", 3]
    graph = onnx.helper.make_graph(
        nodes,
        "colours",
        [onnx.helper.make_tensor_value_info("images", types.UINT8, shape)],
        [
            onnx.helper.make_tensor_value_info("indices", types.UINT8, shape[:3]),
            onnx.helper.make_tensor_value_info("query", types.FLOAT, [1, "a", "b", 3]),
            onnx.helper.make_tensor_value_info("key", types.FLOAT, [1, "a", "b", 3]),
        ],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()


def expected_weights(image, position):
    """What the hand-made model attends to at a position."""
    rows, columns = (side // CELL for side in image.shape[:2])
    cells = image[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, 3)
    colours = 0.02 * cells.mean(axis=(1, 3), dtype=np.float64)
    scores = colours @ colours[position]
    return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()


@pytest.fixture
def runtime():
    """The folder of onnxruntime-web."""
    folder = os.environ.get("NONLOCAL_JAX_ORT_WEB")
    if not folder:
        pytest.skip("no onnxruntime-web: set NONLOCAL_JAX_ORT_WEB to dist of its npm package")
    return pathlib.Path(folder)


@pytest.fixture
def make(tmp_path):
    """Makes a page of one picture, with the hand-made model."""

    def make(runtime):
        own = own_picture.OwnPicture(hand_made_model(), "softmax", (56, 40), runtime)
        factors = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
        stored = AttentionFactors(*factors)
        exhibit = entry.Exhibit(
            path=pathlib.Path("given.png"),
            frames=PICTURE[None],
            factors=stored,
            attend=lambda point: quantise.quantise(stored).weights(np.array([0]))[0],
            point=(0, 3, 3),
            mask=np.zeros(PICTURE.shape[:2], np.uint8),
        )
        entries = [entry.make_entry(exhibit)]
        data = assemble.page_data(
            entries,
            network="by hand",
            class_names=("dark", "bright"),
            palette=np.array([[0, 0, 90], [250, 200, 0]], np.uint8),
            own=own,
        )
        assemble.write_page(tmp_path / "page.html", data, entries, own)
        Image.fromarray(PICTURE).save(tmp_path / "mine <b>.png")
        return tmp_path / "page.html", tmp_path / "mine <b>.png"

    return make


def test_a_visitors_picture_is_segmented_and_attended_to(make, runtime, tmp_path):
    page, mine = make(own_picture.read_runtime(runtime))
    with browser.started(tmp_path / "profile") as opened:
        opened.requests()
        opened.open(page)
        opened.choose("#own-file", mine)
        opened.wait("document.querySelector('#own-state').textContent.includes('40 pixels')")
        opened.wait("explorer.item.name === 'mine <b>.png'")
        mask = np.array(opened.run("Array.from(explorer.item.mask)")).reshape(PICTURE.shape[:2])
        np.testing.assert_array_equal(mask, PICTURE.mean(axis=2) > 90)
        assert "dark" in opened.text("#legend") and "bright" in opened.text("#legend")
        for row, column in ((0, 0), (39, 55), (17, 30)):
            opened.run("explorer.moveTo(arguments[0], arguments[1])", row, column)
            weights = np.array(opened.run("Array.from(explorer.weights)")).reshape(5, 7)
            expected = expected_weights(PICTURE, (row // CELL, column // CELL))
            np.testing.assert_allclose(weights, expected, atol=1e-5)
        assert opened.run("document.querySelectorAll('#gallery button').length") == 2
        assert not opened.errors() and opened.requests() == [page.as_uri()]


def test_the_network_is_used_only_when_it_is_asked_for_and_its_absence_is_told(make, tmp_path):
    page, mine = make({})
    assert f"onnxruntime-web {own_picture.VERSION}" in page.read_text()
    with browser.started(tmp_path / "profile", "--host-resolver-rules=MAP * ~NOTFOUND") as opened:
        opened.requests()
        opened.open(page)
        assert opened.requests() == [page.as_uri()]
        opened.choose("#own-file", mine)
        opened.wait("document.querySelector('#own-state').className.includes('bad')")
        told = opened.text("#own-state")
        assert "could not be downloaded from cdn.jsdelivr.net" in told and "--onnxruntime" in told
        address = f"{own_picture.SERVER}/npm/onnxruntime-web@{own_picture.VERSION}/dist/"
        assert set(opened.requests()) <= {address + name for name in own_picture.DIGESTS}
        (tmp_path / "notes.md").write_text("no picture")
        opened.choose("#own-file", tmp_path / "notes.md")
        opened.wait("document.querySelector('#own-state').textContent.includes('notes.md is no')")


def test_the_commands_page_gives_the_python_interfaces_results(runtime, tmp_path):
    pytest.importorskip("onnxruntime")
    checkpoint = pages.attentive(tmp_path / "checkpoint")
    given, own = picture(2), np.ascontiguousarray(picture(2)[:, ::-1])
    given[:16] = 255 - given[:16]
    for name, image in (("given.png", given), ("own.png", own)):
        Image.fromarray(image).save(tmp_path / name)
    words = pages.words(checkpoint, tmp_path / "given.png", tmp_path / "page.html")
    # In a process of its own, whose shapes may be symbols: they are not checked as here.
    done = start_command("export", *words, "--with_model", f"--onnxruntime={runtime}")
    assert done.returncode == 0, done.stderr
    model = predictor.load(checkpoint)
    with browser.started(tmp_path / "profile") as opened:
        opened.open(tmp_path / "page.html")
        opened.choose("#own-file", tmp_path / "own.png")
        opened.wait("explorer.item.name === 'own.png'")
        assert opened.run("explorer.item.shown") == list(own.shape[:2])
        height, width = opened.run("[explorer.item.seen.height, explorer.item.seen.width]")
        assert (height, width) == sizes_of(*own.shape[:2], (96, 64), (1.0,))[0]
        rgba = opened.run(
            "Array.from(explorer.item.seen.getContext('2d').getImageData(0, 0, "
            f"{width}, {height}).data)"
        )
        scaled = np.array(rgba, np.uint8).reshape(height, width, 4)[..., :3].copy()
        mask = np.array(opened.run("Array.from(explorer.item.mask)")).reshape(own.shape[:2])
        rows, columns = (
            ((np.arange(n) + 0.5) / n * m).astype(int)
            for n, m in zip(own.shape[:2], (height, width), strict=True)
        )
        np.testing.assert_array_equal(mask, model.predict(scaled)[np.ix_(rows, columns)])
        weights = np.array(opened.run("Array.from(explorer.weights)"))
        row, column = opened.run("explorer.point.slice(1)")
        expected = model.attention(scaled, (int(rows[row]), int(columns[column])))
        np.testing.assert_allclose(weights, expected.ravel(), atol=1e-5)


def test_a_model_whose_results_are_not_finite_is_refused():
    whole = {"indices": np.zeros((1, 4, 4), np.uint8), "query": np.ones((1, 2, 2, 3), np.float32)}
    onnx_model.check(whole, whole)
    broken = whole["query"].copy()
    broken[0, 1, 0, 2] = np.nan
    with pytest.raises(UserError, match="differs from JAX"):
        onnx_model.check({**whole, "query": broken}, whole)


def test_flags_of_the_model_are_refused_where_they_are_for_nothing():
    done = run_command(export, "--checkpoint=x", "--to=onnx", "--output=y", "--with_model")
    assert done.returncode == 2 and "--with_model is for --to=page" in done.stderr
    done = run_command(export, "--checkpoint=x", "--to=page", "--output=y", "--onnxruntime=z")
    assert done.returncode == 2 and "--onnxruntime is for --with_model" in done.stderr


def test_a_folder_without_the_runtime_is_told(tmp_path):
    with pytest.raises(UserError, match=f"npm install onnxruntime-web@{own_picture.VERSION}"):
        own_picture.read_runtime(tmp_path)
    assert own_picture.read_runtime(None) == {}
