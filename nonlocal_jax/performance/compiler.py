"""Compiles a step with the TPU's compiler, without generating machine code.

The compiler first decides what a plan needs: how arrays are split, what is fused, which collectives
run, in which order, and where each array is in memory. It can write this to files. Then it
generates machine code, which takes about fifty times as long. So it runs in a process of its own,
which is ended once these files are complete.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
from typing import Any

import jax

from nonlocal_jax.config.schema import Mesh, Run
from nonlocal_jax.errors import UserError
from nonlocal_jax.performance import chips, flops, hlo, steps
from nonlocal_jax.performance.chips import Slice
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.environment import source_digest
from nonlocal_jax.runtime.files import write_whole

STEPS = {"train": steps.train, "eval": steps.evaluation}
# The files that the compiler writes last before it generates code; those of CPU programs differ.
PROGRAM = "*.after_optimizations_after_buffer_assignment.txt"
BUFFERS = "*.after_optimizations-buffer-assignment.txt"
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # this process only compiles
    "TPU_SKIP_MDS_QUERY": "1",  # there is no TPU to query
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
}
POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiled program of a step, for each device.

    Attributes:
      fits: False if the compiler found no place for it in the chip's memory.
      needed: bytes of memory (HBM).
      parts: bytes of parameters (with statistics), optimizer, batch, outputs, temporaries.
      flops: operations of convolutions and products; a multiplication and an addition are two.
      traffic: bytes to and from memory.
      collectives: inside a slice, by kind.
      transfers: what goes to other slices, by kind.
    """

    fits: bool
    needed: int
    parts: dict[str, int]
    flops: float
    traffic: int = 0
    collectives: tuple[hlo.Collective, ...] = ()
    transfers: tuple[hlo.Collective, ...] = ()


def compile_step(
    config: Run, a_slice: Slice, mesh: dict[str, int], step: str, cache: pathlib.Path
) -> Compiled:
    """Compiles a config's "train" or "eval" step, or finds it in the folder `cache`.

    Args:
      config: of the run.
      a_slice: where it is to run.
      mesh: sizes of the mesh's axes.
      step: which of the two.
      cache: for results of this function; it may not exist yet.

    Raises:
      UserError: the compiler is missing, or refuses the program for another reason than memory.
    """
    chips.check_compiler()
    config = _program_config(config)
    file = cache / f"{_key(config, a_slice, mesh, step)}.json"
    if file.is_file():
        return _from_json(json.loads(file.read_text()))
    with tempfile.TemporaryDirectory() as folder:
        compiled = _in_child(config, a_slice, mesh, step, pathlib.Path(folder))
    write_whole(file, json.dumps(dataclasses.asdict(compiled)))
    return compiled


def _program_config(config: Run) -> Run:
    """The settings that the program depends on: not those of schedules and files."""
    none = type(config.published)()
    return dataclasses.replace(
        config, total_steps=1000, seed=0, init_from="", data_dir="", published=none
    )


def _key(config: Run, a_slice: Slice, mesh: dict[str, int], step: str) -> str:
    versions = [importlib.metadata.version(name) for name in ("jax", "libtpu")]
    facts = (config, str(a_slice), mesh, step, versions, source_digest())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _from_json(content: dict[str, Any]) -> Compiled:
    for part in ("collectives", "transfers"):
        content[part] = tuple(hlo.Collective(**kind) for kind in content[part])
    return Compiled(**content)


def _in_child(
    config: Run, a_slice: Slice, mesh: dict[str, int], step: str, folder: pathlib.Path
) -> Compiled:
    arguments = (config, a_slice, mesh, step, folder)
    child = multiprocessing.get_context("spawn").Process(
        target=_compile, args=arguments, daemon=True
    )
    child.start()
    try:
        while child.is_alive() and not list(folder.glob(PROGRAM)):
            child.join(POLL_SECONDS)
        # The files before this one are whole, and this one takes well under a second.
        child.join(1.0)
    finally:
        child.kill()
        child.join()
    return _read(a_slice, step, folder)


def _read(a_slice: Slice, step: str, folder: pathlib.Path) -> Compiled:
    """The result of a child process."""
    output = (folder / "output.txt").read_text(errors="replace")
    traced = folder / "traced.json"
    facts = json.loads(traced.read_text()) if traced.exists() else {}
    out_of_memory = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", output)
    if out_of_memory and facts:
        needed = float(out_of_memory[1]) * 1024 ** (" KMGT".index(out_of_memory[2]))
        return Compiled(False, int(needed), facts["state"], facts["flops"] / a_slice.devices)
    programs = list(folder.glob(PROGRAM))
    if not programs or not facts:
        raise UserError(
            f"The TPU's compiler did not get through the {step} step for {a_slice}; the end "
            f"of what it said:\n{output[-2000:]}"
        )
    (buffers,) = programs[0].parent.glob(BUFFERS)
    sizes = hlo.buffers(buffers.read_text())
    state = facts["state"] if step == "train" else {"parameters": facts["state"]["parameters"]}
    program = hlo.Program(programs[0].read_text())
    return Compiled(
        fits=True,
        needed=sum(sizes.values()),
        parts={
            **state,
            "batch": max(sizes["arguments"] - sum(state.values()), 0),
            "outputs": sizes["outputs"],
            "temporaries": sizes["temporaries"],
        },
        flops=facts["flops"] / a_slice.devices,
        traffic=hlo.traffic(program),
        collectives=tuple(hlo.collectives(program)),
        transfers=tuple(hlo.transfers(program)),
    )


def _compile(
    config: Run, a_slice: Slice, mesh: dict[str, int], step: str, folder: pathlib.Path
) -> None:
    """In the child: traces the step, writes its properties, and compiles it."""
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    os.environ.update(ENVIRONMENT)
    dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump}"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # it can't read what it writes here
    made = sharding.make_mesh(Mesh(**mesh), chips.devices(a_slice))
    traced = STEPS[step](config, made)
    lowered = traced.lower()
    facts = {"flops": flops.count(traced.jaxpr.jaxpr), "state": steps.state_bytes(config, made)}
    (folder / "traced.json").write_text(json.dumps(facts))
    lowered.compile()
