"""Copies of arrays that are overwritten at once, on one device and on eight in every sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from sharded import mesh_of

from nonlocal_jax.checkpoints import copies
from nonlocal_jax.checkpoints.copies import copied, parted
from nonlocal_jax.runtime import sharding

SHAPES = {
    "kernel": (3, 3, 256, 256),
    "classifier": (512, 21),
    "bias": (150,),
    "scale": (64,),
    "n": (),
}
MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "data and fsdp": (2, 4, 1), "spatial": (2, 2, 2)}
PLACES = ["one", *(pytest.param(mesh, marks=pytest.mark.devices(8)) for mesh in MESHES)]


def state(place):
    """Arrays, their values, and a program that overwrites what it is given."""
    values = {
        name: np.random.default_rng(len(name)).standard_normal(shape, np.float32)
        for name, shape in SHAPES.items()
    }
    if place == "one":
        places = dict.fromkeys(SHAPES, SingleDeviceSharding(jax.devices()[0]))
    else:
        places = sharding.variable_shardings(mesh_of(*MESHES[place]), values)
    arrays = jax.device_put(values, places)
    overwrite = jax.jit(
        lambda tree: jax.tree.map(lambda x: x * 0 - 7, tree), donate_argnums=0, out_shardings=places
    )
    return arrays, values, overwrite


@pytest.mark.parametrize("place", PLACES)
def test_what_is_overwritten_at_once_is_copied_as_it_was(place):
    arrays, values, overwrite = state(place)
    overwritten = overwrite(jax.device_put(values, jax.tree.map(lambda x: x.sharding, arrays)))
    for _ in range(20):
        copy = copied(arrays)
        overwritten = overwrite(arrays)
        assert arrays["kernel"].is_deleted()
        jax.tree.map(np.testing.assert_array_equal, copy, values)
        assert float(np.asarray(overwritten["kernel"])[0, 0, 0, 0]) == -7
        arrays = jax.device_put(values, jax.tree.map(lambda x: x.sharding, overwritten))


def addresses(array):
    return {part.data.unsafe_buffer_pointer() for part in array.addressable_shards}


@pytest.mark.parametrize("place", PLACES)
def test_no_copy_shares_memory_with_its_original(place):
    arrays, _, _ = state(place)
    for name, copy in copied(arrays).items():
        assert not addresses(copy) & addresses(arrays[name]), name


def test_one_device_needs_none_of_its_memory():
    arrays, _, _ = state("one")
    assert {x.sharding.memory_kind for x in copied(arrays).values()} == {"pinned_host"}


@pytest.mark.devices(8)
@pytest.mark.parametrize("place", MESHES)
def test_eight_devices_share_the_work_and_send_nothing(place):
    arrays, _, _ = state(place)
    copy = copied(arrays)
    for name in ("kernel", "classifier", "scale"):  # an axis divides by eight
        parts = [part.index for part in copy[name].addressable_shards]
        assert len({str(part) for part in parts}) == 8, name
    assert copy["bias"].sharding == arrays["bias"].sharding
    leaves = jax.tree.leaves(arrays)
    program = copies._copying(tuple(parted(x.sharding, x.shape) for x in leaves))
    text = program.lower(leaves).compile().as_text()
    assert not [word for word in ("all-", "collective", "send", "recv") if f" {word}" in text]
    assert "copy" in text or "slice" in text


@pytest.mark.devices(8)
def test_the_parts_of_a_sharding_are_split_further():
    mesh = mesh_of(2, 2, 2)

    def found(spec, shape):
        return parted(NamedSharding(mesh, spec), shape).spec

    assert found(P(), (3, 24)) == P(None, ("data", "fsdp", "spatial"))
    assert found(P(None, "fsdp"), (3, 24)) == P(None, ("fsdp", "data", "spatial"))
    assert found(P("fsdp"), (6, 8)) == P("fsdp", ("data", "spatial"))
    assert found(P("fsdp"), (6, 7)) == P("fsdp")
    assert found(P(), ()) == P() and found(P(), (0, 3)) == P()
    assert found(P(("data", "fsdp", "spatial")), (8,)) == P(("data", "fsdp", "spatial"))
    assert isinstance(copied(jnp.zeros(3)).sharding, SingleDeviceSharding)
