"""Demonstrates the non-local block in a few minutes.

    python -m nonlocal_jax.demo

trains the config `demo` without the block and with it, on generated scenes in which the class of
the shapes depends on a lamp beyond the reach of the convolutions. The same command resumes an
interrupted run. `--heads=all` trains it with every head that this package has.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.config import command_line, files, schema
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.runtime import console, startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.training.demonstration import HEADS, demonstrate


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_string("workdir", "runs/demo", "Where runs and pictures go.", flag_values=values)
    flags.DEFINE_list(
        "heads",
        ["fcn", "nonlocal"],
        "The decode heads to compare, separated by commas; all for every one.",
        flag_values=values,
    )


def main(options: Options) -> None:
    """Runs the demonstration."""
    start = time.perf_counter()
    config = schema.for_segmentation(options.config_over(lambda: files.load("demo")))
    startup.use_jax(config.precision)
    heads = list(HEADS) if options.flags.heads == ["all"] else options.flags.heads
    demonstrate(config, pathlib.Path(options.flags.workdir), heads)
    say(f"\nAll of it took {console.clock(time.perf_counter() - start)}.")


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
