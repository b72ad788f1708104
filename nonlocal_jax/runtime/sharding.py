"""The mesh of devices, and the shardings of all arrays.

The axis `data` splits the batch, `fsdp` the batch and the variables, `spatial` the height of
images. Of several TPU slices, the outer part of `data` goes over the slices, whose network is slow
(DCN). All else stays inside a slice, on its own links (ICI).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.ops.layout import IMAGE_AXES, ROW_AXIS, gather

Batch = dict[str, jax.Array]
AXES = ("data", "fsdp", "spatial")
SMALL = 4096  # elements; every device holds smaller arrays, so they are not gathered in each step


def make_mesh(axes: schema.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices of all hosts.

    Args:
      axes: devices along each axis; -1 takes those that the other axes leave.
      devices: others to use instead, such as those of a described slice.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or do not fit its slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(axes, len(devices))
    # With explicit axes, jax.make_mesh's default, convolutions would need output shardings.
    types = (AxisType.Auto,) * len(AXES)
    slices = slices_of(devices)
    if slices == 1:
        return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=types, devices=devices)
    try:
        inner = inside_slice(sizes, slices)
    except UserError:
        # JAX takes the nodes of GPUs for slices, too, where any axis may go over nodes.
        if devices[0].platform == "tpu":
            raise
        arranged = mesh_utils.create_device_mesh(tuple(sizes.values()), devices)
    else:
        arranged = mesh_utils.create_hybrid_device_mesh(
            tuple(inner.values()),
            tuple(slices if axis == "data" else 1 for axis in AXES),
            devices,
            allow_split_physical_axes=True,
        )
    return Mesh(arranged, AXES, axis_types=types)


def slices_of(devices: Sequence[jax.Device]) -> int:
    """How many TPU slices the devices belong to; 1 where JAX knows of none."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def inside_slice(sizes: dict[str, int], slices: int) -> dict[str, int]:
    """Devices along each axis inside one of several slices, of a mesh of these sizes.

    Raises:
      UserError: the slices do not divide `data`.
    """
    if sizes["data"] % slices:
        each = math.prod(sizes.values()) // slices
        raise UserError(
            f"config.mesh = {sizes} does not fit {slices} slices of {each} devices: only data goes "
            f"over slices, so data must be a multiple of {slices}, and fsdp times spatial must "
            f"divide {each}."
        )
    return {**sizes, "data": sizes["data"] // slices}


def mesh_sizes(axes: schema.Mesh, count: int) -> dict[str, int]:
    """Devices along each axis, for `count` devices.

    Raises:
      UserError: the sizes do not multiply to that number.
    """
    given = dataclasses.asdict(axes)
    known = math.prod(size for size in given.values() if size > 0)
    sizes = {axis: size if size > 0 else count // known for axis, size in given.items()}
    if list(given.values()).count(-1) > 1 or math.prod(sizes.values()) != count:
        raise UserError(
            f"config.mesh = {given} does not fit {count} devices: its sizes must multiply to "
            f"{count}; one may be -1 for what the others leave."
        )
    return sizes


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def variable_shardings(mesh: Mesh, arrays: Any) -> Any:
    """The shardings of variables, or of a whole training state.

    An array is split over `fsdp` along the largest axis that divides evenly, the last one of equal
    ones. Every device holds the small arrays, such as statistics.
    """
    return jax.tree.map(
        lambda array: NamedSharding(mesh, _variable_spec(array.shape, mesh.shape["fsdp"])), arrays
    )


def place_variables(arrays: Any, mesh: Mesh) -> Any:
    """Puts variables, or a whole training state, on the mesh. Every host has all of them."""
    return jax.device_put(arrays, variable_shardings(mesh, arrays))


def gathered(variables: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Gathers variables, and splits their gradients again, inside a jitted function on a mesh.

    Otherwise XLA might gather the features of the images instead.
    """
    parts = jax.sharding.get_abstract_mesh().shape.get("fsdp", 1)
    if parts == 1:
        return variables
    return {
        name: gather(value, P(), _variable_spec(value.shape, parts))
        for name, value in variables.items()
    }


def image_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """The sharding of an array of a batch, [n, height, width, ...].

    Images are split over `data` and `fsdp`. Rows are split over `spatial` if they divide evenly, as
    is required of arrays from hosts. Otherwise the network splits them.
    """
    has_rows = len(shape) > 2 and shape[1] % mesh.shape[ROW_AXIS] == 0
    return NamedSharding(mesh, P(IMAGE_AXES, ROW_AXIS) if has_rows else P(IMAGE_AXES))


def check_batch_size(mesh: Mesh, batch_size: int, name: str) -> None:
    """Raises a UserError if a global batch can't be split evenly over the mesh."""
    parts = _groups(mesh)
    if batch_size % parts:
        raise UserError(
            f"{name} is {batch_size}, which does not split over {parts} groups of devices; make it "
            f"a multiple of {parts}, or set config.mesh.spatial."
        )


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The images of a global batch that this process loads: those that its devices hold.

    Processes whose devices share images over `spatial` load the same ones.
    """
    each = batch_size // _groups(mesh)
    return [group * each + i for group in _local_groups(mesh) for i in range(each)]


def abstract_batch(
    mesh: Mesh, batch: dict[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of some shapes and dtypes, with its shardings, to compile for."""
    return {
        name: jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=image_sharding(mesh, array.shape)
        )
        for name, array in batch.items()
    }


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """Global arrays on the mesh from this process's images of a global batch, `local_rows`."""
    return {name: put_images(array, mesh) for name, array in batch.items()}


def put_images(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """A global array from this process's images of one array of a batch, `local_rows`."""
    groups = _local_groups(mesh)
    each = len(array) // len(groups)
    shape = (each * _groups(mesh), *array.shape[1:])

    def held(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # JAX asks for local devices only
        start = groups.index((index[0].start or 0) // each) * each
        return array[(slice(start, start + each), *index[1:])]

    return jax.make_array_from_callback(shape, image_sharding(mesh, shape), held)


def _variable_spec(shape: tuple[int, ...], parts: int) -> P:
    dividing = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or int(np.prod(shape)) < SMALL or not dividing:
        return P()
    largest = max(dividing, key=lambda axis: (shape[axis], axis))
    return P(*[None] * largest, "fsdp")


def _groups(mesh: Mesh) -> int:
    """The number of parts of a batch. Devices that share a part split its images over `spatial`."""
    return int(mesh.shape["data"] * mesh.shape["fsdp"])


def _local_groups(mesh: Mesh) -> list[int]:
    """The parts of a batch that this process's devices hold."""
    devices = mesh.devices.reshape(_groups(mesh), -1)
    mine = jax.process_index()
    return [
        group
        for group, members in enumerate(devices)
        if any(device.process_index == mine for device in members)
    ]
