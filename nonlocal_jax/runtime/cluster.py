"""The processes of a run, and a check that all of them have started.

If a process is missing, JAX aborts the others without naming it. So the processes check first, on
the port that JAX uses afterwards.
"""

import importlib.util
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

import jax  # sets TPU_SKIP_MDS_QUERY on machines without TPU chips  # noqa: F401

from nonlocal_jax.errors import UserError

TPU_PORT = 8482
SLURM_PORTS = range(61440, 65536)  # chosen by job, so two jobs on a node do not collide
SLURM_NUMBERS = ("SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
RETRY_SECONDS = 0.5
ANSWER_SECONDS = 10.0


class Cluster(NamedTuple):
    """The processes of a run.

    Attributes:
      coordinator: "host:port" that process 0 listens on.
      num_processes: number of processes.
      process_id: number of this process, from 0.
      hosts: host of each process, or its place in several slices; empty if unknown.
      local_devices: the devices of the machine that this process uses; None for all.
    """

    coordinator: str
    num_processes: int
    process_id: int
    hosts: tuple[str, ...] = ()
    local_devices: tuple[int, ...] | None = None

    def name(self, process_id: int) -> str:
        """A process in messages: "process 3 (10.0.0.7)"."""
        where = f" ({self.hosts[process_id]})" if self.hosts else ""
        return f"process {process_id}{where}"


def find() -> Cluster | None:
    """The cluster that the environment describes: GKE, SLURM or Cloud TPU; None if there is none.

    Raises:
      UserError: the description can't be parsed.
    """
    return _from_gke() or _from_slurm() or _from_cloud_tpu()


def roll_call(cluster: Cluster, timeout: float) -> None:
    """Waits until all processes have started. Returns in all of them at about the same time.

    Args:
      cluster: of more than one process.
      timeout: seconds to wait for the others.

    Raises:
      UserError: processes are missing; the message names them. Or process 0 could not listen.
    """
    host, _, port = cluster.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator is {cluster.coordinator!r}; it must be HOST:PORT.")
    deadline = time.monotonic() + timeout
    if cluster.process_id == 0:
        problem = _take_the_roll(cluster, int(port), deadline)
    else:
        problem = _answer_the_roll(cluster, (host.strip("[]"), int(port)), deadline)
    if problem:
        raise UserError(
            f"{problem} (waited {timeout:.0f} s, --join_timeout). Look at the output there: does "
            f"the same command run, and is {cluster.coordinator} reachable from there?"
        )


def _take_the_roll(cluster: Cluster, port: int, deadline: float) -> str:
    """Process 0: waits for the others, and sends them the problem. Returns it; empty if none."""
    callers: dict[int, socket.socket] = {}
    try:
        listener = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET,
            dualstack_ipv6=socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise UserError(
            f"{cluster.name(0)} can't listen on port {port} ({error.strerror}). If an earlier run "
            "still holds it, end that one; or choose another port with --coordinator."
        ) from error
    with listener:
        while len(callers) < cluster.num_processes - 1 and time.monotonic() < deadline:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                caller, _ = listener.accept()
            except TimeoutError:
                break
            process_id = _read_number(caller, cluster.num_processes)
            if process_id:
                callers[process_id] = caller  # a restarted process calls again
    missing = [p for p in range(1, cluster.num_processes) if p not in callers]
    problem = _absence(cluster, missing)
    for caller in callers.values():
        with caller:
            caller.sendall(json.dumps({"problem": problem}).encode() + b"\n")
    return problem


def _absence(cluster: Cluster, missing: list[int]) -> str:
    if not missing:
        return ""
    names = ", ".join(cluster.name(process_id) for process_id in missing)
    return f"{len(missing)} of {cluster.num_processes} processes never joined: {names}"


def _read_number(caller: socket.socket, num_processes: int) -> int:
    """The number of the calling process; 0 for any other caller, because process 0 never calls."""
    caller.settimeout(ANSWER_SECONDS)
    try:
        call = json.loads(caller.makefile("rb").readline(100))
        process_id = int(call["nonlocal_jax_process"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0
    return process_id if 0 < process_id < num_processes else 0


def _answer_the_roll(cluster: Cluster, address: tuple[str, int], deadline: float) -> str:
    """Calls process 0 until it answers. Returns the problem; empty if none."""
    silence = f"{cluster.name(0)} never answered at {cluster.coordinator}"
    while True:
        try:
            with socket.create_connection(address, timeout=ANSWER_SECONDS) as connection:
                call = json.dumps({"nonlocal_jax_process": cluster.process_id})
                connection.sendall(call.encode() + b"\n")
                # Process 0 answers at its own deadline, which may be later than this one.
                connection.settimeout(deadline - time.monotonic() + ANSWER_SECONDS)
                answer = connection.makefile("rb").readline()
                return json.loads(answer)["problem"] if answer else silence
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                return silence
            time.sleep(RETRY_SECONDS)


def _from_gke() -> Cluster | None:
    """The cluster of one or several TPU slices on GKE."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    number = os.environ.get("TPU_WORKER_ID")
    if number is None or not hosts[0] or not _tpu_wanted():
        return None
    return _over_slices(tuple(hosts), _whole("TPU_WORKER_ID", number), os.environ)


def _over_slices(hosts: tuple[str, ...], number: int, told: Mapping[str, str]) -> Cluster:
    """The cluster of worker `number` of a slice with these hosts.

    With several slices, `told` has MEGASCALE_NUM_SLICES, MEGASCALE_SLICE_ID and
    MEGASCALE_COORDINATOR_ADDRESS. Processes are numbered slice by slice, as JAX does.
    """
    slices = _whole("MEGASCALE_NUM_SLICES", told.get("MEGASCALE_NUM_SLICES") or "1")
    if slices == 1:
        return Cluster(f"{hosts[0]}:{TPU_PORT}", len(hosts), number, hosts)
    try:
        own = _whole("MEGASCALE_SLICE_ID", told["MEGASCALE_SLICE_ID"])
        first = told["MEGASCALE_COORDINATOR_ADDRESS"]
    except KeyError as error:
        raise UserError(
            f"MEGASCALE_NUM_SLICES is {slices}, but {error} is not set, so the other slices are "
            "unknown. Give --coordinator, --num_processes and --process_id."
        ) from error
    # The addresses of other slices are unknown.
    names = (f"slice {s}, worker {w}" for s in range(slices) for w in range(len(hosts)))
    process_id = own * len(hosts) + number
    coordinator = f"{first.partition(':')[0]}:{TPU_PORT}"
    return Cluster(coordinator, slices * len(hosts), process_id, tuple(names))


def _from_slurm() -> Cluster | None:
    """The cluster of a task of srun; None in a shell of sbatch or salloc."""
    if any(name not in os.environ for name in (*SLURM_NUMBERS, "SLURM_STEP_NODELIST")):
        return None
    nodes = _expand_nodelist(os.environ["SLURM_STEP_NODELIST"])
    job, tasks, number, local = (
        _whole(name, os.environ.get(name, "0")) for name in (*SLURM_NUMBERS, "SLURM_LOCALID")
    )
    coordinator = f"{nodes[0]}:{SLURM_PORTS[job % len(SLURM_PORTS)]}"
    if tasks == len(nodes):  # a single task on a node uses all its devices
        return Cluster(coordinator, tasks, number, tuple(nodes))
    return Cluster(coordinator, tasks, number, local_devices=(local,))


def _whole(name: str, text: str) -> int:
    """A number of the environment.

    Raises:
      UserError: it is none.
    """
    if not text.strip().isdecimal():
        raise UserError(
            f"{name} is {text!r} in the environment; it must be a whole number. Unset it, or give "
            "--coordinator, --num_processes and --process_id."
        )
    return int(text)


def _expand_nodelist(nodelist: str) -> list[str]:
    """The nodes of a list like "gpu[001-003,007],login"."""
    part = r"([^,\[\]]+)(?:\[([\d,-]+)\])?"
    if not re.fullmatch(f"{part}(,{part})*", nodelist):
        raise UserError(
            f"SLURM_STEP_NODELIST={nodelist} can't be understood; give --coordinator, "
            "--num_processes and --process_id."
        )
    nodes = []
    for prefix, ranges in re.findall(part, nodelist):
        for item in ranges.split(","):
            first, _, last = item.partition("-")
            numbers = range(int(first), int(last or first) + 1) if first else []
            nodes += [f"{prefix}{number:0{len(first)}}" for number in numbers] or [prefix]
    return nodes


def _from_cloud_tpu() -> Cluster | None:
    """The cluster of a Cloud TPU VM, of one or several slices, from its metadata server."""
    if "TPU_SKIP_MDS_QUERY" in os.environ or not _tpu_wanted():
        return None
    if importlib.util.find_spec("libtpu") is None:
        return None
    # Each worker is "host", or "name:number:address" from older servers.
    workers = _metadata("worker-network-endpoints").split(",")
    hosts = tuple(worker.split(":")[-1] for worker in workers)
    number = _whole("agent-worker-number", _metadata("agent-worker-number"))
    lines = re.findall(r"^(MEGASCALE_\w+): '?(.*?)'?$", _metadata("tpu-env", ""), re.MULTILINE)
    return _over_slices(hosts, number, {**dict(lines), **os.environ})


def _tpu_wanted() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return not platforms or "tpu" in platforms


def _metadata(key: str, without: str | None = None) -> str:
    """What the metadata server says of this machine; `without` if it has nothing of that name."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{key}",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode().strip()
            return text
    except (urllib.error.URLError, OSError) as error:
        if without is not None and getattr(error, "code", None) == 404:
            return without
        raise UserError(
            f"The Cloud TPU metadata server does not tell {key} ({error}), so the other hosts are "
            "unknown. Give --coordinator, --num_processes and --process_id; a machine that is "
            "alone takes --num_processes=1."
        ) from error
