"""Runs the server: its socket, its start, its signals and its end."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

import uvicorn

from nonlocal_jax.errors import EXIT_ERROR, UserError
from nonlocal_jax.evaluation.batching import Size
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.runtime.console import say
from nonlocal_jax.serving.answers import Renderer
from nonlocal_jax.serving.app import Service
from nonlocal_jax.serving.batcher import Batcher
from nonlocal_jax.serving.connections import connection_class
from nonlocal_jax.serving.engine import Engine
from nonlocal_jax.serving.limits import Limits

SIGNALS = (signal.SIGTERM, signal.SIGINT)
KEEP_ALIVE = 5  # seconds between two requests of a connection
PATIENCE = 3.0  # seconds for the threads to end


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      UserError: there is no such host, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host is {host!r}, which is no address here: {error}.") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(socket.SOMAXCONN)
    except OSError as error:
        listening.close()
        raise UserError(
            f"Nothing can listen on port {port} of {host}: {error.strerror or error}. Choose "
            "another one with --port, or 0 for any that is free."
        ) from error
    if not ipaddress.ip_address(address[0]).is_loopback:
        sys.stderr.write(
            f"nonlocal_jax: {host} can be reached from other machines, and whoever reaches it can "
            "use it: there are no passwords.\n"
        )
    return listening


def address_of(listening: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its handlers of signals, which end the process by the signal itself."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


def serve(
    listening: socket.socket,
    restored: Restored,
    limits: Limits,
    *,
    warm: Sequence[Size] = (),
    tta: bool = False,
) -> int:
    """Answers requests until a signal; returns the exit code.

    That is 0, or 1 if requests were cut off after `limits.grace` seconds. A second signal ends the
    process at once.

    Args:
      listening: the socket.
      restored: the checkpoint.
      limits: what is accepted.
      warm: sizes of images whose programs are compiled before it is ready.
      tta: average over the config's scales and mirrored images.
    """
    engine = Engine(restored, limits, tta=tta)
    batcher = Batcher(engine, limits)
    service = Service(engine, batcher, Renderer(restored), limits)
    server = _Server(
        uvicorn.Config(
            service.app(),
            http=connection_class(limits, batcher.metrics),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=limits.grace,
        )
    )
    warming = _Warming(engine, warm, service, server)

    async def run() -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, _stop, number, server, service)
        warming.start()
        await server.serve([listening])

    asyncio.run(run())
    if warming.error is not None:
        raise warming.error
    say(f"Stopped: {service.answered} requests were answered, {service.abandoned} were cut off.")
    code = EXIT_ERROR if service.abandoned else 0
    if not batcher.close(PATIENCE) or warming.is_alive():
        sys.stdout.flush()
        os._exit(code)  # a thread is still compiling, and nothing can interrupt it
    return code


class _Warming(threading.Thread):
    """Compiles the first programs while /health answers already; then the service is ready."""

    def __init__(
        self, engine: Engine, sizes: Sequence[Size], service: Service, server: uvicorn.Server
    ):
        super().__init__(daemon=True)
        self._engine, self._sizes, self._service, self._server = engine, sizes, service, server
        self.error: BaseException | None = None

    def run(self) -> None:
        begun = time.perf_counter()
        try:
            for size in self._sizes:
                self._engine.compile(self._engine.shapes(size))
        except BaseException as error:
            self.error, self._server.should_exit = error, True
            return
        self._service.batcher.start()
        if self._service.state == "warming":
            self._service.state = "ready"
            say(f"Ready after {time.perf_counter() - begun:.1f} s of compiling.")


def _stop(number: int, server: uvicorn.Server, service: Service) -> None:
    """Handles a signal."""
    if service.state == "stopping":
        sys.stderr.write("Told to stop twice: leaving.\n")
        sys.stderr.flush()
        os._exit(128 + number)
    service.state = "stopping"
    say(f"Stopping. Still to be answered: {service.open}. A second signal ends it at once.")
    server.should_exit = True
