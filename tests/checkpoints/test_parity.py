"""All sixteen rows at full width against the running reference, float32 on CPU (make parity)."""

import pathlib
import re
import subprocess

import jax
import numpy as np
import pytest
from conftest import REPOSITORY
from plain import resize_bilinear

from nonlocal_jax.checkpoints.pytorch import importer, torch_file
from nonlocal_jax.config import files
from nonlocal_jax.models.network import build_network

FILES = (REPOSITORY / "configs").glob("*_r[0-9]*.py")
ROWS = sorted(path.stem for path in FILES if not path.stem.startswith("kinetics"))
ODD_SIZE = (193, 257)

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("row", ROWS)
def test_a_random_checkpoint_gives_the_references_outputs(row, reference_python, shared, tmp_path):
    config = files.load(REPOSITORY / "configs" / f"{row}.py")
    stem = pathlib.PurePath(config.published.url).parent.name
    peer = [reference_python, "-W", "ignore", str(shared / "peer" / "peer.py")]
    seed = ROWS.index(row) + 11
    file = tmp_path / "random.pth"
    form = ["--legacy"] if seed % 2 else []
    call([*peer, "init", stem, str(file), "--seed", str(seed), *form])
    network = build_network(config.model)
    shapes = {name: leaf.shape for name, leaf in network.shapes.items()}
    imported = importer.import_checkpoint(torch_file.read(file), shapes, keys=network.torch_keys)

    @jax.jit
    def forward(variables, images):
        model = network.bind(variables)
        model.eval()
        stages = model.backbone(images)
        before = model.decode_head.convs[0](stages["stage4"])
        auxiliary = model.auxiliary_head((stages["stage3"],))
        return stages, model.decode_head.non_local(before), model(images), auxiliary

    reference = [reference_python, "-W", "ignore", REPOSITORY / "tests/golden/reference_forward.py"]
    for size in (tuple(config.data.crop_size), ODD_SIZE):
        images = np.random.default_rng(seed).standard_normal((1, *size, 3)).astype(np.float32)
        np.savez(tmp_path / "in.npz", images=images)
        paths = [file, tmp_path / "in.npz", tmp_path / "out.npz"]
        call([*reference, shared / "peer" / "peer.py", stem, *paths])
        theirs = np.load(tmp_path / "out.npz")
        stages, non_local, decode, auxiliary = forward(imported.variables, images)
        ours = {f"stage{i}": stages[f"stage{i + 1}"] for i in range(4)}
        ours |= {"nl_block": non_local, "decode_logits": decode, "aux_logits": auxiliary}
        ours["logits"] = resize_bilinear(decode, size, align_corners=config.model.align_corners)
        for name, value in ours.items():
            check(
                f"{row} {size} {name}", value, theirs[f"float32/{name}"], theirs[f"float64/{name}"]
            )


def check(what, ours, single, double):
    """Within 1e-5 of the reference, or about as near its float64 outputs as its float32 ones are.

    A random R-101 has attention logits of up to 27,000: rounding decides there which position wins
    the softmax, and the reference itself strays from its float64 result.
    """
    apart, own, strayed = error(ours, single), error(ours, double), error(single, double)
    print(f"{what}: {apart:.1e} (to float64: ours {own:.1e}, the reference's own {strayed:.1e})")
    assert apart <= 1e-5 or own <= 5 * strayed, what


def error(actual, expected):
    """The largest difference, as a share of the largest magnitude."""
    difference = np.abs(np.asarray(actual, np.float64) - expected.astype(np.float64))
    return difference.max() / np.abs(expected).max()


def call(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_row_is_one_of_the_references():
    stems = [files.load(REPOSITORY / "configs" / f"{row}.py").published.url for row in ROWS]
    assert len(set(stems)) == 16 and all(
        re.search(r"_\d{8}_\d{6}-[0-9a-f]{8}\.pth$", s) for s in stems
    )
