"""Evaluation against the reference's (golden/make_inference.py), and every pixel exactly once."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from PIL import Image
from test_model import golden_variables, tiny_config

from nonlocal_jax import evaluate
from nonlocal_jax.checkpoints import training
from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.evaluation.batching import Batch
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.models.network import build_network
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.compilation import compiler_options

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))

from pictures import IGNORE, NUM_CLASSES, SIZES, label, picture  # noqa: E402

REFERENCE = np.load(GOLDEN / "inference.npz")
EVERY = 5  # make_inference.py stored the probabilities of one pixel in five along each axis


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The golden pictures as a data set."""
    root = tmp_path_factory.mktemp("pictures")
    write_folder(root, {str(i): (picture(i), label(i)) for i in range(len(SIZES))})
    return root


def write_folder(root, examples):
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(f"class {i}" for i in range(NUM_CLASSES)))
    for name, (image, labels) in examples.items():
        Image.fromarray(image).save(root / "images" / "val" / f"{name}.png")
        Image.fromarray(labels).save(root / "labels" / "val" / f"{name}.png")


def config_for(root, mode="whole"):
    config = tiny_config(align_corners=mode == "slide")
    with config.unlocked():
        config.data_dir, config.data.name = str(root), "folder"
        config.eval.mode, config.eval.scale = mode, (96, 64)
        config.eval.window, config.eval.stride = (49, 49), (33, 33)
    return config


def small(config):
    """A network that compiles in a moment, where its numbers do not matter."""
    with config.unlocked():
        config.model.backbone.depth = 18
        config.model.backbone.output_stride = 32
        config.model.decode_head.name = "fcn"
        config.model.decode_head.num_convs = 1
        config.model.auxiliary_head.loss_weight = 0.0
    return config


def mesh_of(devices):
    grid = np.array(jax.devices()[:devices]).reshape(-1, 1, 1)
    return Mesh(grid, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def evaluate_tiny(config, *, devices=1, spoil=None, log=print, **options):
    network = build_network(config.model)
    mesh = mesh_of(devices)
    variables = golden_variables(config, network)
    if spoil:
        variables[spoil] = variables[spoil] * np.nan
    variables = jax.device_put(variables, sharding.replicated(mesh))
    return evaluate.evaluate(network, variables, config, mesh=mesh, log=log, **options)


def labelled(labels):
    return sum(int((each != IGNORE).sum()) for each in labels)


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
        "aacc": "aAcc",
    }
    for ours, theirs in expected.items():
        np.testing.assert_allclose(
            getattr(scores, ours), REFERENCE[f"{case}/scores/{theirs}"], rtol=1e-6
        )
    assert scores.miou == pytest.approx(np.nanmean(REFERENCE[f"{case}/scores/IoU"]), rel=1e-6)
    assert scores.mfscore == pytest.approx(np.nanmean(REFERENCE[f"{case}/scores/Fscore"]), rel=1e-6)


def mixed_examples(count, seed=0):
    """Pictures and labels of random sizes."""
    rng = np.random.default_rng(seed)
    examples = {}
    for index in range(count):
        size = tuple(int(side) for side in rng.integers(5, 60, 2))
        labels = rng.integers(0, NUM_CLASSES, size).astype(np.uint8)
        labels[rng.random(size) < 0.2] = IGNORE
        examples[f"{index:03}"] = (rng.integers(0, 256, (*size, 3), np.uint8), labels)
    return examples


@pytest.mark.parametrize("devices", [1, 8])
def test_every_labelled_pixel_is_evaluated_once_by_at_most_eight_programs(tmp_path, devices):
    examples = mixed_examples(37)
    write_folder(tmp_path, examples)
    config = small(config_for(tmp_path))
    with config.unlocked():
        config.eval.scale = (600, 400)  # large enough for several programs to pay
    said = []
    scores = evaluate_tiny(config, devices=devices, log=said.append)
    labels = [label for _, label in examples.values()]
    assert scores.pixels == labelled(labels)
    counts = np.bincount(np.concatenate([label[label != IGNORE] for label in labels]))
    np.testing.assert_array_equal(scores.confusion.sum(axis=1), counts)
    assert 1 < sum("Compiling" in line for line in said) <= 8
    assert f"{len(examples)} images" in said[-1] and "compiling" in said[-1]


def test_a_second_evaluation_of_a_network_compiles_nothing(folder):
    config = small(config_for(folder))
    network, mesh = build_network(config.model), mesh_of(1)
    variables = jax.device_put(golden_variables(config, network), sharding.replicated(mesh))
    compiled = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    first = evaluate.evaluate(network, variables, config, mesh=mesh, log=print)
    assert compiled, "the listener hears of compilations"
    compiled.clear()
    second = evaluate.evaluate(network, variables, config, mesh=mesh, log=print)
    assert not compiled
    np.testing.assert_array_equal(first.confusion, second.confusion)


def test_scores_that_are_not_finite_are_an_error(folder):
    with pytest.raises(UserError, match="not finite"):
        evaluate_tiny(small(config_for(folder)), spoil="decode_head/classifier/kernel")


def test_a_damaged_image_is_an_error_or_left_out(tmp_path):
    examples = mixed_examples(3)
    write_folder(tmp_path, examples)
    for name, keep in (("000", 0.5), ("002", 0.0)):
        file = tmp_path / "images" / "val" / f"{name}.png"
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    config = small(config_for(tmp_path))
    with pytest.raises(UserError, match=r"00\d\.png"):
        evaluate_tiny(config)
    with config.unlocked():
        config.data.on_bad_example = "skip"
    masks, reasons = {}, []
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
        evaluate_tiny(small(config_for(tmp_path)))


def test_a_model_of_another_number_of_classes_is_refused_before_anything_runs(folder):
    config = small(config_for(folder))
    with config.unlocked():
        config.model.num_classes = 19
    network = build_network(config.model)
    with pytest.raises(UserError, match="num_classes is 19, and folder has 7 classes"):
        evaluate.evaluate(network, {}, config, mesh=mesh_of(1))


def test_whole_1024x2048_takes_little_memory():
    """Compiled for this machine at full width: the arrays of a step, without running it."""
    config = command_line.load_config(
        GOLDEN.parent.parent / "configs/cityscapes_r50_512x1024_40k.py"
    )
    assert step_bytes(config) < 1.6 * 2**30


@pytest.mark.parity
def test_ms_flip_up_to_1792x3584_fits_into_24_gib():
    config = command_line.load_config(
        GOLDEN.parent.parent / "configs/cityscapes_r50_512x1024_40k.py"
    )
    assert step_bytes(config, tta=True) < 5 * 2**30


def step_bytes(config, tta=False):
    """Temporaries and weights of evaluating one 1024x2048 image."""
    network, protocol = build_network(config.model), predictor.protocol(config, tta)
    scales = tuple(
        Scaled(
            jax.ShapeDtypeStruct((1, *size, 3), np.uint8), jax.ShapeDtypeStruct((1, 2), np.int32)
        )
        for size in protocol.input_sizes((1024, 2048))
    )
    labels = jax.ShapeDtypeStruct((1, 1024, 2048), np.uint8)
    batch = Batch(scales, jax.ShapeDtypeStruct((1, 2), np.int32), labels)
    count = evaluate._counting(evaluate._Same(network), protocol, 19, False)
    lowered = count.lower(dict(network.shapes), batch, canvas=(1024, 2048), padded=False)
    step = lowered.compile(compiler_options("cpu"))
    memory = step.memory_analysis()
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes


def test_an_unknown_mode_is_named(folder):
    with pytest.raises(UserError, match=r"config\.eval\.mode is 'crop'"):
        evaluate_tiny(config_for(folder, "crop"))


PROCESS = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
sys.path[:0] = sys.argv[4:]
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from nonlocal_jax import sharding
import test_evaluate
config = test_evaluate.small(test_evaluate.config_for(sys.argv[3]))
mesh, masks = sharding.make_mesh(), {}
test_evaluate.mesh_of = lambda devices: mesh
scores = test_evaluate.evaluate_tiny(config, on_mask=masks.__setitem__)
print(scores.pixels, int((scores.confusion ** 2).sum()), *sorted(masks), file=sys.stderr)
"""


def test_two_processes_share_the_work_and_agree(tmp_path):
    examples = mixed_examples(7)
    write_folder(tmp_path, examples)
    alone = evaluate_tiny(small(config_for(tmp_path)))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    paths = [str(GOLDEN.parent.parent), str(GOLDEN.parent)]
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


def saved(config, path):
    """A checkpoint of the golden weights, as conversion writes it."""
    network = build_network(config.model)
    variables = {k: np.asarray(v) for k, v in golden_variables(config, network).items()}
    metadata = {"kind": "segmentor", "network": "tiny", "model": config.model.to_dict()}
    training.save_model(path, variables, metadata)
    return path


def test_the_command_goes_on_without_a_bad_image_if_told_to(tmp_path):
    write_folder(tmp_path / "data", mixed_examples(2))
    file = tmp_path / "data" / "images" / "val" / "000.png"
    file.write_bytes(file.read_bytes()[:200])
    config = small(config_for(tmp_path / "data"))
    arguments = [f"--checkpoint={saved(config, tmp_path / 'checkpoint')}", "--save_overlays"]
    out = f"--output={tmp_path / 'out'}"
    run = run_command("evaluate", config, *arguments, out)
    assert run.returncode == 2 and "000.png cannot be decoded" in run.stderr
    run = run_command("evaluate", config, *arguments, out, "--config.data.on_bad_example=skip")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "1 of 2 images failed" in run.stderr and "mIoU" in run.stdout
    assert [p.name for p in (tmp_path / "out" / "overlays").iterdir()] == ["001.png"]


def test_an_output_that_cannot_be_written_is_refused_before_the_checkpoint_is_read(tmp_path):
    (tmp_path / "file").touch()
    config = small(config_for(tmp_path))
    run = run_command("evaluate", config, "--checkpoint=nothing", f"--output={tmp_path}/file/out")
    assert run.returncode == 2 and "file/out" in run.stderr and "cannot be written" in run.stderr


def test_the_command_writes_scores_pictures_and_what_servers_take(tmp_path):
    write_folder(tmp_path / "data", mixed_examples(2))
    config = small(config_for(tmp_path / "data"))
    saved(config, tmp_path / "checkpoint")
    run = run_command(
        "evaluate",
        config,
        f"--checkpoint={tmp_path / 'checkpoint'}",
        f"--output={tmp_path / 'out'}",
        "--save_predictions",
        "--save_overlays",
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


OVERRIDDEN = (
    "data_dir",
    "data.name",
    "eval.mode",
    "eval.scale",
    "eval.window",
    "eval.stride",
    "model.num_classes",
    "model.align_corners",
    *(f"model.backbone.{key}" for key in ("depth", "output_stride")),
    *(f"model.backbone.{key}" for key in ("stem_channels", "base_channels")),
    *(f"model.decode_head.{key}" for key in ("name", "channels", "num_convs")),
    "model.auxiliary_head.channels",
)


def run_command(name, config, *arguments):
    """A command as a person starts it, with a config like `config`."""
    values = config.copy_and_resolve_references()
    overrides = []
    for key in OVERRIDDEN:
        value = values
        for part in key.split("."):
            value = value[part]
        overrides.append(f"--config.{key}={value}")
    row = "--config=configs/ade20k_r50_80k.py"
    return subprocess.run(
        [sys.executable, "-m", f"nonlocal_jax.{name}", row, *overrides, *arguments],
        cwd=GOLDEN.parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
