"""Weights & Biases: a run in the project of $WANDB_PROJECT, by default nonlocal_jax.

The library's own variables apply, such as WANDB_MODE=offline.
"""

import os
from typing import Any

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.packages import need
from nonlocal_jax.training.writers.writer import Outcome, Place, Scalars, Writer

NAME = "wandb"
STEP = "step"  # the axis of all charts: W&B's own counter refuses the steps of a resumed run


class WeightsAndBiases(Writer):
    """A run of Weights & Biases; a resumed run goes on with the same one.

    Raises:
      UserError: it can't begin: nobody is logged in, or the server does not answer.
    """

    title = "Weights & Biases"

    def __init__(self, place: Place):
        import wandb  # an extra: wandb

        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or "nonlocal_jax",
                name=place.workdir.name,
                dir=str(place.workdir),
                id=place.known_id(NAME),
                resume="allow",
                config=dict(place.settings),
                allow_val_change=True,
                settings=wandb.Settings(console="off"),
            )
        except Exception as error:  # the library has a dozen kinds
            raise UserError(
                f"Weights & Biases can't begin a run: {error} Log in with `wandb login`, set "
                "WANDB_MODE=offline, or leave wandb out of config.log_to."
            ) from error
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        place.remember(NAME, self._run.id)

    def write(self, step: int, scalars: Scalars) -> None:
        """Adds an entry of the run's history."""
        self._run.log({STEP: step, **scalars})

    def close(self, outcome: Outcome) -> None:
        """Ends the run, and waits until it is sent."""
        if outcome == "stopped":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome == "finished" else 1)


def check() -> None:
    """Raises a UserError if wandb is missing."""
    need("config.log_to=wandb", "wandb", "wandb")


def build(place: Place) -> Writer:
    """The writer of a run."""
    return WeightsAndBiases(place)
