"""Evaluation against the reference's (golden/make_inference.py), and every pixel exactly once."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from evaluations import (
    IGNORE,
    NUM_CLASSES,
    REFERENCE,
    SIZES,
    config_for,
    evaluate_tiny,
    evaluation_of,
    golden_examples,
    label,
    labelled,
    mesh_of,
    mixed_examples,
    picture,
    run_command,
    saved,
    small,
    start_command,
    write_folder,
)
from networks import CONFIGS, TESTS
from PIL import Image
from ports import free_port

from nonlocal_jax import evaluate
from nonlocal_jax.config import files, schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.batching import EvaluationBatch
from nonlocal_jax.evaluation.evaluate import Evaluation
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol, Windows
from nonlocal_jax.models.network import build_network
from nonlocal_jax.runtime.compilation import compiler_options


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The golden pictures as a data set."""
    root = tmp_path_factory.mktemp("pictures")
    write_folder(root, golden_examples())
    return root


@pytest.fixture(scope="module")
def quick(folder):
    """An evaluation of the golden pictures by a network that compiles fast, and its weights."""
    return evaluation_of(small(folder))


@pytest.mark.parametrize(
    ("case", "devices"),
    [
        ("whole", 8),
        ("slide", 1),
        ("whole_tta", 1),
        pytest.param("slide_tta", 2, marks=pytest.mark.parity),
    ],
)
def test_predictions_and_scores_equal_the_references(folder, case, devices):
    mode, _, tta = case.partition("_")
    masks = {}
    scores = evaluate_tiny(
        config_for(folder, mode), devices=devices, tta=bool(tta), on_mask=masks.__setitem__
    )
    assert sorted(masks) == list(range(len(SIZES)))
    for index, mask in masks.items():
        np.testing.assert_array_equal(mask, REFERENCE[f"{case}/mask{index}"])
    expected = {
        "iou": "IoU",
        "acc": "Acc",
        "dice": "Dice",
        "fscore": "Fscore",
        "precision": "Precision",
    }
    for ours, theirs in expected.items():
        np.testing.assert_allclose(
            scores.per_class(ours), REFERENCE[f"{case}/scores/{theirs}"], rtol=1e-6
        )
    assert scores.aacc == pytest.approx(float(REFERENCE[f"{case}/scores/aAcc"]), rel=1e-6)
    assert scores.miou == pytest.approx(np.nanmean(REFERENCE[f"{case}/scores/IoU"]), rel=1e-6)
    fscores = REFERENCE[f"{case}/scores/Fscore"]
    assert scores.mean("fscore") == pytest.approx(np.nanmean(fscores), rel=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_every_labelled_pixel_is_evaluated_once_by_at_most_eight_programs(tmp_path, devices):
    examples = mixed_examples(37)
    write_folder(tmp_path, examples)
    # Large enough for several programs to pay.
    config = small(tmp_path, **{"eval.scale": (300, 200)})
    said = []
    scores = evaluate_tiny(config, devices=devices, log=said.append)
    labels = [label for _, label in examples.values()]
    assert scores.pixels == labelled(labels)
    counts = np.bincount(np.concatenate([label[label != IGNORE] for label in labels]))
    np.testing.assert_array_equal(scores.confusion.sum(axis=1), counts)
    of_each = {f"{name}.png": int((mask != IGNORE).sum()) for name, (_, mask) in examples.items()}
    assert len(scores.worst) == 8
    assert all(of_each[image.name] == image.labelled for image in scores.worst)
    assert 1 < sum("Compiling" in line for line in said) <= 8
    assert f"{len(examples)} images" in said[-1] and "compiling" in said[-1]


def test_a_second_evaluation_of_a_network_compiles_nothing(quick):
    evaluation, variables = quick
    compiled = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    first = evaluation.run(variables, log=print)
    assert compiled, "the listener hears of compilations"
    compiled.clear()
    second = evaluation.run(variables, log=print)
    assert not compiled
    np.testing.assert_array_equal(first.confusion, second.confusion)


def test_scores_that_are_not_finite_are_an_error(quick):
    evaluation, variables = quick
    spoilt = "decode_head/classifier/kernel"
    with pytest.raises(UserError, match="not finite"):
        evaluation.run({**variables, spoilt: variables[spoilt] * np.nan}, log=print)


def test_only_the_first_images_or_those_of_some_names(quick):
    evaluation, variables = quick
    labels = [label for _, label in golden_examples().values()]
    masks = {}
    scores = evaluation.run(variables, limit=2, on_mask=masks.__setitem__)
    assert sorted(masks) == [0, 1] and scores.pixels == labelled(labels[:2])
    masks.clear()
    scores = evaluation.run(variables, images=["4.png", "2"], on_mask=masks.__setitem__)
    assert sorted(masks) == [2, 4] and scores.pixels == labelled([labels[2], labels[4]])
    with pytest.raises(UserError, match=r"has no image 7\.png, nor 1 others of the list"):
        evaluation.run(variables, images=["1", "7.png", "8.png"])


def test_the_worst_images_are_those_with_the_fewest_right_pixels(quick):
    evaluation, variables = quick
    masks, source = {}, evaluation.inputs.open("val")
    scores = evaluation.run(variables, keep_worst=3, on_mask=masks.__setitem__)
    shares = {}
    for index, mask in masks.items():
        example = source[index]
        counted = example.label != IGNORE
        shares[example.name] = np.mean((mask == example.label)[counted])
    expected = sorted(shares, key=lambda name: (shares[name], name))[:3]
    assert [image.name for image in scores.worst] == expected
    for image in scores.worst:
        assert image.accuracy == pytest.approx(shares[image.name])
    told = scores.details()["worst"]
    assert [one["name"] for one in told] == expected


def test_where_nothing_is_labelled_nothing_is_scored(tmp_path):
    write_folder(tmp_path, {"0": (picture(0), np.full_like(label(0), IGNORE))})
    said = []
    scores = evaluate_tiny(small(tmp_path), log=said.append)
    assert said[-1] == "No pixel has a label, so that there is nothing to score."
    assert scores.summary().split() == [
        word for name in ("aAcc", "mIoU", "mAcc", "mDice", "mFscore") for word in (name, "-")
    ]


def test_a_damaged_image_is_an_error_or_left_out(tmp_path):
    examples = mixed_examples(3)
    write_folder(tmp_path, examples)
    for name, keep in (("000", 0.5), ("002", 0.0)):
        file = tmp_path / "images" / "val" / f"{name}.png"
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(UserError, match=r"00\d\.png"):
        evaluate_tiny(small(tmp_path))
    masks, reasons = {}, []
    config = small(tmp_path, **{"data.on_bad_example": "skip"})
    scores = evaluate_tiny(config, on_mask=masks.__setitem__, on_bad=reasons.append)
    assert scores.pixels == labelled([examples["001"][1]])
    assert list(masks) == [1]
    assert sorted(name for name in ("000", "001", "002") for r in reasons if name in r) == [
        "000",
        "002",
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda label: label[:-1], r"0\.png is \d+x\d+, its image \d+x\d+"),
        (lambda label: np.full_like(label, NUM_CLASSES), "holds label 7, and there are 7 classes"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, spoil, message):
    write_folder(tmp_path, {"0": (picture(0), spoil(label(0)))})
    with pytest.raises(UserError, match=message):
        evaluate_tiny(small(tmp_path))


def test_a_model_of_another_number_of_classes_is_refused_before_anything_runs(folder):
    config = small(folder, **{"model.num_classes": 19})
    evaluation = Evaluation.of(config, build_network(config.model), mesh_of(1))
    with pytest.raises(UserError, match="num_classes is 19, and folder has 7 classes"):
        evaluation.run({})


def test_whole_1024x2048_takes_little_memory():
    """Compiled for this machine at full width: the arrays of a step, without running it."""
    config = files.load(CONFIGS / "cityscapes_r50_512x1024_40k.py")
    assert step_bytes(config) < 1.6 * 2**30


@pytest.mark.parity
def test_ms_flip_up_to_1792x3584_fits_into_24_gib():
    config = files.load(CONFIGS / "cityscapes_r50_512x1024_40k.py")
    assert step_bytes(config, tta=True) < 5 * 2**30


def step_bytes(config, tta=False):
    """Temporaries and weights of evaluating one 1024x2048 image."""
    network = build_network(config.model)
    evaluation = Evaluation.of(config, network, mesh_of(1), tta=tta)
    scales = tuple(
        Scaled(
            jax.ShapeDtypeStruct((1, *size, 3), np.uint8), jax.ShapeDtypeStruct((1, 2), np.int32)
        )
        for size in evaluation.protocol.input_sizes((1024, 2048))
    )
    labels = jax.ShapeDtypeStruct((1, 1024, 2048), np.uint8)
    batch = EvaluationBatch(scales, jax.ShapeDtypeStruct((1, 2), np.int32), labels)
    count = evaluation.counting()
    lowered = count.lower(dict(network.shapes), batch, canvas=(1024, 2048), padded=False)
    step = lowered.compile(compiler_options("cpu"))
    memory = step.memory_analysis()
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes


def test_an_unknown_mode_or_metric_is_named(folder):
    with pytest.raises(UserError, match=r"config\.eval\.mode is 'crop'"):
        config_for(folder, "crop")
    with pytest.raises(UserError, match=r"config\.eval\.metrics is .*'recall'.*iou, acc, dice"):
        config_for(folder, **{"eval.metrics": ("iou", "recall")})


def test_the_protocol_is_that_of_the_config():
    options = schema.Eval(mode="slide", scale=(60, 40), window=(9, 8), stride=(6, 5))
    assert Protocol.of(options, True) == Protocol((60, 40), True, windows=Windows((9, 8), (6, 5)))
    whole = Protocol.of(schema.Eval(tta_ratios=(0.5, 2.0)), False, tta=True)
    assert whole == Protocol((2048, 1024), False, (0.5, 2.0), flip=True)


PROCESS = """
import os, sys
os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("count=8", "count=2")
sys.path[:0] = sys.argv[4:]
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from evaluations import evaluate_tiny, small
from nonlocal_jax.config import schema
from nonlocal_jax.runtime.sharding import make_mesh
masks = {}
config = small(sys.argv[3])
scores = evaluate_tiny(config, mesh=make_mesh(schema.Mesh()), on_mask=masks.__setitem__)
print(scores.pixels, int((scores.confusion ** 2).sum()), *sorted(masks), file=sys.stderr)
"""


def test_two_processes_share_the_work_and_agree(tmp_path):
    examples = mixed_examples(7)
    write_folder(tmp_path, examples)
    alone = evaluate_tiny(small(tmp_path))
    address = f"localhost:{free_port()}"
    paths = [str(TESTS.parent), str(TESTS / "support")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(rank), str(tmp_path), *paths],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    results = [[int(v) for v in error.splitlines()[-1].split()] for error in errors]
    expected = [labelled(label for _, label in examples.values()), (alone.confusion**2).sum()]
    assert [result[:2] for result in results] == [expected, expected]
    assert sorted(results[0][2:] + results[1][2:]) == list(range(7))


def test_the_command_goes_on_without_a_bad_image_if_told_to(tmp_path):
    write_folder(tmp_path / "data", mixed_examples(2))
    file = tmp_path / "data" / "images" / "val" / "000.png"
    file.write_bytes(file.read_bytes()[:200])
    checkpoint = saved(small(tmp_path / "data"), tmp_path / "checkpoint")
    arguments = [f"--checkpoint={checkpoint}", "--save_overlays"]
    run = run_command(evaluate, *arguments)
    assert run.returncode == 2 and "000.png cannot be decoded" in run.stderr
    run = run_command(evaluate, *arguments, "--config.data.on_bad_example=skip")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "1 of 2 images failed" in run.stderr and "mIoU" in run.stdout
    overlays = checkpoint / "evaluation" / "overlays"
    assert [p.name for p in overlays.iterdir()] == ["001.png"]


def test_an_output_that_cannot_be_written_is_refused_before_the_checkpoint_is_read(tmp_path):
    (tmp_path / "file").touch()
    run = run_command(evaluate, "--checkpoint=nothing", f"--output={tmp_path}/file/out")
    assert run.returncode == 2 and "file/out" in run.stderr and "cannot be written" in run.stderr


def test_the_command_writes_scores_pictures_and_what_servers_take(tmp_path):
    write_folder(tmp_path / "data", mixed_examples(2))
    checkpoint = saved(small(tmp_path / "data"), tmp_path / "checkpoint")
    run = start_command(
        "evaluate",
        f"--checkpoint={checkpoint}",
        f"--output={tmp_path / 'out'}",
        "--save_predictions",
        "--save_overlays",
        "--save_pictures=1",
    )
    assert run.returncode == 0, run.stderr
    assert "mIoU" in run.stdout and "class 3" in run.stdout
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert f"mIoU {100 * scores['miou']:.2f}" in run.stdout
    assert len(scores["confusion"]) == NUM_CLASSES
    for name in ("000.png", "001.png"):
        mask = np.asarray(Image.open(tmp_path / "out" / "predictions" / name))
        original = Image.open(tmp_path / "data" / "images" / "val" / name)
        assert mask.shape == original.size[::-1] and mask.max() < NUM_CLASSES
        assert (tmp_path / "out" / "overlays" / name).is_file()
    assert (tmp_path / "out" / "confusion.png").is_file()
    (drawn,) = (tmp_path / "out" / "worst").iterdir()
    worst = scores["worst"][0]["name"]
    assert drawn.name == f"01_{worst}"
    width = Image.open(tmp_path / "data" / "images" / "val" / worst).size[0]
    assert Image.open(drawn).size[0] > 4 * width
