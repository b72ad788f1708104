"""Shows the augmented training examples of a config.

    python -m nonlocal_jax.browse --config=camvid

Writes a contact sheet of examples, each without and with its mask, and prints how often each class
occurs.
"""

import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.config import command_line, schema
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.inputs import frequencies
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.reporting import pictures, sheet


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_string("output", "sheet.png", "Where the contact sheet goes.", flag_values=values)
    flags.DEFINE_integer("count", 16, "Examples on the sheet.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "masks", 200, "Masks to count classes in.", lower_bound=1, flag_values=values
    )


def main(options: Options) -> None:
    """Prints the frequencies and writes the sheet."""
    inputs, own = Inputs.of(schema.for_segmentation(options.config)), options.flags
    print(frequencies.report(inputs, own.masks))
    pictures.write_png(own.output, sheet.contact_sheet(inputs, own.count))
    print(f"Wrote {own.count} augmented examples to {own.output}.")


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="required", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
