"""The records of a prepared data set."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from nonlocal_jax.errors import UserError


class Records:
    """The records of a split, by index.

    Args:
      folder: holds TFDS's dataset_info.json and the records.
      split: "train" or "val".
      encoded: features whose files are not decoded.

    Raises:
      UserError: the folder is none, or has no such split; from `__getitem__`, a record is damaged.
    """

    def __init__(self, folder: pathlib.Path, split: str, encoded: Collection[str] = ()):
        import tensorflow_datasets as tfds  # here, so that commands without records start sooner

        self.folder = folder
        decoders = {feature: tfds.decode.SkipDecoding() for feature in encoded}
        try:
            builder = tfds.builder_from_directory(str(folder))
            self._records = builder.as_data_source(split=split, decoders=decoders)
        except Exception as error:  # TFDS raises many kinds
            raise UserError(
                f"{folder} cannot be read as a prepared data set ({error}). Remove it and run "
                "`nonlocal-jax prepare` again."
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """The features of a record, with `name` as text."""
        try:
            record = self._records[index]
            return {**record, "name": record["name"].decode()}
        except Exception as error:  # array_record raises bare ones for a damaged chunk
            raise UserError(
                f"Record {index} of {self.folder} is damaged ({error}). Prepare the data set "
                "again, or leave it out with --config.data.on_bad_example=skip."
            ) from error
