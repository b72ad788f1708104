"""What the rows of the sister methods share: R-50-D8 and R-101-D8, as MMSegmentation 0.x had them.

A file of configs/ has the rows of one method, which are the arguments of its `get_config`. A row
differs from the NonLocalNet row of the same name in its head alone, unless the file says more.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from nonlocal_jax.config import common
from nonlocal_jax.errors import UserError

Numbers = tuple[str, float, float | None, float | None, float | None]
"""Date and hash in the name of the published file, mIoU, mIoU with ms+flip, training memory of a
GPU in GB, and images per second of inference on a V100. None: not published."""
BASES = {
    "cityscapes": common.cityscapes,
    "cityscapes_769x769": common.cityscapes_769,
    "ade20k": common.ade20k,
    "voc12aug": common.voc12aug,
}
EVALUATIONS = 10  # of a run, as in the rows of NonLocalNet


def row(name: str, rows: Mapping[str, Numbers], reference: str) -> ConfigDict:
    """The config of a row with NonLocalNet's head, which the caller replaces.

    Args:
      name: "cityscapes_r101_512x1024_80k", "ade20k_r50_80k", ...
      rows: those of the method.
      reference: folder and name of the method in the reference: "dnlnet/dnl".

    Raises:
      UserError: there is no such row.
    """
    if name not in rows:
        what = f"There is no row {name!r}" if name else "The row is missing"
        raise UserError(f"{what}; write CONFIG:ROW with one of these rows: {', '.join(rows)}.")
    data, depth, *crop, steps = name.split("_")
    size = crop[0] if crop else "512x512"
    config = BASES.get(f"{data}_{size}", BASES[data])()
    if depth == "r101":
        common.resnet101(config)
    config.total_steps = int(steps.removesuffix("k")) * 1000
    config.eval_every = config.checkpoint_every = config.total_steps // EVALUATIONS
    folder, stem = reference.split("/")
    date_and_hash, *numbers = rows[name]
    config.published = common.published(
        f"{stem}_{depth}-d8_{size}_{steps}_{data}",
        date_and_hash,
        folder=folder,
        **dict(zip(("miou", "miou_tta", "memory_gb", "fps"), numbers, strict=True)),
    )
    return config
