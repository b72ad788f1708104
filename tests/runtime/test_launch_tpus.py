"""How the launch scripts ask for TPUs: kinds of capacity, several slices, and clusters of GKE."""

import subprocess

import pytest
import yaml
from launching import FLAGS, LAUNCH, SLICE, calls
from runs import ONE_DEVICE

ONE = "--node-id=nonlocal --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite"
NAME = "projects/my-project/locations/us-west4-a/reservations/mine"


@pytest.mark.parametrize(
    ("settings_of_it", "expected"),
    [
        ("SPOT=false", f"gcloud compute tpus queued-resources create nonlocal {ONE} {SLICE}"),
        (
            "SPOT=false RESERVED=true",
            f"gcloud compute tpus queued-resources create nonlocal {ONE} --reserved {SLICE}",
        ),
        (
            "SPOT=false RESERVATION=mine",
            f"gcloud alpha compute tpus queued-resources create nonlocal {ONE} "
            f"--reservation={NAME} {SLICE}",
        ),
        (
            f"SPOT=false RESERVED=true RESERVATION={NAME}",
            f"gcloud alpha compute tpus queued-resources create nonlocal {ONE} "
            f"--reservation={NAME} {SLICE}",
        ),
        (
            "SPOT=false FLEX_START=true MAX_RUN_DURATION=1d12h",
            f"gcloud alpha compute tpus queued-resources create nonlocal {ONE} "
            f"--provisioning-model=flex-start --max-run-duration=1d12h {SLICE}",
        ),
        (
            "SLICES=4",
            "gcloud compute tpus queued-resources create nonlocal --node-count=4 "
            "--node-prefix=nonlocal --accelerator-type=v5litepod-16 "
            f"--runtime-version=v2-alpha-tpuv5-lite --spot {SLICE}",
        ),
    ],
)
def test_how_a_slice_is_asked_for(launch, settings, settings_of_it, expected):
    settings.write_text(settings.read_text() + settings_of_it + "\n")
    code, out, err = launch("tpu.sh", "--dry-run", "create")
    assert code == 0, err
    assert out.strip() == expected


@pytest.mark.parametrize("script", ["tpu.sh", "gke.sh", "cluster.sh"])
@pytest.mark.parametrize(
    ("settings_of_it", "sentence"),
    [
        ("RESERVED=true", "asks for SPOT RESERVED."),
        ("RESERVATION=mine", "exclude each other"),
        ("SPOT=false RESERVATION=mine FLEX_START=true MAX_RUN_DURATION=1h", "exclude each other"),
        ("SPOT=false FLEX_START=true", "FLEX_START needs MAX_RUN_DURATION"),
        ("SPOT=false FLEX_START=true MAX_RUN_DURATION=7d1s", "seven days at most"),
        ("SPOT=false FLEX_START=true MAX_RUN_DURATION=0h", "seven days at most"),
        ("SPOT=false FLEX_START=true MAX_RUN_DURATION=soon", "write a duration"),
        ("MAX_RUN_DURATION=1h", "MAX_RUN_DURATION is of FLEX_START"),
        ("SPOT=yes", "SPOT=yes: it is true or false."),
        ("SLICES=0", "SLICES=0: give the number of slices."),
    ],
)
def test_contradictions_are_refused_before_anything_is_created(
    launch, settings, fake, tmp_path, script, settings_of_it, sentence
):
    settings.write_text(settings.read_text() + settings_of_it + "\n")
    for name in ("gcloud", "kubectl", "gcluster"):
        path = fake(name, "exit 1")
    command = {"tpu.sh": ("create",), "gke.sh": ("apply", *FLAGS), "cluster.sh": ("deploy",)}
    code, out, err = launch(script, *command[script], **path)
    assert code == 2 and not out
    assert err.startswith("launch: ") and sentence in err and err.count("\n") == 1
    assert not (tmp_path / "calls").exists()


def test_tpu7x_is_sent_to_gke_and_gke_asks_for_the_name_of_a_reservation(launch, settings):
    mine = settings.read_text()
    settings.write_text(mine + "ACCELERATOR_TYPE=tpu7x-8\n")
    code, _, err = launch("tpu.sh", "--dry-run", "create")
    assert code == 2 and "use launch/gke.sh" in err
    settings.write_text(mine + "SPOT=false RESERVED=true\n")
    for script, command in (("gke.sh", "manifest"), ("cluster.sh", "blueprint")):
        code, _, err = launch(script, command)
        assert code == 2 and "RESERVATION, the name" in err


def test_what_is_there_is_deleted_whatever_the_settings_have_become(launch, settings):
    settings.write_text(settings.read_text() + "RESERVED=true\n")
    assert launch("tpu.sh", "--dry-run", "delete")[0] == 0
    assert launch("gke.sh", "--dry-run", "delete")[0] == 0


def test_settings_of_an_earlier_version_still_work(launch, settings):
    new = "SLICES RESERVED RESERVATION FLEX_START MAX_RUN_DURATION GKE_MACHINE GKE_AUTHORIZED"
    settings.write_text(settings.read_text() + f"unset {new}\n")
    code, out, err = launch("tpu.sh", "--dry-run", "create")
    assert code == 0, err
    assert ONE in out and "--spot" in out


def test_commands_of_several_slices_reach_every_worker(launch, settings):
    settings.write_text(settings.read_text() + "SLICES=2\n")
    code, out, err = launch("tpu.sh", "--dry-run", "supervise", *FLAGS)
    assert code == 0, err
    calls = [line for line in out.splitlines() if " ssh " in line or " scp " in line]
    assert len(calls) == 5 and "tpu-vm" not in out
    for call in calls:
        assert "queued-resources s" in call and "--worker=all" in call and "--node=all" in call


# Settings of how machines are asked for, and the label of such nodes.
CAPACITIES = {
    "SPOT=true": {"cloud.google.com/gke-spot": "true"},
    "SPOT=false": {},
    "SPOT=false RESERVATION=mine": {"cloud.google.com/reservation-name": "mine"},
    "SPOT=false FLEX_START=true MAX_RUN_DURATION=2d": {"cloud.google.com/gke-flex-start": "true"},
}


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_manifest_says_what_the_settings_say(launch, settings, capacity, slices):
    settings.write_text(settings.read_text() + f"{capacity} SLICES={slices}\n")
    flag = '--config.data_dir=/bucket/"odd" \\name'
    code, out, err = launch("gke.sh", "manifest", *FLAGS, flag)
    assert code == 0, err
    manifest = yaml.safe_load(out)
    assert manifest["kind"] == "JobSet"
    replicated = manifest["spec"]["replicatedJobs"][0]
    assert replicated["replicas"] == slices
    job = replicated["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        **CAPACITIES[capacity],
    }
    assert ("hostNetwork" in pod) == (slices > 1)
    container = pod["containers"][0]
    assert container["image"] == "host.pkg.dev/p/r/train"
    assert container["args"] == [*FLAGS, flag]
    assert container["resources"]["limits"]["google.com/tpu"] == 4
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"


TPU7X = "GKE_ACCELERATOR=tpu7x GKE_MACHINE=tpu7x-standard-4t GKE_TOPOLOGY=2x2x2 GKE_HOSTS=2"


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("chip", ["", TPU7X], ids=["v5e", "tpu7x"])
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_blueprint_says_what_the_settings_say(launch, settings, capacity, chip, slices):
    settings.write_text(settings.read_text() + f"{capacity} {chip} SLICES={slices}\n")
    code, out, err = launch("cluster.sh", "blueprint")
    assert code == 0, err
    blueprint = yaml.safe_load(out)
    assert blueprint["vars"]["region"] == "us-west4" and blueprint["vars"]["zone"] == "us-west4-a"
    (group,) = blueprint["deployment_groups"]
    modules = {module["id"]: module for module in group["modules"]}
    before = []
    for name, module in modules.items():  # Cluster Toolkit wants this order
        assert set(module.get("use", ())) <= set(before)
        before.append(name)
    pool = modules["slices"]["settings"]
    assert pool["num_slices"] == slices
    assert pool["machine_type"] == ("tpu7x-standard-4t" if chip else "ct5lp-hightpu-4t")
    topology = modules["workload-policy"]["settings"]["workload_policy"] if chip else {}
    assert topology.get("accelerator_topology") == ("2x2x2" if chip else None)
    assert ("placement_policy" in pool) == (not chip)
    assert ("spot" in pool) == (capacity == "SPOT=true")
    assert pool.get("max_run_duration") == (172800 if "FLEX" in capacity else None)
    reserved = pool.get("reservation_affinity", {}).get("specific_reservations")
    assert reserved == ([{"name": "mine"}] if "mine" in capacity else None)
    cluster = modules["cluster"]["settings"]
    assert cluster["enable_gcsfuse_csi"] and modules["jobset"]["settings"]["jobset"]["install"]
    assert cluster["master_authorized_networks"][0]["cidr_block"] == "198.51.100.7/32"


def test_a_cluster_is_made_from_the_blueprint_and_removed(launch, settings, fake, tmp_path):
    path = fake("gcluster", "")
    made = subprocess.run(
        [LAUNCH / "cluster.sh", "deploy"],
        cwd=tmp_path,
        env={**ONE_DEVICE, "SETTINGS": str(settings), **path},
        check=True,
        capture_output=True,
    )
    assert made.returncode == 0
    assert yaml.safe_load((tmp_path / "nonlocal-cluster.yaml").read_text())["blueprint_name"]
    launch("cluster.sh", "destroy", **path)
    assert calls(tmp_path) == [
        "gcluster deploy nonlocal-cluster.yaml",
        "gcluster destroy nonlocal",
    ]
