"""Connections to slow clients are closed; uvicorn itself would wait for them."""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nonlocal_jax.serving.limits import MOST_CONNECTIONS, Limits
from nonlocal_jax.serving.metrics import Metrics


def connection_class(limits: Limits, metrics: Metrics) -> type[H11Protocol]:
    """A class of connections with these limits."""
    return type("Connection", (_Connection,), {"limits": limits, "metrics": metrics})


class _Connection(H11Protocol):
    """A connection whose client has to send a header, and to read an answer, in time."""

    limits: Limits
    metrics: Metrics

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expects a header, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._drop()
        else:
            self._expect(self.limits.read_timeout)

    def data_received(self, data: bytes) -> None:
        """Expects the rest of a header that has begun."""
        if self._is_idle() and self._deadline is None:
            self._expect(self.limits.read_timeout)
        super().data_received(data)
        if not self._is_idle():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Expects the client to read what is left of the answer."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._expect(self.limits.timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expects nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Says in JSON that this is no HTTP."""
        content = json.dumps({"error": "This is no valid HTTP request."}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        events = (h11.Response(status_code=400, headers=headers), h11.Data(data=content))
        for event in (*events, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _expect(self, seconds: float) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(seconds, self._drop)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _drop(self) -> None:
        self.metrics.dropped.inc()
        self.transport.abort()
