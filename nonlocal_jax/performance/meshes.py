"""How a config's batch is laid out on the chips of a slice."""

import math
from typing import NamedTuple

from ml_collections import ConfigDict

from nonlocal_jax.errors import UserError


class Layout(NamedTuple):
    """Sizes of the mesh's axes, and why they are not the config's; empty where they are."""

    sizes: dict[str, int]
    note: str = ""


def choose(config: ConfigDict, chips: int) -> Layout:
    """The config's mesh on so many chips or, where the batch is too small for that, another.

    Then `data` is as large as divides batch and chips, and `spatial` takes the rest: several chips
    share an image. A mesh that was set by hand, so has an axis without -1 above 1, is never
    changed.

    Raises:
      UserError: the mesh does not fit the chips or the batch.
    """
    wanted = {axis: int(config.mesh[axis]) for axis in ("data", "fsdp", "spatial")}
    sizes = _filled(wanted, chips)
    groups = sizes["data"] * sizes["fsdp"]
    if config.batch_size % (groups * config.accumulate_steps) == 0:
        return Layout(sizes)
    by_hand = any(size > 1 for size in wanted.values())
    images = config.batch_size // config.accumulate_steps
    data = math.gcd(images, chips)
    shared = chips // data
    if by_hand or 8 * shared > config.data.crop_size[0]:
        raise UserError(
            f"config.mesh = {sizes} splits a batch into {groups} parts, which config.batch_size = "
            f"{config.batch_size} (in {config.accumulate_steps} accumulated parts) does not; take "
            f"a multiple, a smaller slice, or config.mesh.spatial."
        )
    note = (
        f"fewer images than chips: {shared} chips share an image; train with "
        f"--config.mesh.spatial={shared}"
    )
    return Layout({"data": data, "fsdp": 1, "spatial": shared}, note)


def _filled(sizes: dict[str, int], chips: int) -> dict[str, int]:
    """The sizes with -1 replaced by what the others leave."""
    known = math.prod(size for size in sizes.values() if size > 0)
    free = [axis for axis, size in sizes.items() if size < 1]
    if len(free) > 1 or chips % known or (not free and known != chips):
        raise UserError(
            f"config.mesh = {sizes} does not fit {chips} chips: its sizes must multiply to "
            f"{chips}; one may be -1 for what the others leave."
        )
    return {axis: chips // known if axis in free else size for axis, size in sizes.items()}
