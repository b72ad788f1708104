"""A run needs neither git, nor a home folder, nor a locale, and writes where it is told alone."""

import os
import subprocess
import sys

from runs import REPOSITORY, SHRUNK, make_data


def test_a_run_in_a_bare_environment(tmp_path):
    """As in a small container, with class names that the terminal's encoding lacks."""
    data = tmp_path / "data"
    make_data(data)
    (data / "classes.txt").write_text("straße\n道路\n$100_$ bill\n", encoding="utf-8")
    command = [sys.executable, "-m", "nonlocal_jax.main", "--config=demo", *SHRUNK]
    command += ["--config.data.name=folder", f"--config.data_dir={data}", "--workdir=run"]
    command += ["--config.model.num_classes=3", "--config.init_from=", "--config.total_steps=1"]
    command += ["--config.data.crop_size=(32,32)", "--config.data.scale=(64,48)"]
    command += ["--config.batch_size=1", "--config.eval.scale=(64,48)"]
    environment = {
        "PATH": str(tmp_path / "no programs"),
        "PYTHONPATH": str(REPOSITORY),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "stra\\xdfe" in done.stdout
    assert '"commit": "unknown"' in (tmp_path / "run" / "environment.json").read_text()
    assert sorted(os.listdir(tmp_path)) == ["data", "run"]
