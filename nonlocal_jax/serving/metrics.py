"""What the server counts, in Prometheus' text format."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of a server. Threads may share them.

    Args:
      waiting: returns how many images wait.

    Attributes:
      requests: answered ones, by path and status.
      seconds: from the first byte of a request to the last of its answer, by path.
      batches: images in each call of a program.
      images: segmented ones.
      compilations: compiled programs.
      dropped: connections that were closed because the client was too slow, or had too many.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # resident memory, processor time, open files
        of: dict[str, Any] = {"registry": self._registry, "namespace": "nonlocal_jax"}
        self.requests = Counter(
            "requests", "Requests by path and status.", ["path", "status"], **of
        )
        self.seconds = Histogram(
            "request_seconds", "Seconds a request took.", ["path"], buckets=SECONDS, **of
        )
        self.batches = Histogram(
            "batch_images", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), **of
        )
        self.images = Counter("images", "Images that were segmented.", **of)
        self.compilations = Counter("compilations", "Programs that were compiled.", **of)
        self.dropped = Counter(
            "dropped_connections", "Connections closed: slow clients, or too many.", **of
        )
        Gauge("queue_length", "Images that wait.", **of).set_function(waiting)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
