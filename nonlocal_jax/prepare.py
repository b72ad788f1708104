"""Verifies a data set and writes it as ArrayRecord files to OUTPUT/NAME/1.0.0.

    python -m nonlocal_jax.prepare ade20k --download
    python -m nonlocal_jax.prepare cityscapes --source=FOLDER

The name is cityscapes, ade20k, voc12aug, camvid or kinetics. TensorFlow is not needed.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.checkpoints.pytorch import download
from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.preparation import builders
from nonlocal_jax.inputs.preparation.prepare import prepare


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


def main(options: command_line.Options) -> None:
    """Prepares the data set."""
    given, started = options.flags, time.monotonic()
    if not given.name:
        known = ", ".join(builders.names())
        raise UserError(f"Which data set? Name it first: `prepare NAME`, one of {known}.")
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


def run(argv: Sequence[str] | None = None) -> int:
    """The command: parses its flags, prepares, and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words[0] = f"--name={words[0]}"
    return command_line.run(main, define, argv=words)


if __name__ == "__main__":
    sys.exit(run())
