"""What the card of a hub folder says of a config."""

import pytest
import yaml
from saved import VARIABLES
from video_runs import tiny as tiny_video

from nonlocal_jax.checkpoints.hub import card, results
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files as configs


@pytest.mark.parametrize("name", ["moving_shapes", "video_folder"])
def test_ones_own_and_generated_data_are_no_data_set_of_the_hub(name):
    config = tiny_video(**{"data.name": name})
    content = {"score": None, "versions": {}, "weights": {"keys": "own", "sha256": "0"}}
    text = card.text("net", content, Metadata(kind="training", config=config), VARIABLES, "mit")
    assert "datasets" not in yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(
    ("row", "told", "tag"),
    [
        ("kinetics_c2d_nonlocal_8x8", "C2D with non-local blocks", "c2d"),
        ("kinetics_i3d_baseline_8x8", "I3D without non-local blocks", "i3d"),
    ],
)
def test_the_cards_of_video_networks_tell_them_apart(row, told, tag):
    content = {"score": None, "versions": {}, "weights": {"keys": "own", "sha256": "0"}}
    metadata = Metadata(kind="recognizer", config=configs.load(row))
    text = card.text("net", content, metadata, VARIABLES, "mit")
    assert f"backbone `video_resnet-50` ({told}), head `classification`" in text
    assert tag in yaml.safe_load(text.split("---\n")[1])["tags"]


def test_published_scores_are_quoted_for_the_published_file_alone():
    row = configs.load("ade20k_r50_80k")
    source = {"file": "x.pth", "sha256": row.published.sha256 + 56 * "0"}
    found = results.known(Metadata(kind="segmentor", config=row, source=source), None)
    assert [(r.name, r.percent) for r in found] == [("mIoU", 40.75), ("mIoU, ms+flip", 42.05)]
    assert all(r.url == row.published.url and "not measured here" in r.origin for r in found)
    for other in ({}, {"file": "x.pth", "sha256": 64 * "0"}):
        assert results.known(Metadata(kind="segmentor", config=row, source=other), None) == []
    assert results.known(Metadata(kind="training", config=row), 0.5)[0].percent == 50.0
    video = configs.load("kinetics_i3d_nonlocal_8x8")
    source = {"file": video.published.url.rpartition("/")[2], "sha256": 64 * "0"}
    found = results.known(Metadata(kind="recognizer", config=video, source=source), None)
    assert [(r.name, r.percent) for r in found] == [("top-1", 74.7), ("top-5", 91.6)]
