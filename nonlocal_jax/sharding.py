"""Devices as a mesh, and where on it every array lives.

Axes: `data` splits the batch, `fsdp` the batch and the parameters, `spatial` the image height.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nonlocal_jax.errors import UserError

Batch = dict[str, jax.Array]
AXES = ("data", "fsdp", "spatial")
BATCH = ("data", "fsdp")


def make_mesh(*, data: int = -1, fsdp: int = 1, spatial: int = 1) -> Mesh:
    """A mesh over all devices of all hosts; -1 takes the devices that the other axes leave.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    sizes = {"data": data, "fsdp": fsdp, "spatial": spatial}
    count = jax.device_count()
    known = int(np.prod([size for size in sizes.values() if size > 0]))
    if min(sizes.values()) < 1 and count % known == 0:
        sizes = {axis: size if size > 0 else count // known for axis, size in sizes.items()}
    if list(sizes.values()).count(-1) or int(np.prod(list(sizes.values()))) != count:
        raise UserError(
            f"config.mesh = {sizes} does not fit {count} devices: its sizes must multiply to "
            f"{count}; one may be -1 for what the others leave."
        )
    # Explicit axes, jax.make_mesh's default, would ask convolutions for their output shardings.
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices of `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH))


def check_batch_size(mesh: Mesh, batch_size: int, name: str) -> None:
    """Raises a UserError if a global batch can't be split evenly over the mesh."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise UserError(
            f"{name} is {batch_size}, which does not split over {parts} groups of devices; make it "
            f"a multiple of {parts}, or set config.mesh.spatial."
        )


def abstract_batch(
    mesh: Mesh, batch_size: int, crop_size: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of a training batch, to compile for."""
    sharding = batch_sharding(mesh)
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *crop_size, 3), np.uint8, sharding=sharding),
        "label": jax.ShapeDtypeStruct((batch_size, *crop_size), np.uint8, sharding=sharding),
        "size": jax.ShapeDtypeStruct((batch_size, 2), np.int32, sharding=sharding),
    }


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """This host's part of a global batch as global arrays on the mesh."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
