"""The page of a video network: the weights of clicked points, over all frames of a clip."""

import browser
import numpy as np
import pages
from video_runs import tiny

import nonlocal_jax
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import save_model
from nonlocal_jax.exporting.page import quantise
from nonlocal_jax.inputs.datasets import moving_shapes
from nonlocal_jax.models.video_network import init_variables

SIDE = 64


def checkpoint_in(folder, **overrides):
    """A checkpoint of a small network with random weights, whose block has loud keys."""
    sizes = {"data.short_side": (SIDE, SIDE), "data.crop_size": SIDE}
    sizes |= {"eval.short_side": SIDE, "eval.crop_size": SIDE}
    config = tiny(**sizes, **overrides)
    variables = {k: np.asarray(v) for k, v in init_variables(config.model, 0).items()}
    variables = {k: 1e4 * v if k.endswith("phi/kernel") else v for k, v in variables.items()}
    meta = {"CLASSES": list(moving_shapes.CLASS_NAMES)}
    save_model(folder, variables, Metadata(kind="recognizer", config=config, meta=meta))
    return folder


def test_a_clicked_frame_has_the_weights_of_the_python_interface(tmp_path):
    checkpoint, video = checkpoint_in(tmp_path / "model"), tmp_path / "a.avi"
    frames, _ = moving_shapes.make_video("val", 0)
    video.write_bytes(moving_shapes.encode(frames))
    (tmp_path / "b.avi").write_bytes(b"no video")
    done = pages.make_page(checkpoint, tmp_path, tmp_path / "page.html")
    assert done.returncode == 1 and "1 of 2 videos failed" in done.stderr, done.stderr
    assert "1 video." in done.stdout and "Left out: " in done.stdout
    model = nonlocal_jax.load(checkpoint)
    with browser.started(tmp_path / "profile") as opened:
        opened.emulate()
        opened.open(tmp_path / "page.html")
        assert opened.text("#gallery button span") == "a.avi"
        for point in ((0, 0, 0), (3, 63, 40), (1, 30, 5)):
            opened.run("explorer.moveTo(...arguments[0])", list(point))
            weights = np.array(opened.run("Array.from(explorer.weights)"))
            expected = model.attention(video, point).weights
            assert opened.run("explorer.item.keySpace") == list(expected.shape)
            assert expected.max() > 2 / expected.size
            np.testing.assert_allclose(weights, expected.ravel(), atol=quantise.BOUND)
            assert weights.argmax() == expected.argmax()
        # Four frames, three to a row in a window of this width.
        opened.click("#seen", 0.5, 0.75)
        assert opened.run("explorer.point") == list(point)  # there is no frame
        opened.click("#seen", 0.5, 0.25)
        frame, row, column = opened.run("explorer.point")
        assert frame == 1 and abs(row - SIDE // 2) < 2 and abs(column - SIDE // 2) < 2
        opened.run("document.querySelector('#attended').focus()")
        opened.key("PageDown")
        assert opened.run("explorer.point[0]") == 2
        assert opened.text("#shares .share").startswith("frame")
        (name, _), *_ = model.top(video)
        assert name in opened.text("#legend")
        assert not opened.errors()


def test_a_network_without_blocks_is_refused(tmp_path):
    folder = checkpoint_in(tmp_path / "model", **{"model.backbone.shows": False})
    (tmp_path / "a.avi").write_bytes(b"not even read")
    done = pages.make_page(folder, tmp_path / "a.avi", tmp_path / "page.html")
    assert done.returncode == 2 and "this network has none" in done.stderr
    done = pages.make_page(folder, "", tmp_path / "page.html")
    assert done.returncode == 2 and "needs --input" in done.stderr
