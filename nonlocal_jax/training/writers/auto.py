"""TensorBoard's event files if tensorboardX is installed, and a hint if it is not."""

import importlib.util

from nonlocal_jax.runtime.console import say
from nonlocal_jax.training.writers import tensorboard
from nonlocal_jax.training.writers.writer import Outcome, Place, Scalars, Writer


class Nowhere(Writer):
    """Writes nothing."""

    title = "nothing"

    def write(self, step: int, scalars: Scalars) -> None:
        """Does nothing."""

    def close(self, outcome: Outcome) -> None:
        """Does nothing."""


def check() -> None:
    """Needs nothing."""


def build(place: Place) -> Writer:
    """TensorBoard's writer if it is installed, else none."""
    if importlib.util.find_spec("tensorboardX") is not None:
        return tensorboard.build(place)
    say(
        "Scalars go to metrics.jsonl. For TensorBoard files as well: "
        "pip install 'nonlocal_jax[tensorboard]'."
    )
    return Nowhere()
