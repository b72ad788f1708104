"""Tests on videos: views over devices, top-1 and top-5, and what the commands write."""

import gc
import json
import weakref

import av
import jax
import numpy as np
import pytest
from video_runs import tiny

import nonlocal_jax
from nonlocal_jax import evaluate, predict
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import save_model
from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.video import scores, views
from nonlocal_jax.evaluation.video.evaluate import VideoEvaluation, choose
from nonlocal_jax.evaluation.video.label_files import attention_strip
from nonlocal_jax.inputs.datasets import moving_shapes
from nonlocal_jax.inputs.video.loader import VideoInputs
from nonlocal_jax.models.video_network import build_network, init_variables
from nonlocal_jax.ops.normalize import normalize_clips
from nonlocal_jax.runtime import sharding

VIEWS = {"eval.clips": 2, "eval.crops": "three", "eval.batch_size": 4}


def mesh_of(count):
    return sharding.make_mesh(schema.Mesh(), jax.devices()[:count])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with random weights, and its config."""
    config = tiny(**VIEWS)
    folder = tmp_path_factory.mktemp("video") / "model"
    variables = init_variables(config.model, 0)
    kernel = variables["head/classifier/kernel"]
    variables["head/classifier/kernel"] = 30 * kernel  # else all probabilities are nearly equal
    meta = {"CLASSES": list(moving_shapes.CLASS_NAMES)}
    save_model(folder, variables, Metadata(kind="recognizer", config=config, meta=meta))
    return folder, config, variables


@pytest.mark.devices(4)
@pytest.mark.parametrize("devices", [1, 4])
def test_scores_are_those_of_plain_means(checkpoint, devices):
    _, config, variables = checkpoint
    network, mesh = build_network(config.model), mesh_of(devices)
    evaluation = VideoEvaluation.of(config, network, mesh)
    assert evaluation.views == 6
    found = evaluation.run(sharding.place_variables(variables, mesh), limit=7, log=lambda _: None)
    model, source = network.bind_for_inference(variables), VideoInputs.of(config).open("val")
    right = 0
    for index in range(7):
        video = source[index]
        each = model.fully_convolutional(normalize_clips(np.asarray(video.views[0:6])))
        mean = np.mean(np.asarray(each), axis=0)
        assert found.labels[index] == video.label and found.names[index] == video.name
        np.testing.assert_array_equal(found.classes[index], np.argsort(-mean))
        np.testing.assert_allclose(found.probabilities[index], np.sort(mean)[::-1], atol=2e-6)
        right += int(np.argmax(mean) == video.label)
    assert found.top1 == right / 7 and found.top5 == 1.0 and found.videos == 7


def test_videos_that_cannot_be_read_are_left_out_or_raise(checkpoint, monkeypatch):
    _, config, variables = checkpoint
    encode = moving_shapes.encode
    broken = []

    def encode_most(video, *args):
        broken.append(0)
        return b"no video" if len(broken) == 2 else encode(video, *args)

    monkeypatch.setattr(moving_shapes, "encode", encode_most)
    mesh, left_out = mesh_of(1), []
    monkeypatch.setattr(views.cores, "usable", lambda: 1)
    network, placed = build_network(config.model), sharding.place_variables(variables, mesh)
    quiet = {"limit": 3, "log": lambda _: None}
    with pytest.raises(UserError, match="val_1 of moving_shapes cannot be decoded"):
        VideoEvaluation.of(config, network, mesh).run(placed, **quiet)
    broken.clear()
    config = tiny(**VIEWS, **{"data.on_bad_example": "skip"})
    found = VideoEvaluation.of(config, network, mesh).run(placed, on_bad=left_out.append, **quiet)
    assert found.videos == 2 and len(left_out) == 1 and "val_1" in left_out[0]
    assert found.ranks[1] == scores.LEFT_OUT
    assert [video["name"] for video in found.details()["predictions"]] == ["val_0", "val_2"]


def test_weights_that_are_not_finite_are_told(checkpoint):
    _, config, variables = checkpoint
    bad = {**variables, "head/classifier/bias": np.full(4, np.nan, np.float32)}
    evaluation = VideoEvaluation.of(config, build_network(config.model), mesh_of(1))
    with pytest.raises(UserError, match="val_0 are not finite"):
        evaluation.run(bad, limit=1, log=lambda _: None)


def test_ranks_count_equal_probabilities_in_the_order_of_classes():
    probabilities = np.array([0.1, 0.3, 0.3, 0.3], np.float32)
    assert [scores.rank_of(probabilities, label) for label in range(4)] == [3, 0, 1, 2]
    assert scores.first_classes(probabilities).tolist() == [1, 2, 3, 0]


def test_chosen_videos(checkpoint):
    source = VideoInputs.of(checkpoint[1]).open("val")
    assert choose(source, videos=["val_5", "val_2"]) == [2, 5]
    assert choose(source, limit=3) == [0, 1, 2]
    with pytest.raises(UserError, match=r"no video x\. Its first one is val_0"):
        choose(source, videos=["x"])


def test_evaluate_writes_the_first_classes_of_each_video(checkpoint, tmp_path, capsys):
    folder, _, _ = checkpoint
    words = [f"--checkpoint={folder}", f"--output={tmp_path}", "--config.mesh.data=1"]
    names = tmp_path / "names.txt"
    names.write_text("val_3\nval_1\n")
    assert evaluate.run([*words, f"--images={names}"]) == 2  # eight devices, a mesh of one
    words[-1] = "--limit=3"
    assert evaluate.run(words) == 0
    assert "top-1" in capsys.readouterr().out
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["views"] == 6 and len(written["predictions"]) == 3
    assert evaluate.run([*words, "--save_overlays"]) == 2
    assert "are for images" in capsys.readouterr().err


def write_video(path, index=0):
    frames, _ = moving_shapes.make_video("val", index)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return frames


def test_predict_labels_files_and_shows_attention(checkpoint, tmp_path, capsys):
    folder, _, _ = checkpoint
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4")
    (videos / "b.mp4").write_bytes(b"no video")
    words = [f"--checkpoint={folder}", f"--input={videos}", f"--output={tmp_path / 'out'}"]
    assert predict.run([*words, "--attend=1,16,20"]) == 1
    shown = capsys.readouterr()
    assert "a.mp4" in shown.out and shown.out.count("%") == 4 and "1 of 2 videos" in shown.err
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    (top,) = written.values()
    assert sum(one["probability"] for one in top) == pytest.approx(1, abs=1e-4)
    assert (tmp_path / "out" / "attention" / "a.png").is_file()
    assert predict.run([*words, "--attend=16,20"]) == 2
    assert "must be FRAME,ROW,COLUMN" in capsys.readouterr().err


def test_the_python_interface(checkpoint, tmp_path):
    folder, config, _ = checkpoint
    model = nonlocal_jax.load(folder)
    path = tmp_path / "a.avi"
    frames, _ = moving_shapes.make_video("val", 0)
    path.write_bytes(moving_shapes.encode(frames))
    by_file = model.probabilities(path)
    np.testing.assert_array_equal(by_file, model.probabilities(path.read_bytes()))
    np.testing.assert_allclose(by_file, model.probabilities(frames), atol=0.05)  # JPEG's loss
    assert model.top(path, 2)[0] == (model.class_names[model.predict(path)], by_file.max())
    clip, weights = model.attention(path, (3, 0, 31))
    assert clip.shape == (4, 32, 32, 3) and weights.sum() == pytest.approx(1, abs=1e-4)
    picture = attention_strip(model.attention(path, (3, 0, 31)), (3, 0, 31))
    assert picture.dtype == np.uint8 and picture.shape[1] > 4 * 32
    with pytest.raises(UserError, match="Frame 4, row 0, column 0 is not in a clip of 4 frames"):
        model.attention(path, (4, 0, 0))
    with pytest.raises(UserError, match=r"must be RGB, uint8 \[frames, h, w, 3\]"):
        model.predict(frames[0])
    mirrored = nonlocal_jax.load(folder, tta=True).probabilities(path)
    assert np.abs(mirrored - by_file).max() > 1e-6
    assert model.config == config and model.attention_blocks == ("block",)
    model, gone = None, weakref.ref(model)
    gc.collect()
    assert gone() is None, "its weights would stay in memory"
