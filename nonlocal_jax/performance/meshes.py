"""The mesh of a config on the devices of slices."""

import dataclasses
import math
from typing import NamedTuple

from nonlocal_jax.config.schema import Config, Run
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import sharding


class Layout(NamedTuple):
    """Sizes of the axes of a mesh, and why they differ from the config; empty if they do not."""

    sizes: dict[str, int]
    note: str = ""


def choose(config: Run, devices: int, slices: int = 1) -> Layout:
    """The config's mesh on this many devices, or another one if the batch is too small for it.

    In the other one, `data` is the largest number that divides batch and devices, and `spatial`
    takes the rest: several devices share an image. A mesh that the config sets, with an axis larger
    than 1, is never changed.

    Raises:
      UserError: the mesh does not fit the devices, their slices, or the batch.
    """
    sizes = sharding.mesh_sizes(config.mesh, devices)
    groups = sizes["data"] * sizes["fsdp"]
    if config.batch_size % (groups * config.accumulate_steps) == 0:
        sharding.inside_slice(sizes, slices)
        return Layout(sizes)
    by_hand = any(size > 1 for size in dataclasses.astuple(config.mesh))
    images = config.batch_size // config.accumulate_steps
    data = math.gcd(images, devices)
    shared = devices // data
    splits = isinstance(config, Config)  # images by rows; clips are not split
    if by_hand or not splits or 8 * shared > config.data.crop_size[0]:
        remedy = ", or config.mesh.spatial" if splits else ""
        raise UserError(
            f"config.mesh = {sizes} splits a batch into {groups} parts, which config.batch_size = "
            f"{config.batch_size} (in {config.accumulate_steps} accumulated parts) does not; take "
            f"a multiple, or a smaller slice{remedy}."
        )
    shared_out = {"data": data, "fsdp": 1, "spatial": shared}
    sharding.inside_slice(shared_out, slices)
    note = (
        f"fewer images than devices: {shared} devices share an image; train with "
        f"--config.mesh.spatial={shared}"
    )
    return Layout(shared_out, note)
