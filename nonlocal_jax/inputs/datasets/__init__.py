"""The data sets, a module each. `describe` returns the one that a config names."""

from nonlocal_jax.config import schema, tables
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import Dataset

# Settings that only some data sets read: those whose module names them in `READS`.
OPTIONAL_SETTINGS = (
    *("classes_file", "label_map", "reduce_zero_label"),
    *("train_list", "val_list", "folders", "folder_weights"),
)


def describe(data: schema.Data, data_dir: str = "") -> Dataset:
    """A data set: names, palette, counts, and where its examples come from.

    Args:
      data: its name and settings.
      data_dir: its folder; empty for its usual folders.

    Raises:
      UserError: there is none of that name, it holds videos, it does not read one of the settings,
        or its class list cannot be read.
    """
    module = tables.find("datasets", data.name, "data.name")
    if getattr(module, "TASK", "") == "video":
        raise UserError(
            f"config.data.name is {data.name!r}, which holds videos; this config is for images. "
            "Start from a config for videos, such as configs/moving_shapes.py."
        )
    usual = schema.Data()
    for key in OPTIONAL_SETTINGS:
        value = getattr(data, key)
        if value != getattr(usual, key) and key not in getattr(module, "READS", ()):
            raise UserError(
                f"config.data.{key} is {value!r}, and the data set {data.name} does not read it. "
                "Leave it out; it is for data of your own, config.data.name=folder."
            )
    dataset: Dataset = module.build(data, data_dir)
    return dataset
