"""TensorBoard's event files in the run's folder, written by tensorboardX."""

from nonlocal_jax.runtime.packages import need
from nonlocal_jax.training.writers.writer import Outcome, Place, Scalars, Writer


class TensorBoard(Writer):
    """Event files.

    A resumed run begins another file, which tells TensorBoard to drop later steps of older files.
    """

    title = "TensorBoard's event file"

    def __init__(self, place: Place):
        from tensorboardX import SummaryWriter  # an extra: tensorboard

        dropped = place.start + 1 if place.start else None
        self._events = SummaryWriter(str(place.workdir), purge_step=dropped)

    def write(self, step: int, scalars: Scalars) -> None:
        """Adds an event for each scalar."""
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self, outcome: Outcome) -> None:
        """Closes the file."""
        self._events.close()


def check() -> None:
    """Raises a UserError if tensorboardX is missing."""
    need("config.log_to=tensorboard", "tensorboard", "tensorboardX")


def build(place: Place) -> Writer:
    """The writer of a run."""
    return TensorBoard(place)
