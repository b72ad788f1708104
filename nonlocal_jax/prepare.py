"""Verifies a data set and writes it as ArrayRecord files to OUTPUT/NAME/1.0.0.

    python -m nonlocal_jax.prepare ade20k --download
    python -m nonlocal_jax.prepare cityscapes --source=FOLDER
    python -m nonlocal_jax.prepare folder --source=FOLDER

The name is cityscapes, ade20k, voc12aug, camvid or kinetics. TensorFlow is not needed.

With the name folder, nothing is written. All images and masks of a folder of your own are read, and
what would go wrong in training is printed, with sizes, class frequencies and a config.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.checkpoints.pytorch import download
from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError, counted
from nonlocal_jax.inputs.datasets.dataset import SPLITS
from nonlocal_jax.inputs.preparation import builders, folder_check
from nonlocal_jax.inputs.preparation.prepare import prepare

FOLDER = "folder"  # the name of a folder of one's own


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
    flags.DEFINE_string(
        "name", None, "The data set; its first word needs no --name=.", flag_values=values
    )
    flags.DEFINE_string(
        "source",
        None,
        "The raw tree as MMSegmentation has it, or the folder with the downloaded archives. By "
        "default where MMSegmentation keeps the data set.",
        flag_values=values,
    )
    flags.DEFINE_string("output", "data", "Folder of data sets.", flag_values=values)
    flags.DEFINE_bool("download", False, "First download what is missing.", flag_values=values)
    flags.DEFINE_bool(
        "allow_incomplete", False, "Accept fewer images than published.", flag_values=values
    )
    flags.DEFINE_bool("overwrite", False, "Replace an earlier result.", flag_values=values)
    for split in SPLITS:
        flags.DEFINE_string(
            f"{split}_list",
            "",
            f"Of a folder of your own: the file with the names of its {split} images.",
            flag_values=values,
        )


def main(options: command_line.Options) -> None:
    """Prepares the data set."""
    given, started = options.flags, time.monotonic()
    if not given.name:
        known = ", ".join([*builders.names(), FOLDER])
        raise UserError(f"Which data set? Name it first: `prepare NAME`, one of {known}.")
    lists = {split: str(given[f"{split}_list"].value) for split in SPLITS}
    if given.name == FOLDER:
        _check_folder(given.source, lists)
        return
    if any(lists.values()):
        raise UserError(f"--train_list and --val_list are for `prepare folder`, not {given.name}.")
    folder, counts, is_new = prepare(
        given.name,
        pathlib.Path(given.source) if given.source else None,
        pathlib.Path(given.output),
        fetch=download.fetch if given.download else None,
        allow_incomplete=given.allow_incomplete,
        overwrite=given.overwrite,
    )
    if is_new:
        print(f"{folder} is complete, in {time.monotonic() - started:.0f} s.")
    else:
        print(f"{folder} is already prepared: {counts}. Replace it with --overwrite.")


def _check_folder(source: str | None, lists: dict[str, str]) -> None:
    """Prints what is in a folder of one's own, and what is wrong with it."""
    if not source:
        raise UserError("--source is missing: name the folder with images, labels and classes.txt.")
    report = folder_check.check(pathlib.Path(source), lists)
    print(report.text())
    if report.problems:
        found = counted(len(report.problems), "problem")
        raise UserError(f"{source} has {found}: see the list above.")
    print(f"{source} is ready for training.")


def run(argv: Sequence[str] | None = None) -> int:
    """The command: parses its flags, prepares, and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words[0] = f"--name={words[0]}"
    return command_line.run(main, define, argv=words)


if __name__ == "__main__":
    sys.exit(run())
