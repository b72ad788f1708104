"""A run of several processes: joining, checking that they agree, and leaving.

The processes of a run end with one of these codes, by which launch/ restarts them.

    0    done
    2    something a person has to change: the message says what
    75   preempted, and saved: start the same command again
    130  interrupted from the keyboard
    1    an error of the program; 134 or 137, killed: another process, or the machine, is gone
"""

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import platform
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from nonlocal_jax.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError, lost_peer
from nonlocal_jax.inputs.datasets.dataset import SPLITS
from nonlocal_jax.inputs.example import Source
from nonlocal_jax.runtime import cluster as clusters
from nonlocal_jax.runtime import environment
from nonlocal_jax.runtime.cluster import Cluster

# Keys of the config that may differ between hosts: they do not change what is computed.
PER_HOST = ("data_dir", "data.num_threads", "data.num_workers", "data.source")
SAMPLES = 8  # examples of a split in its fingerprint
SHARED_SECONDS = 10.0  # network file systems show the files of other hosts after a while
LAST_WORD_SECONDS = 1.0
PROBLEM = "problem"

Facts = dict[str, str]
T = TypeVar("T")


@contextlib.contextmanager
def session(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    join_timeout: float = 300.0,
) -> Iterator[None]:
    """Joins this process with the others of its run, if there are any.

    Enter it before anything uses a device. An exception inside ends the process at once. Otherwise
    JAX would wait for the other processes for minutes, which wait for this one.

    Args:
      coordinator: HOST:PORT of process 0; found out on Cloud TPU, GKE and SLURM.
      num_processes: how many processes the run has.
      process_id: which of them this is, from 0.
      join_timeout: seconds to wait for the other processes.

    Raises:
      UserError: not all processes came, or the arguments make no sense.
    """
    if not 0 < join_timeout < math.inf:
        raise UserError(f"--join_timeout is {join_timeout}; it must be a number of seconds.")
    cluster = _cluster(coordinator, num_processes, process_id)
    if cluster is None or cluster.num_processes == 1:
        yield
        return
    join(cluster, join_timeout)
    try:
        yield
    except UserError as error:
        _leave(f"nonlocal_jax, {_me()}: {error}", EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _leave("Interrupted.", EXIT_INTERRUPTED)
    except Exception as error:
        lost = lost_peer(error)
        if lost is None:
            _leave(f"nonlocal_jax, {_me()}:\n{traceback.format_exc()}", EXIT_ERROR)
        _leave(
            f"nonlocal_jax, {_me()}: lost the connection to another process; it, its machine or "
            "the network is gone, and its own output may say why. Start all of them again: the run "
            f"resumes from its newest checkpoint. ({lost})",
            EXIT_ERROR,
        )


def join(cluster: Cluster, timeout: float) -> None:
    """Connects this process with the others of `cluster`.

    Raises:
      UserError: some have not come after `timeout` seconds; the message names them.
    """
    clusters.roll_call(cluster, timeout)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=cluster.coordinator,
        num_processes=cluster.num_processes,
        process_id=cluster.process_id,
        local_device_ids=cluster.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=round(timeout),
    )


def check_agreement(settings: Mapping[str, object], open_source: Callable[[str], Source]) -> None:
    """Checks that all processes have the same config, code, packages and data.

    Args:
      settings: of the config, by dotted key.
      open_source: opens a split of the data set by its name. If it raises a UserError, all
        processes report it.

    Raises:
      UserError: lists the differences by process; all processes raise the same.
    """
    if jax.process_count() == 1:
        return
    mine = {"host": platform.node(), **_config_facts(settings), **_code_facts()}
    try:
        for split in SPLITS:
            mine[f"the data of {split}"] = fingerprint(open_source(split))
    except UserError as error:
        mine[PROBLEM] = str(error)
    _raise_differences(_gather(mine))


def check_shared(directory: pathlib.Path) -> None:
    """Checks that all processes see the same folder, to which each writes its part of checkpoints.

    Args:
      directory: the folder; it is created if it does not exist.

    Raises:
      UserError: a process sees another folder or none, or it can't be written.
    """
    if jax.process_count() == 1:
        return
    marker = directory / ".shared"
    first = {"host": platform.node(), "token": uuid.uuid4().hex}
    if jax.process_index() == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            marker.write_text(first["token"])
        except OSError as error:
            first[PROBLEM] = f"{directory} can't be written: {error.strerror}."
    everyone = _gather(first)
    if PROBLEM not in everyone[0] and not _holds(marker, everyone[0]["token"]):
        first[PROBLEM] = (
            f"{directory} is not the folder that process 0 ({everyone[0]['host']}) sees. Choose a "
            "--workdir on a file system that all hosts share."
        )
    everyone = _gather(first)
    if jax.process_index() == 0:
        marker.unlink(missing_ok=True)
    _raise_problems(everyone)


def by_first(action: Callable[[], T]) -> T:
    """Runs an action in process 0, and returns its result in all processes.

    Args:
      action: returns what JSON can hold.

    Raises:
      UserError: `action` raised it; all processes raise the same.
    """
    if jax.process_count() == 1:
        return action()
    told: Facts = {}
    if jax.process_index() == 0:
        try:
            told["result"] = json.dumps(action())
        except UserError as error:
            told[PROBLEM] = str(error)
    first = _gather(told)[0]
    if PROBLEM in first:
        raise UserError(first[PROBLEM])
    result: T = json.loads(first["result"])
    return result


def fingerprint(examples: Source) -> str:
    """The number of examples, and a digest of the names and labels of a few of them."""
    digest = hashlib.sha256()
    count = len(examples)
    for index in np.linspace(0, max(count - 1, 0), min(SAMPLES, count), dtype=int):
        try:
            example = examples[int(index)]
        except UserError:
            digest.update(b"unreadable")
        else:
            digest.update(example.name.encode() + example.label.tobytes())
    return f"{count} examples {digest.hexdigest()[:12]}"


def _cluster(coordinator: str | None, count: int | None, process_id: int | None) -> Cluster | None:
    """The cluster of the flags or, without flags, of the environment."""
    if count == 1:
        return None
    if count is not None and count < 1:
        raise UserError(f"--num_processes is {count}; it must be at least 1.")
    given = [value is not None for value in (coordinator, count, process_id)]
    if coordinator is not None and count is not None and process_id is not None:
        if not 0 <= process_id < count:
            raise UserError(
                f"--process_id is {process_id}; it must be from 0 to --num_processes - 1, "
                f"{count - 1}."
            )
        return Cluster(coordinator, count, process_id)
    if any(given):
        raise UserError("--coordinator, --num_processes and --process_id go together: give all.")
    return clusters.find()


def _me() -> str:
    return f"process {jax.process_index()} ({platform.node()})"


def _leave(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    for child in multiprocessing.active_children():  # os._exit would leave them running
        child.kill()
    if jax.process_index() == 0:  # it holds the connections; the others abort without it
        time.sleep(LAST_WORD_SECONDS)
    os._exit(code)


def _config_facts(settings: Mapping[str, object]) -> Facts:
    return {f"config.{key}": str(v) for key, v in settings.items() if key not in PER_HOST}


def _code_facts() -> Facts:
    versions = {f"the version of {name}": v for name, v in environment.versions().items()}
    return {"the code of nonlocal_jax": environment.source_digest()[:12], **versions}


def _gather(mine: Facts) -> list[Facts]:
    """The facts of all processes, by process."""
    text = json.dumps(mine).encode()
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(text)))))
    padded = np.frombuffer(text.ljust(longest), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row.tobytes()) for row in rows]


def _raise_differences(everyone: Sequence[Facts]) -> None:
    _raise_problems(everyone)
    lines = []
    for key in sorted(set().union(*everyone) - {"host"}):
        holders: dict[str, list[int]] = {}
        for process_id, facts in enumerate(everyone):
            holders.setdefault(facts.get(key, "missing"), []).append(process_id)
        if len(holders) > 1:
            parts = [f"{value} on {_names(ids, everyone)}" for value, ids in holders.items()]
            lines.append(f"  {key} is {'; '.join(parts)}")
    if lines:
        raise UserError(
            "The processes of this run differ:\n" + "\n".join(lines) + "\nStart all of them with "
            "the same command, code, packages and data."
        )


def _raise_problems(everyone: Sequence[Facts]) -> None:
    holders: dict[str, list[int]] = {}
    for process_id, facts in enumerate(everyone):
        if PROBLEM in facts:
            holders.setdefault(facts[PROBLEM], []).append(process_id)
    if holders:
        lines = [f"On {_names(ids, everyone)}: {problem}" for problem, ids in holders.items()]
        raise UserError("\n".join(lines))


def _names(process_ids: Sequence[int], everyone: Sequence[Mapping[str, str]]) -> str:
    if len(process_ids) == len(everyone):
        return "all processes"
    if len(process_ids) > 4:
        return f"{len(process_ids)} processes"
    return ", ".join(f"process {p} ({everyone[p]['host']})" for p in process_ids)


def _holds(file: pathlib.Path, token: str) -> bool:
    """Whether the file appears with this text within SHARED_SECONDS."""
    deadline = time.monotonic() + SHARED_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if file.read_text() == token:
                return True
        time.sleep(0.2)
    return False
