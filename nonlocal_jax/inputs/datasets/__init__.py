"""The data sets, a module each: `describe` gives the facts of the one that a config names."""

from nonlocal_jax.config import schema, tables
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import Dataset

# Settings that mean something for some data sets alone: those whose module has the name in `READS`.
OPTIONAL_SETTINGS = ("classes_file", "label_map", "reduce_zero_label")


def describe(data: schema.Data, data_dir: str = "") -> Dataset:
    """The facts of a data set: names, palette, counts, and where its examples come from.

    Args:
      data: names it, and holds its settings.
      data_dir: where it lies; empty for its usual folders.

    Raises:
      UserError: there is none of that name, it does not read one of the settings, or its class
        list cannot be read.
    """
    module = tables.find("datasets", data.name, "data.name")
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
