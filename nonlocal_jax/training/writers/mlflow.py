"""MLflow: a run in the experiment of $MLFLOW_EXPERIMENT_NAME, by default nonlocal_jax.

The library's own variables apply, such as MLFLOW_TRACKING_URI.
"""

import os
import re
import time
from typing import Any

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.packages import need
from nonlocal_jax.training.writers.writer import Outcome, Place, Scalars, Writer

NAME = "mlflow"
LONGEST_VALUE = 500  # characters of a setting
MOST_SETTINGS = 100  # in a request
ENDED = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflow(Writer):
    """A run of MLflow; a resumed run goes on with the same one.

    Raises:
      UserError: it can't begin: the server does not answer, or the address is wrong.
    """

    title = "MLflow"

    def __init__(self, place: Place):
        import mlflow  # an extra: mlflow
        from mlflow import entities

        self._entities: Any = entities
        known = place.known_id(NAME)
        try:
            self._client: Any = mlflow.MlflowClient()
            self._id = self._begin(place) if known is None else self._resume(known)
        except Exception as error:  # the library and the network have dozens of kinds
            raise UserError(
                f"MLflow can't begin a run at {mlflow.get_tracking_uri()}: {error} Set "
                "MLFLOW_TRACKING_URI, or leave mlflow out of config.log_to."
            ) from error
        place.remember(NAME, self._id)

    def write(self, step: int, scalars: Scalars) -> None:
        """Adds a metric for each scalar."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(allowed(name), value, now, step)
            for name, value in scalars.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, outcome: Outcome) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id, ENDED[outcome])

    def _begin(self, place: Place) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "nonlocal_jax"
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else self._client.create_experiment(experiment)
        run: str = self._client.create_run(number, run_name=place.workdir.name).info.run_id
        settings = [
            self._entities.Param(allowed(key), str(value)[:LONGEST_VALUE])
            for key, value in place.settings.items()
        ]
        for first in range(0, len(settings), MOST_SETTINGS):
            self._client.log_batch(run, params=settings[first : first + MOST_SETTINGS])
        return run

    def _resume(self, run: str) -> str:
        self._client.update_run(run, status="RUNNING")
        return run


def allowed(name: str) -> str:
    """A name with the letters that MLflow takes: "iou/a?b" is "iou/a_b"."""
    return re.sub(r"[^\w\-. /]|(?<=/)[./]+", "_", name)


def check() -> None:
    """Raises a UserError if mlflow is missing."""
    need("config.log_to=mlflow", "mlflow", "mlflow")


def build(place: Place) -> Writer:
    """The writer of a run."""
    return MLflow(place)
