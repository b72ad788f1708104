"""Hub folders: what is saved is loaded, what is damaged is refused, and what a card says."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from evaluations import run_command, write_folder
from hub_folders import (
    CLASSES,
    META,
    PALETTE,
    assert_same_arrays,
    config_of,
    saved_checkpoint,
    saved_folder,
)
from PIL import Image
from saved import VARIABLES, contents, cut, flip, train
from video_runs import tiny as tiny_video

import nonlocal_jax
from nonlocal_jax import evaluate, export, predict
from nonlocal_jax.checkpoints import folder as step_files
from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.hub import card, files
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import load_model, save_model
from nonlocal_jax.checkpoints.pytorch import torch_file
from nonlocal_jax.config import files as configs
from nonlocal_jax.errors import UserError
from nonlocal_jax.models import video_network
from nonlocal_jax.models.network import build_network
from nonlocal_jax.training import starting_weights

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 45, 3), np.uint8)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return config_of(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    return saved_checkpoint(tmp_path_factory.mktemp("saved") / "tiny", config)


@pytest.fixture(scope="module")
def folder(checkpoint, config, tmp_path_factory):
    """A hub folder, which tests leave as it is."""
    return saved_folder(checkpoint, config, tmp_path_factory.mktemp("hub") / "net")


@pytest.fixture
def copy(folder, tmp_path):
    """A hub folder that a test may change."""
    return shutil.copytree(folder, tmp_path / "net")


# --- Saved and loaded -----------------------------------------------------------------------------


def test_a_network_is_the_same_in_another_process_and_place(checkpoint, tmp_path):
    model = nonlocal_jax.load(checkpoint)
    directory = model.save_pretrained(tmp_path / "net", license="mit")
    assert directory == tmp_path / "net" and [p.name for p in tmp_path.iterdir()] == ["net"]
    assert sorted(p.name for p in directory.iterdir()) == [files.CARD, files.CONFIG, files.WEIGHTS]
    (tmp_path / "elsewhere").mkdir()
    shutil.move(directory, tmp_path / "elsewhere" / "other")
    np.save(tmp_path / "picture.npy", PICTURE)
    program = """
        import numpy as np
        import nonlocal_jax
        from nonlocal_jax.checkpoints.model import load_model
        model = nonlocal_jax.load("elsewhere/other")
        np.save("probabilities.npy", model.probabilities(np.load("picture.npy")))
        np.savez("arrays.npz", **load_model("elsewhere/other")[0])
        print(model.class_names, model.palette.tolist())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{CLASSES} {PALETTE.tolist()}\n"
    there = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_array_equal(there, model.probabilities(PICTURE), strict=True)
    with np.load(tmp_path / "arrays.npz") as arrays:
        assert_same_arrays(dict(arrays), load_model(checkpoint)[0])
        assert any(name.startswith("auxiliary_head/") for name in arrays)


@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16, "float16", "float64", "int32"])
def test_arrays_of_every_kind_come_back_bit_by_bit(tmp_path, config, dtype):
    values = np.random.default_rng(0).integers(0, 999, (5, 4)).astype(dtype)
    given = {"plain": values, "transposed": values.T, "every other": values[::2, 1:3]}
    given |= {"number": np.asarray(3, dtype), "none": values[:0]}
    metadata = Metadata(kind="segmentor", config=config)
    tmp_path.joinpath("net").mkdir()
    files.write(tmp_path / "net", given, metadata)
    assert_same_arrays(files.read_arrays(tmp_path / "net", metadata), given)
    assert files.damage(tmp_path / "net") is None


def test_metadata_come_back_and_the_config_in_use_is_saved(tmp_path, checkpoint, config):
    source = {"file": "x.pth", "sha256": "0" * 64}
    counters = {"backbone.stem.1.num_batches_tracked": 7}
    other = saved_checkpoint(tmp_path / "import", config, source=source, counters=counters)
    before = load_model(other)[1]
    assert load_model(saved_folder(other, config, tmp_path / "net"))[1] == before
    changed = nonlocal_jax.load(other, **{"eval.scale": (64, 48)})
    again = nonlocal_jax.load(changed.save_pretrained(tmp_path / "changed"))
    assert again.config == changed.config and again.config.eval.scale == (64, 48)
    assert configs.load(tmp_path / "changed" / files.CONFIG) == again.config


def test_of_a_run_the_chosen_step_and_its_average_are_saved(tmp_path, config):
    """The arrays that are evaluated, without the log entries of a run that goes on."""
    metadata = Metadata(kind="training", config=config, meta=META, recent={"loss": [1.0]})
    network = {k: np.zeros(v.shape, v.dtype) for k, v in build_network(config.model).shapes.items()}
    average = {name: value + 1 for name, value in network.items()}
    step = tmp_path / "run" / "checkpoints" / "8"
    train(tmp_path / "run", [8], mious={8: 0.5}, metadata=metadata)
    shutil.rmtree(step / "model")
    save_model(tmp_path / "network", network, metadata)
    save_model(tmp_path / "average", average, metadata)
    shutil.copytree(tmp_path / "network" / "model", step / "model")
    shutil.copytree(tmp_path / "average" / "model", step / "average")
    step_files.write_digests(step)
    step_files.write_score(step, 0.5)
    arrays, read = load_model(saved_folder(tmp_path / "run", config, tmp_path / "net"))
    assert_same_arrays(arrays, average)
    assert read.step == 8 and read.recent is None and files.score(tmp_path / "net") == 0.5


# --- Commands -------------------------------------------------------------------------------------


def test_commands_take_a_hub_folder(copy, config, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "photo.png")
    words = [f"--checkpoint={copy}", f"--input={tmp_path}/photo.png"]
    done = run_command(predict, *words)
    assert done.returncode == 0, done.stderr
    with Image.open(copy / "predictions" / "masks" / "photo.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), nonlocal_jax.load(copy).predict(PICTURE))
    write_folder(tmp_path / "data", {"a": (PICTURE, np.zeros(PICTURE.shape[:2], np.uint8))})
    words = [f"--checkpoint={copy}", f"--config.data_dir={tmp_path}/data"]
    done = run_command(evaluate, *words)
    assert done.returncode == 0 and "mIoU" in done.stdout, done.stderr
    assert json.loads((copy / "evaluation" / "scores.json").read_text())["step"] is None


def test_a_run_starts_from_a_hub_folder(folder, config, capsys):
    starting = configs.override(config, init_from=str(folder))
    starting_weights.check(starting.init_from)
    network = build_network(starting.model)
    found = starting_weights.initial_variables(starting, network, CLASSES)
    count = len(network.shapes)
    assert f"Starting from {folder}: {count} of {count} arrays." in capsys.readouterr().out
    assert_same_arrays({k: np.asarray(v) for k, v in found.items()}, load_model(folder)[0])


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["--output={old}"], "exists already; remove it"),
        (["--output={new}", "--step=3"], "is one checkpoint; a step is chosen"),
        (["--output=/dev/null/x"], "cannot be written"),
    ],
)
def test_mistakes_in_an_export_are_told(folder, tmp_path, words, because):
    (tmp_path / "old").mkdir()
    places = {"old": tmp_path / "old", "new": tmp_path / "new"}
    words = [f"--checkpoint={folder}", "--to=safetensors", *(w.format(**places) for w in words)]
    done = run_command(export, *words)
    assert done.returncode == 2 and because in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_video_network_is_saved_under_our_names(tmp_path, capsys):
    config = tiny_video()
    variables = {
        name: np.asarray(value)
        for name, value in video_network.init_variables(config.model, 0).items()
    }
    meta = {"CLASSES": ["up", "down", "left", "right"]}
    given = Metadata(kind="recognizer", config=config, meta=meta)
    save_model(tmp_path / "saved", variables, given)
    done = run_command(export, f"--checkpoint={tmp_path}/saved", "--to=safetensors",
                       f"--output={tmp_path}/exported")  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = nonlocal_jax.load(tmp_path / "exported")
    assert loaded.class_names == ("up", "down", "left", "right") and loaded.config == config
    arrays, read = load_model(loaded.save_pretrained(tmp_path / "again"))
    assert_same_arrays(arrays, variables)
    assert read == given and front_of(tmp_path / "again")["pipeline_tag"] == "video-classification"
    done = run_command(export, f"--checkpoint={tmp_path}/saved", "--to=safetensors",
                       "--keys=pytorch", f"--output={tmp_path}/new")  # fmt: skip
    assert done.returncode == 2 and "PyTorch's names are known of segmentation" in done.stderr


def test_what_does_not_fit_or_has_gone_is_not_saved(checkpoint, config, tmp_path):
    other = configs.override(config, **{"model.auxiliary_head.channels": 12})
    with pytest.raises(UserError, match=r"another network[^$]*auxiliary_head/convs/0/conv/kernel"):
        saved_folder(checkpoint, other, tmp_path / "net")
    for options, because in (
        ({"keys": "torch"}, "keys is 'torch'; it must be one of own, pytorch"),
        ({"license": ""}, "The license is ''"),
    ):
        with pytest.raises(UserError, match=because):
            saved_folder(checkpoint, config, tmp_path / "net", **options)
    loaded = nonlocal_jax.load(shutil.copytree(checkpoint, tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(UserError, match="copy"):
        loaded.save_pretrained(tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_nothing(checkpoint, config, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "text", lambda *_: "\ud800")  # no UTF-8
    with pytest.raises(UnicodeEncodeError):
        saved_folder(checkpoint, config, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


# --- Damage ---------------------------------------------------------------------------------------


def edit(**values):
    """An edit of config.json by dotted key."""

    def change(folder):
        content = json.loads((folder / files.CONFIG).read_text())
        for key, value in values.items():
            node, names = content, key.split("__")
            for name in names[:-1]:
                node = node[name]
            node[names[-1]] = value
        (folder / files.CONFIG).write_text(json.dumps(content))

    return change


def pointer(folder):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / files.WEIGHTS).write_text(text)


DAMAGES = {
    "a flipped bit": (lambda f: flip(f / files.WEIGHTS), "model.safetensors has changed"),
    "a cut": (lambda f: cut(f / files.WEIGHTS, 5000), "model.safetensors has changed"),
    "no content": (lambda f: cut(f / files.WEIGHTS, 0), "model.safetensors is empty"),
    "a pointer": (pointer, "is a pointer of Git LFS, which `git lfs pull` replaces"),
    "no config": (lambda f: (f / files.CONFIG).unlink(), "and no config.json"),
    "no JSON": (lambda f: cut(f / files.CONFIG, 50), r"config\.json can't be read"),
    "a list": (lambda f: (f / files.CONFIG).write_text("[]"), "config.json is of another"),
    "another library": (edit(library_name="timm"), "config.json is of another"),
    "another mode": (edit(config__model__align_corners=True), "config.json has changed"),
    "another head": (edit(config__model__decode_head__num_convs=2), "config.json has changed"),
    "other classes": (edit(meta__CLASSES=["x"] * 5), "config.json has changed"),
    "another score": (edit(score=0.9), "config.json has changed"),
    "another digest": (edit(weights={"sha256": "0", "keys": "own"}), "config.json has changed"),
    "no digest": (edit(weights={}), "does not say what is in model.safetensors"),
    "a newer format": (edit(format=99), r"has format 99.*update nonlocal_jax"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_by_name(copy, name):
    damage, because = DAMAGES[name]
    damage(copy)
    before = contents(copy)
    for read in (nonlocal_jax.load, load_model):
        with pytest.raises(UserError, match=because) as caught:
            read(copy)
        assert str(copy) in str(caught.value)
    assert contents(copy) == before


def test_the_card_may_be_edited(copy):
    (copy / files.CARD).write_text("mine")
    nonlocal_jax.load(copy)


def test_a_checkpoint_of_orbax_beside_other_weights_stays_one(checkpoint, folder, tmp_path):
    both = shutil.copytree(checkpoint, tmp_path / "both")
    shutil.copy(folder / files.WEIGHTS, both)
    assert not files.is_hub_folder(both)
    assert_same_arrays(load_model(both)[0], load_model(checkpoint)[0])


# --- The card -------------------------------------------------------------------------------------


def front_of(folder):
    """The front matter of a folder's card."""
    _, front, _ = (folder / files.CARD).read_text().split("---\n", 2)
    return yaml.safe_load(front)


def test_the_front_matter_is_what_the_hub_reads(folder):
    front = front_of(folder)
    assert front["license"] == "apache-2.0" and front["library_name"] == "nonlocal_jax"
    assert front["pipeline_tag"] == "image-segmentation"
    assert {"jax", "semantic-segmentation", "resnet-18", "fcn"} <= set(front["tags"])
    assert "datasets" not in front and "model-index" not in front  # own images, no score
    text = (folder / files.CARD).read_text()
    digest = torch_file.sha256(folder / files.WEIGHTS)
    for part in (
        "# net\n",
        f"{len(CLASSES)} classes: {', '.join(CLASSES)}.",
        "No score of these weights is known.",
        f"SHA-256 of `model.safetensors`: `{digest}`",
        f"nonlocal_jax {nonlocal_jax.__version__}",
        'nonlocal_jax.load("net")',
        "## Licence",
    ):
        assert part in text
    assert "load_state_dict" not in text


def test_the_hubs_own_library_reads_the_card(checkpoint, config, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    config = configs.override(config, **{"data.name": "camvid"})
    metadata = Metadata(kind="training", config=config, meta=META, step=400)
    content = {"score": 0.283, "versions": {}, "weights": {"keys": "pytorch", "sha256": "0"}}
    text = card.text("net", content, metadata, VARIABLES, "cc-by-4.0")
    data = hub.ModelCard(text).data
    assert (data.license, data.datasets, data.model_name) == ("cc-by-4.0", ["camvid"], "net")
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_iou", 28.3)
    assert (result.dataset_type, result.dataset_split) == ("camvid", "validation")
    assert "step 400 of" in text and "load_state_dict" in text
    assert "| mIoU | 28.30 | whole images, fitted into 96x64" in text


def test_a_score_of_another_protocol_is_left_out(tmp_path, config):
    run = tmp_path / "run"
    metadata = Metadata(kind="training", config=config, meta=META)
    saved_checkpoint(tmp_path / "saved", config)
    train(run, [8], metadata=metadata)
    step = run / "checkpoints" / "8"
    shutil.rmtree(step / "model")
    shutil.copytree(tmp_path / "saved" / "model", step / "model")
    step_files.write_digests(step)
    step_files.write_score(step, 0.25)
    alike = saved_folder(run, config, tmp_path / "alike")
    assert front_of(alike)["model-index"][0]["results"][0]["metrics"][0]["value"] == 25.0
    again = saved_folder(alike, config, tmp_path / "again")
    assert files.score(again) == 0.25
    other = configs.override(config, **{"eval.scale": (64, 48)})
    assert files.score(saved_folder(run, other, tmp_path / "other")) is None
    step_files.write_score(step, float("nan"))  # no label in the validation split
    assert "model-index" not in front_of(saved_folder(run, config, tmp_path / "unlabelled"))
    assert locate.find(alike).run is None and load_model(alike)[1].step == 8
