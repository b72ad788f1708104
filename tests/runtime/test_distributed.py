"""Processes find each other, name who is missing or differs, and leave without a hang."""

import http.server
import json
import os
import subprocess
import sys
import threading

import jax  # noqa: F401  (sets TPU_SKIP_MDS_QUERY, as in every command)
import numpy as np
import pytest
from conftest import REPOSITORY
from jax._src.clusters import cloud_tpu_cluster
from ports import free_port

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.scenes import SceneSource
from nonlocal_jax.inputs.example import Example
from nonlocal_jax.runtime import cluster, distributed
from nonlocal_jax.runtime.cluster import Cluster

CLUSTER_VARIABLES = ("TPU_WORKER", "MEGASCALE_", "SLURM_", "JAX_PLATFORMS")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(CLUSTER_VARIABLES):
            monkeypatch.delenv(name)


def set_environment(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_machine_alone_is_no_cluster():
    assert cluster.find() is None


def test_a_gke_pod_knows_its_slice(monkeypatch):
    set_environment(monkeypatch, TPU_WORKER_ID="1", TPU_WORKER_HOSTNAMES="a-0.svc,a-1.svc")
    assert cluster.find() == Cluster("a-0.svc:8482", 2, 1, ("a-0.svc", "a-1.svc"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert cluster.find() is None


def test_a_gke_pod_of_several_slices_is_numbered_as_jax_does(monkeypatch):
    set_environment(
        monkeypatch,
        TPU_WORKER_ID="1",
        TPU_WORKER_HOSTNAMES="a-0.svc,a-1.svc,a-2.svc",
        MEGASCALE_NUM_SLICES="4",
        MEGASCALE_SLICE_ID="2",
        MEGASCALE_COORDINATOR_ADDRESS="localhost:8080",
    )
    found = cluster.find()
    theirs = cloud_tpu_cluster.GkeTpuCluster
    assert found.num_processes == theirs.get_process_count() == 12
    assert found.process_id == theirs.get_process_id() == 7
    assert found.coordinator == theirs.get_coordinator_address(1, None) == "localhost:8482"
    assert found.name(7) == "process 7 (slice 2, worker 1)"
    monkeypatch.delenv("MEGASCALE_SLICE_ID")
    with pytest.raises(UserError, match="MEGASCALE_SLICE_ID"):
        cluster.find()


def test_a_slurm_task_has_its_whole_node_or_one_device(monkeypatch):
    set_environment(
        monkeypatch,
        SLURM_JOB_ID="70001",
        SLURM_STEP_NUM_TASKS="4",
        SLURM_STEP_NODELIST="gpu[09-11],big",
        SLURM_PROCID="2",
        SLURM_LOCALID="1",
    )
    nodes = ("gpu09", "gpu10", "gpu11", "big")
    port = 61440 + 70001 % 4096
    assert cluster.find() == Cluster(f"gpu09:{port}", 4, 2, nodes)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert cluster.find() == Cluster(f"gpu09:{port}", 8, 2, local_devices=(1,))
    monkeypatch.setenv("SLURM_STEP_NODELIST", "rack[1-2]node[1-2]")
    with pytest.raises(UserError, match="--coordinator"):
        cluster.find()
    monkeypatch.delenv("SLURM_STEP_NODELIST")  # a shell of sbatch, not a task of srun
    assert cluster.find() is None


@pytest.mark.parametrize("workers", ["10.0.0.5,10.0.0.6", "n:0:10.0.0.5,n:1:10.0.0.6"])
def test_a_cloud_tpu_vm_asks_the_metadata_server(monkeypatch, workers):
    answers = {"worker-network-endpoints": workers, "agent-worker-number": "1"}

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path.rpartition("/")[2], "")
            allowed = self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if answer and allowed else 404)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # JAX sets it where no chips are
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    try:
        assert cluster.find() == Cluster("10.0.0.5:8482", 2, 1, ("10.0.0.5", "10.0.0.6"))
        answers["tpu-env"] = (
            "ZONE: 'here'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
            "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1:8080'\n"
        )
        assert cluster.find()[:3] == ("10.0.0.1:8482", 4, 3)
        answers.clear()
        with pytest.raises(UserError, match="--num_processes=1"):
            cluster.find()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "variables",
    [
        {"TPU_WORKER_ID": "x", "TPU_WORKER_HOSTNAMES": "a,b"},
        {"TPU_WORKER_ID": "-1", "TPU_WORKER_HOSTNAMES": "a,b"},
        {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "two"},
        {
            "SLURM_JOB_ID": "x",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NODELIST": "a,b",
            "SLURM_PROCID": "0",
        },
    ],
    ids=str,
)
def test_numbers_of_the_environment_that_are_none_are_named(monkeypatch, variables):
    set_environment(monkeypatch, **variables)
    with pytest.raises(UserError, match="in the environment; it must be a whole number"):
        cluster.find()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:99999", 2, 0), "--coordinator is 'localhost:99999'; it must be HOST:PORT"),
        (("localhost:0", 2, 0), "--coordinator is 'localhost:0'; it must be HOST:PORT"),
        (("localhost:9000", 0, 0), "--num_processes is 0; it must be at least 1"),
        (("localhost:9000", 2, 0, float("nan")), "--join_timeout is nan"),
        (("localhost:9000", 2, 0, -1.0), "--join_timeout is -1.0"),
    ],
)
def test_flags_that_describe_no_cluster_are_named(given, message):
    with pytest.raises(UserError, match=message), distributed.session(*given):
        pass


def test_a_fingerprint_tells_data_sets_apart():
    class Split(list):
        pass

    label = np.zeros((2, 3), np.uint8)
    image = np.zeros((2, 3, 3), np.uint8)
    data = Split(Example(image, label, f"image{n}") for n in range(20))
    renamed = Split([*data[:-1], Example(image, label, "other")])
    relabelled = Split([Example(image, label + np.uint8(1), "image0"), *data[1:]])
    prints = [distributed.fingerprint(split) for split in (data, renamed, relabelled, data[:-1])]
    assert len(set(prints)) == 4
    assert prints[0] == distributed.fingerprint(Split(data))
    scenes = (
        distributed.fingerprint(SceneSource("train")),
        distributed.fingerprint(SceneSource("val")),
    )
    assert scenes[0] != scenes[1]


PROGRAM = """
import json, os, pathlib, time
from absl import flags
from jax.experimental import multihost_utils
from nonlocal_jax.config import command_line, files
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.scenes import SceneSource
from nonlocal_jax.runtime import distributed

def main(options):
    with distributed.session(**options.processes):
        does = json.loads(options.flags.does)
        distributed.check_shared(pathlib.Path(does["workdir"]))
        def open_source(split):
            if "data" in does:
                raise UserError(does["data"])
            return SceneSource(does.get("split", split))
        if "code" in does:
            distributed._code_facts = lambda: {"the code of nonlocal_jax": does["code"]}
        distributed.check_agreement(files.flatten(does["config"]), open_source)
        if "first" in does:
            def fail():
                raise UserError(does["first"])
            distributed.by_first(fail)
        if "die" in does:
            os._exit(3)
        if "meet" in does:
            multihost_utils.process_allgather(0)
        assert distributed.by_first(lambda: [1, None]) == [1, None]
        time.sleep(does.get("sleep", 0))
        if "error" in does:
            raise RuntimeError(does["error"])
        print("agreed", flush=True)

def define(values):
    command_line.define_process_flags(values)
    flags.DEFINE_string("does", "", "What this process is given.", flag_values=values)

distributed.SHARED_SECONDS = 1.0
raise SystemExit(command_line.run(main, define))
"""


def run_two(*does, wait_for=(0, 1)):
    """Exit code, output and errors of two processes of one run, or of the one to wait for."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, f"--coordinator=127.0.0.1:{port}"),
                *("--num_processes=2", f"--process_id={number}", f"--does={json.dumps(given)}"),
            ],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, given in enumerate(does)
    ]
    try:
        outputs = [processes[number].communicate(timeout=90) for number in wait_for]
    finally:
        for process in processes:
            process.kill()
    codes = [processes[number].returncode for number in wait_for]
    return [(code, *output) for code, output in zip(codes, outputs, strict=True)]


def test_two_that_agree_go_on(tmp_path):
    given = {"workdir": str(tmp_path / "run"), "config": {"a": {"b": [1, 2]}}}
    # What a host may have for itself is no difference.
    other = {**given, "config": {**given["config"], "data_dir": "elsewhere"}}
    for code, out, err in run_two(given, other):
        assert code == 0, err
        assert "agreed" in out
    assert list((tmp_path / "run").iterdir()) == []


def test_two_that_differ_both_say_in_what(tmp_path):
    given = {"workdir": str(tmp_path), "config": {"batch": 2, "model": {"depth": 18}}}
    other = {**given, "config": {"batch": 4, "model": {"depth": 18}}, "split": "val"}
    for number, (code, _, err) in enumerate(run_two(given, other)):
        assert code == 2
        assert f"nonlocal_jax, process {number} " in err
        assert "config.batch is 2 on process 0 " in err and "4 on process 1 " in err
        assert "the data of train is" in err
        assert "depth" not in err and "the data of val" not in err and "Traceback" not in err


def test_what_one_lacks_all_report(tmp_path):
    given = {"workdir": str(tmp_path), "config": {}}
    for code, _, err in run_two(given, {**given, "data": "There is no ade20k here."}):
        assert code == 2
        assert "On process 1 (" in err and "There is no ade20k here." in err


def test_another_workdir_is_noticed(tmp_path):
    first = {"workdir": str(tmp_path / "a"), "config": {}}
    for code, _, err in run_two(first, {**first, "workdir": str(tmp_path / "b")}):
        assert code == 2
        assert "is not the folder that process 0" in err and "--workdir" in err


def test_a_process_with_an_error_leaves_at_once(tmp_path):
    given = {"workdir": str(tmp_path), "config": {}}
    # JAX would have it wait for the other, which waits for it; run_two would lose its patience.
    busy, broken = {**given, "sleep": 600}, {**given, "error": "broken"}
    ((code, _, err),) = run_two(busy, broken, wait_for=(1,))
    assert code == 1 and "RuntimeError: broken" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--process_id=1"], "go together"),
        (["--coordinator=h:1", "--num_processes=2", "--process_id=2"], "from 0 to"),
        (["--coordinator=h", "--num_processes=2", "--process_id=1"], "HOST:PORT"),
        (
            [
                "--join_timeout=0.5",
                "--num_processes=3",
                "--process_id=0",
                f"--coordinator=127.0.0.1:{free_port()}",
            ],
            "2 of 3 processes never joined: process 1, process 2",
        ),
    ],
)
def test_what_keeps_a_process_from_joining_is_one_message(arguments, expected):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert expected in done.stderr and "Traceback" not in done.stderr


def test_a_process_that_dies_is_told_by_the_others(tmp_path):
    given = {"workdir": str(tmp_path), "config": {}, "meet": True}
    ((code, _, err),) = run_two(given, {**given, "die": True}, wait_for=(0,))
    assert code == 1 and "Traceback" not in err
    assert "lost the connection to another process" in err and "newest checkpoint" in err


def test_other_code_is_named(tmp_path):
    given = {"workdir": str(tmp_path), "config": {}}
    for code, _, err in run_two(given, {**given, "code": "changed"}):
        assert code == 2
        assert "the code of nonlocal_jax is" in err and "changed on process 1 (" in err


def test_what_only_the_first_process_finds_all_report(tmp_path):
    given = {"workdir": str(tmp_path), "config": {}, "first": "The disk is full."}
    for code, _, err in run_two(given, given):
        assert code == 2 and "The disk is full." in err and "Traceback" not in err
