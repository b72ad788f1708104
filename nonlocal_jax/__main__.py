"""Lists the commands, or runs one: `python -m nonlocal_jax train ...`, `nonlocal-jax train ...`."""

import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

from nonlocal_jax import __version__
from nonlocal_jax.config import terminal
from nonlocal_jax.errors import EXIT_INTERRUPTED

COMMANDS = {
    "train": "Train a config, or resume a run.",
    "evaluate": "Score a checkpoint on its validation images or videos.",
    "predict": "Segment images, or label videos, with a checkpoint.",
    "convert": "Import a PyTorch checkpoint, or export one.",
    "prepare": "Verify a data set and prepare it for training.",
    "browse": "Show augmented training examples, and count the classes.",
    "export": "Export a trained network for other runtimes.",
    "report": "Write pages about runs: curves, scores, worst images; and compare them.",
    "serve": "Segment images over HTTP.",
    "benchmark": "Measure training, inference, input and evaluation.",
    "plan": "Plan a config for a TPU slice: memory, time, chip hours.",
    "demo": "Train a small network with and without the non-local block.",
}
USAGE = "nonlocal-jax COMMAND [FLAGS]    or    python -m nonlocal_jax COMMAND [FLAGS]"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that is named; returns its exit code."""
    with terminal.lasting():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # for modules of one's own, as with `python -m`
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("help", "--help", "-h"):
        sys.stdout.write(listing())
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"nonlocal_jax {__version__}\n")
        return 0
    name, *rest = words
    if name not in COMMANDS and name != "main":
        sys.stderr.write(
            f"nonlocal_jax: {name!r} is no command; there are {', '.join(COMMANDS)}.\n"
        )
        return 2
    try:
        module = importlib.import_module(f"nonlocal_jax.{name}")  # takes seconds
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        return EXIT_INTERRUPTED
    return int(module.run(rest))


def listing() -> str:
    """The commands, a line each."""
    width = min(shutil.get_terminal_size().columns, 100)
    widest = max(map(len, COMMANDS))
    lines = [
        textwrap.fill(f"  {name:<{widest}}  {what}", width, subsequent_indent=" " * (widest + 4))
        for name, what in COMMANDS.items()
    ]
    return "\n".join(
        ["NonLocalNet for semantic segmentation in JAX and Flax.", "", USAGE, "", *lines, "", HINT]
    )


HINT = "nonlocal-jax COMMAND --help lists the flags and settings of a command.\n"

if __name__ == "__main__":
    sys.exit(main())
