"""Writes pages about runs: their curves, scores, confusion, worst images, config, environment.

    python -m nonlocal_jax.report RUN [RUN ...] [--output=DIR|FILE.html] [--pictures=N]

RUN is the folder of a run, finished or not, or of an imported checkpoint. Of one run, the page is
RUN/report.html by default. Of several, there are a page for each and one that compares them, by
default in the folder `report`. A page needs no other file and no network. What is not there is left
out: a run without evaluations has a page, too.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import report
from nonlocal_jax.runtime import startup
from nonlocal_jax.runtime.console import say


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_multi_string(
        "run", [], "The folder of a run; a word without --run= is one, too.", flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "Folder of the pages, or the file (.html) of the page, or of the comparison.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "pictures",
        4,
        "Images of each run to draw: those with most wrong pixels. 0: none, which is quicker.",
        0,
        flag_values=values,
    )


def main(options: Options) -> None:
    """Writes the pages."""
    given = options.flags
    if not given.run:
        raise UserError("Which run? Name its folder: `report RUN`. See --help.")
    startup.use_jax()
    written = report.write([pathlib.Path(run) for run in given.run], given.output, given.pictures)
    say(f"Written: {', '.join(map(str, written))}. Open {written[0]} in a browser.")


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return command_line.run(main, define, argv=_with_names(words))


def _with_names(words: Sequence[str]) -> list[str]:
    """The words with --run= before the folders; the word after `--output` is its value."""
    named, value = [], False
    for word in words:
        is_flag = word.startswith("-")
        named.append(word if is_flag or value else f"--run={word}")
        value = is_flag and word.lstrip("-") in ("output", "pictures", "run")
    return named


if __name__ == "__main__":
    sys.exit(run())
