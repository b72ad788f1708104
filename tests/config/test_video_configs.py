"""The fifteen video rows are what was published, and a config says which task it is of."""

import json

import pytest
from conftest import REPOSITORY

from nonlocal_jax.config import command_line, describe, files, schema, versions
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError

# Top-1, top-5 and the file, from the table of the original.
PUBLISHED = {
    "c2d_baseline_32x2": (72.0, 90.0, "c2d_baseline_32x2_IN_pretrain_400k"),
    "c2d_nonlocal_32x2": (73.9, 91.0, "c2d_nonlocal_32x2_IN_pretrain_400k"),
    "i3d_baseline_32x2": (73.6, 90.8, "i3d_baseline_32x2_IN_pretrain_400k"),
    "i3d_nonlocal_32x2": (74.9, 91.6, "i3d_nonlocal_32x2_IN_pretrain_400k"),
    "i3d_baseline_128x1": (75.2, 92.0, "i3d_baseline_128x1_I3D_pretrain_400k"),
    "i3d_nonlocal_128x1": (76.5, 92.7, "i3d_nonlocal_128x1_I3D_pretrain_400k"),
    "c2d_baseline_8x8": (71.9, 90.0, "c2d_baseline_8x8_IN_pretrain_400k"),
    "c2d_nonlocal_8x8": (74.4, 91.4, "c2d_nonlocal_8x8_IN_pretrain_400k"),
    "i3d_baseline_8x8": (73.4, 90.9, "i3d_baseline_8x8_IN_pretrain_400k"),
    "i3d_nonlocal_8x8": (74.7, 91.6, "i3d_nonlocal_8x8_IN_pretrain_400k"),
    "i3d_baseline_32x4": (75.5, 92.0, "i3d_baseline_32x4_I3D_pretrain_400k"),
    "i3d_nonlocal_32x4": (76.5, 92.6, "i3d_nonlocal_32x4_I3D_pretrain_400k"),
    "i3d_baseline_8x8_300k": (73.2, 90.8, "i3d_baseline_8x8_IN_pretrain_300k"),
    "i3d_baseline_8x8_600k_4gpu": (73.0, 90.4, "i3d_baseline_8x8_IN_pretrain_600k_4gpu"),
    "i3d_baseline_8x8_300k_4gpu": (72.0, 90.1, "i3d_baseline_8x8_IN_pretrain_300k_4gpu"),
}
STEPS = {
    "": (400_000, (150_000, 300_000), 64, 0.01),
    "affine": (400_000, (150_000, 300_000), 16, 0.0025),
    "300k": (300_000, (150_000, 250_000), 64, 0.01),
    "600k_4gpu": (600_000, (300_000, 500_000), 32, 0.005),
    "300k_4gpu": (300_000, (150_000, 250_000), 32, 0.005),
}
FOLDER = "https://dl.fbaipublicfiles.com/video-nonlocal"


def test_there_is_one_file_per_published_row():
    found = {path.stem for path in (REPOSITORY / "configs").glob("kinetics_*.py")}
    assert {name for name in found if "r101" not in name} == {f"kinetics_{n}" for n in PUBLISHED}
    for name in found - {f"kinetics_{n}" for n in PUBLISHED}:
        assert files.load(name).model.backbone.depth == 101 and not files.load(name).published.url


@pytest.mark.parametrize("row", PUBLISHED)
def test_a_row_is_what_was_published(row):
    config = files.load(f"kinetics_{row}")
    top1, top5, stem = PUBLISHED[row]
    assert (config.published.top1, config.published.top5) == (top1, top5)
    assert config.published.url == f"{FOLDER}/{stem}.pkl"
    kind, block, clip, *schedule = row.split("_")
    frames, stride = map(int, clip.split("x"))
    affine = clip in ("32x4", "128x1")
    backbone = config.model.backbone
    assert (backbone.kind, backbone.depth) == (kind, 50)
    assert backbone.non_local == (block == "nonlocal")
    assert backbone.time_stride == (2 if clip in ("32x2", "128x1") else 1)
    assert backbone.norm == ("affine" if affine else "batch")
    assert backbone.group_frames == (4 if affine else 0)
    assert config.model.num_classes == 400
    assert (config.data.frames, config.data.frame_stride) == (frames, stride)
    assert config.init_from == f"checkpoints/kinetics_{kind}_{block}_{clip}_initial"
    optimizer = config.optimizer
    steps, falls, batch, rate = STEPS["affine" if affine else "_".join(schedule)]
    assert (config.total_steps, optimizer.schedule.steps) == (steps, falls)
    assert (config.batch_size, optimizer.learning_rate) == (batch, rate)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("caffe2_sgd", 0.9, 1e-4)
    assert (optimizer.schedule.factor, optimizer.warmup_steps) == (0.1, 0)
    assert config.precise_norm_batches == (0 if affine else 200)
    assert config.model.norm_group == (0 if affine else 8)
    short = schedule == ["300k", "4gpu"]
    assert config.data.short_side == ((256, 256) if short else (256, 320))
    assert config.model.head.dropout == (0.0 if short else 0.5)
    assert (config.data.crop_size, config.eval.short_side, config.eval.crop_size) == (224, 256, 256)
    assert (config.eval.clips, config.eval.crops, config.eval.flip) == (10, "three", False)
    assert (config.eval_every, config.checkpoint_every) == (20_000, 10_000)


def test_a_config_without_a_task_is_of_segmentation():
    assert isinstance(files.validate(files.complete({})), schema.Config)
    video = files.validate(files.complete({"task": "video"}))
    assert isinstance(video, VideoConfig)
    assert video.optimizer.schedule.name == "steps" and video.optimizer.weight_decay == 1e-4
    with pytest.raises(UserError, match=r"task is 'audio'; it must be one of segmentation, video"):
        files.complete({"task": "audio"})


def test_a_video_config_survives_json(tmp_path):
    config = files.load("kinetics_i3d_nonlocal_32x4", seed=5)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(versions.with_format(files.to_tree(config))))
    assert files.load(path) == config


def test_the_command_line_changes_values_but_not_the_task():
    given = files.read("kinetics_i3d_nonlocal_8x8")
    words = {
        "model.backbone.kind": "--config.model.backbone.kind=c2d",
        "data.short_side": "--config.data.short_side=256,300",
        "eval.flip": "--config.eval.flip",
    }
    config = command_line.apply_overrides(given, words)
    assert config.model.backbone.kind == "c2d" and config.data.short_side == (256, 300)
    assert config.eval.flip
    with pytest.raises(UserError, match=r"task is 'segmentation'; it must be one of video"):
        command_line.apply_overrides(given, {"task": "--config.task=segmentation"})


def test_every_setting_says_what_it_means_and_may_be():
    for setting in describe.settings(files.load("kinetics_i3d_nonlocal_8x8")):
        assert setting.doc, setting.key
        assert setting.is_section or setting.allowed, setting.key


def test_what_is_for_segmentation_refuses_videos():
    with pytest.raises(UserError, match=r"config\.task is 'video'"):
        schema.for_segmentation(files.load("moving_shapes"))
