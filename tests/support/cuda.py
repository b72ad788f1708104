"""What a GPU is given, on any machine: programs that are lowered for CUDA, and not compiled."""

import contextlib
import dataclasses
import re

import jax

H200 = {"device_kind": "NVIDIA H200", "num_cores": 132, "platform": "gpu"}


def lowered(function, *arguments):
    """The StableHLO of a function, with the GPU's branches."""
    with _described():
        traced = jax.jit(function).trace(*arguments)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


@contextlib.contextmanager
def _described():
    """JAX from 0.11 on asks which GPU kernels are for; to the package it is one device."""
    fields = {field.name for field in dataclasses.fields(jax.sharding.AbstractDevice)}
    if "platform" not in fields:
        yield
        return
    device = jax.sharding.AbstractDevice(**H200)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("data",), auto, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        yield


def operations(program, name):
    """The lines of an operation of StableHLO."""
    pattern = rf'= "?stablehlo\.{name}\b'
    return [line.strip() for line in program.splitlines() if re.search(pattern, line)]
