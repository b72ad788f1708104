"""Fixtures of the tests of the launch scripts."""

import os
import subprocess

import pytest
from launching import LAUNCH
from runs import ONE_DEVICE, REPOSITORY


@pytest.fixture
def settings(tmp_path):
    """A settings file, as a person would make one; returns its path."""
    file = tmp_path / "mine.env"
    file.write_text(
        f"source {LAUNCH}/settings.env\n"
        "PROJECT=my-project BUCKET=my-bucket IMAGE=host.pkg.dev/p/r/train PARTITION=gpu\n"
        "GKE_AUTHORIZED=198.51.100.7/32\n"
        "RESTART_SECONDS=0 POLL_SECONDS=0 GRACE_SECONDS=1 CRASHES=2\n"
    )
    return file


@pytest.fixture
def launch(settings):
    """Runs a script with the settings; returns its exit code, output and errors."""

    def run(script, *arguments, **environment):
        done = subprocess.run(
            [LAUNCH / script, *arguments],
            cwd=REPOSITORY,
            env={**ONE_DEVICE, "SETTINGS": str(settings), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def fake(tmp_path):
    """Makes a program of bash that notes its calls; returns the environment that has it first."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(name, body):
        program = folder / name
        program.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
        program.chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    return make
