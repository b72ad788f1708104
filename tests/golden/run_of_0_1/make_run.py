"""Makes the run, its end and the imported checkpoint that stand beside this file.

They were made by nonlocal_jax 0.1 (commit fab6df4), whose checkpoints and runs have format 1. To be
called in a checkout of that commit, with its Python:

    PYTHONPATH=. python .../tests/golden/run_of_0_1/make_run.py

Writes `run.tar.gz` (stopped after step 4 of 6), `end.json` (what the same run came to when nobody
stopped it: its log, and a digest of every variable) and `imported.tar.gz` (convert_zip.pth of the
folder above).
"""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

from absl import flags

from nonlocal_jax import checkpoints, cli, train

HERE = pathlib.Path(__file__).resolve().parent
TOTAL, STOP = 6, 4
OVERRIDES = {
    "model.backbone.stem_channels": 4,
    "model.backbone.base_channels": 2,
    "model.decode_head.channels": 4,
    "model.decode_head.dropout": 0.1,
    "model.auxiliary_head.channels": 2,
    "model.auxiliary_head.loss_weight": 0.4,
    "data.scale": (256, 64),
    "data.crop_size": (64, 128),
    "data.num_threads": 1,
    "eval.scale": (128, 16),
    "eval.batch_size": 1,
    "optimizer.learning_rate": 0.02,
    "batch_size": 2,
    "total_steps": TOTAL,
    "log_every": 2,
    "eval_every": 2,
    "checkpoint_every": 2,
}
IMPORT = (  # as tests/checkpoints/test_convert.py has it
    "--config=configs/cityscapes_r50_512x1024_40k.py",
    "--config.model.num_classes=3",
    "--config.model.backbone.stem_channels=2",
    "--config.model.backbone.base_channels=2",
    "--config.model.decode_head.channels=8",
    "--config.model.auxiliary_head.channels=4",
)


class Stop:
    """Tells the run to stop after so many steps, where SIGTERM would at some moment."""

    def __init__(self, after):
        self._left = after

    def begin(self):
        """Nothing to listen for."""

    def told(self):
        """Whether the step that was just made is the last one."""
        self._left -= 1
        return self._left == 0

    def give_up_if_told(self):
        """Evaluations are made to their end."""


def run(directory, after):
    config = cli.load_config("configs/demo.py", **OVERRIDES)
    try:
        train.train(config, directory, Stop(after))
    except SystemExit as left:
        assert left.code == 75


def log(directory):
    """metrics.jsonl without the speed."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def pack(folder):
    with tarfile.open(HERE / f"{folder.name}.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)


def main():
    flags.FLAGS.mark_as_parsed()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        run(folder / "run", STOP)
        for step in range(2, STOP, 2):  # the fixture is to be small
            shutil.rmtree(folder / "run" / "checkpoints" / str(step))
        pack(folder / "run")
        run(folder / "whole", -1)
        variables, _ = checkpoints.load_model(folder / "whole")
        digests = {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in variables.items()}
        means = {k: float(abs(v).mean()) for k, v in variables.items()}
        end = {"log": log(folder / "whole"), "sha256": digests, "mean_magnitude": means}
        (HERE / "end.json").write_text(json.dumps(end, indent=1) + "\n")
        command = [sys.executable, "-m", "nonlocal_jax.convert", *IMPORT]
        command.append(f"--input={HERE.parent / 'convert_zip.pth'}")
        subprocess.run([*command, f"--output={folder / 'imported'}"], check=True)
        pack(folder / "imported")


if __name__ == "__main__":
    main()
