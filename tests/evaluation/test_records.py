"""What a run keeps of an evaluation: bounded, and as JSON can hold it."""

import dataclasses
import json

import numpy as np

from nonlocal_jax.evaluation.metrics.scores import Scores
from nonlocal_jax.evaluation.video.scores import LEFT_OUT, VideoScores
from nonlocal_jax.evaluation.worst import Judged, Worst


def test_the_worst_are_kept_in_any_order_of_adding():
    rng = np.random.default_rng(0)
    images = [Judged(f"{i:03}", int(rng.integers(0, 5)), 4) for i in range(50)]
    images += [Judged("unlabelled", 0, 0)]
    expected = sorted(images[:-1], key=lambda image: (image.right / 4, image.name))[:3]
    for _ in range(5):
        images = [images[i] for i in rng.permutation(len(images))]
        worst = Worst(3)
        for image in images:
            worst.add(Judged(*image))
        assert list(worst.images()) == expected


def test_a_record_of_images_has_classes_confusion_and_worst_images():
    scores = Scores(np.array([[3, 1], [0, 0]]), ("a", "a"), ("iou",), (Judged("x.png", 1, 4),))
    record = json.loads(json.dumps(scores.record()))
    assert record["confusion"] == [[3, 1], [0, 0]]
    assert record["classes"] == [{"name": "a", "iou": 0.75}, {"name": "a", "iou": 0.0}]
    assert record["worst"] == [{"name": "x.png", "accuracy": 0.25}]
    assert scores.by_class() == {"iou": {"a (0)": 0.75, "a (1)": 0.0}}
    assert scores.best_metric == "miou" and scores.to_dict()["miou"] == scores.best_by


def test_a_record_of_videos_has_classes_confusion_and_the_videos_that_are_most_wrong():
    count = 40
    ranks = np.arange(count) % 4
    ranks[0] = LEFT_OUT
    labels = np.arange(count) % 2
    classes = np.stack([np.where(ranks == 0, labels, 1 - labels), labels], axis=1)
    scores = VideoScores(
        names=[f"v{i:02}" for i in range(count)],
        labels=labels,
        ranks=ranks,
        classes=classes,
        probabilities=np.full((count, 2), 0.5),
        class_names=("a", "b", "c"),
    )
    record = json.loads(json.dumps(scores.record()))
    counted = ranks != LEFT_OUT
    first = classes[:, 0]
    for i, row in enumerate(record["confusion"]):
        for j, number in enumerate(row):
            assert number == np.sum(counted & (labels == i) & (first == j))
    shares = [np.mean(ranks[counted & (labels == label)] == 0) for label in (0, 1)]
    assert [one["top1"] for one in record["classes"]] == [*shares, None]
    assert [one["videos"] for one in record["classes"]] == [19, 20, 0]
    last = sorted(np.flatnonzero(ranks == 3))[:8]
    assert [one["name"] for one in record["worst"]] == [f"v{i:02}" for i in last]
    assert scores.best_metric == "top1" and record["top1"] == scores.best_by
    alike = dataclasses.replace(scores, class_names=("a", "a", "c")).by_class()["top1_by_class"]
    assert list(alike) == ["a (0)", "a (1)", "c"] and list(alike.values())[:2] == shares
