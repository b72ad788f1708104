"""The paths of the server, and what each answers. Errors are JSON: {"error": "one sentence"}."""

import asyncio
import contextlib
import functools
import importlib.resources
import logging
import time
import uuid
from typing import Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.batching import Size
from nonlocal_jax.evaluation.segment_files import first_sentence
from nonlocal_jax.inputs import decode
from nonlocal_jax.serving.answers import KINDS, Answer, Kind, Renderer
from nonlocal_jax.serving.batcher import Batcher, Job, QueueFull
from nonlocal_jax.serving.engine import Engine
from nonlocal_jax.serving.limits import LONGEST_SIDE, Limits
from nonlocal_jax.serving.uploads import RETRY_AFTER, Refused, Uploads

State = Literal["warming", "ready", "stopping"]
LOG = logging.getLogger(__name__)


class Service:
    """Answers requests.

    Attributes:
      state: what /health says. Pictures are refused while it is "warming". Once it is "stopping",
        no connections are accepted, and requests that have come are answered.
      batcher: the queue.
      open: requests that are being answered.
      answered: requests that were.
      abandoned: requests that were cut off because the server stopped.
    """

    def __init__(self, engine: Engine, batcher: Batcher, renderer: Renderer, limits: Limits):
        self.state: State = "warming"
        self.batcher = batcher
        self.open = self.answered = self.abandoned = 0
        self._engine, self._renderer, self._limits = engine, renderer, limits
        self._uploads = Uploads(limits)
        self._page = (importlib.resources.files(__package__) / "page.html").read_text("utf-8")

    def app(self) -> ASGIApp:
        """The application."""
        routes = [
            Route("/", self._index),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        for kind in KINDS:
            endpoint = functools.partial(self._segment, kind=kind)
            routes.append(Route(f"/{kind}", endpoint, methods=["POST"]))
        handlers = {Refused: _refuse, HTTPException: _refuse_route, Exception: _apologise}
        starlette = Starlette(routes=routes, exception_handlers=handlers)
        starlette.router.redirect_slashes = False
        return _Watched(starlette, self)

    async def _index(self, _: Request) -> Response:
        return HTMLResponse(self._page)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": self.state}, 200 if self.state == "ready" else 503)

    async def _metrics(self, _: Request) -> Response:
        metrics = self.batcher.metrics
        return Response(metrics.text(), headers={"Content-Type": metrics.content_type})

    async def _segment(self, request: Request, *, kind: Kind) -> Response:
        begun = time.perf_counter()
        try:
            answer = Answer.parse(kind, request.query_params.multi_items())
        except UserError as error:
            raise Refused(400, str(error)) from error
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise Refused(415, "The body must be the image file itself, not a form.")
        async with self._uploads.body(request) as encoded:
            if self.state == "warming":
                raise Refused(503, "The server is warming.", RETRY_AFTER)
            if self.batcher.full():
                raise _queue_full()
            try:
                async with asyncio.timeout(self._limits.timeout):
                    content = await self._answer(answer, encoded, begun)
            except TimeoutError:
                raise Refused(
                    503, f"There was no answer in {self._limits.timeout:g} seconds.", RETRY_AFTER
                ) from None
        return Response(content, media_type=answer.media_type)

    async def _answer(self, answer: Answer, encoded: bytes, begun: float) -> bytes:
        """The bytes of an answer to an encoded image."""
        try:
            size = await asyncio.to_thread(_size, encoded, self._limits.max_pixels)
            render = functools.partial(self._renderer.render, answer, begun=begun)
            job = Job(encoded, size, self._engine.shapes(size), render)
            self.batcher.submit(job)
            return await asyncio.wrap_future(job.answer)
        except decode.TooManyPixels as error:
            raise Refused(413, first_sentence(error)) from error
        except UserError as error:
            raise Refused(422, first_sentence(error)) from error
        except QueueFull as error:
            raise _queue_full() from error


def _size(encoded: bytes, most_pixels: int) -> Size:
    """Height and width of an image, from its header.

    Raises:
      UserError: it has none that can be read, or is too large.
    """
    if not all(decode.stated_size(encoded, "The image")):
        raise UserError("The body is no image, or its header is damaged.")
    size = decode.image_size(encoded, "The image", most_pixels)
    if max(size) > LONGEST_SIDE:
        raise decode.TooManyPixels(
            f"The image is {size[1]}x{size[0]}; a side may have {LONGEST_SIDE} pixels."
        )
    return size


def _queue_full() -> Refused:
    return Refused(503, "Too many images wait.", RETRY_AFTER)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse({"error": error.message}, error.status, headers)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """The answer for an unknown path or method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{path} takes {allowed}, not {request.method}."
    else:
        paths = ", ".join(f"/{kind}" for kind in KINDS)
        message = f"There is no such path; images are sent to {paths}."
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def _apologise(_: Request, error: Exception) -> Response:
    """The answer to a mistake of this program, which is in the log by its id."""
    number = uuid.uuid4().hex[:12]
    LOG.error("Request %s failed.", number, exc_info=error)
    return JSONResponse({"error": f"The server failed; its log has id {number}."}, 500)


class _Watched:
    """Counts requests, and lets no exception out, which would be logged twice."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service
        self._metrics = service.batcher.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, begun, status = self._service, time.perf_counter(), 500

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        service.open += 1
        try:
            await self._app(scope, receive, watched_send)
            service.answered += 1
        except asyncio.CancelledError:  # the server stops, and its time is up
            service.abandoned += 1
            status = 503
            late = JSONResponse({"error": "The server stops."}, 503)
            with contextlib.suppress(Exception):
                await late(scope, receive, send)
        except Exception:  # `_apologise` has answered
            service.answered += 1
        finally:
            service.open -= 1
            path = _known(scope)
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - begun)


def _known(scope: Scope) -> str:
    """The path of a request, or `other` if it is unknown."""
    known = ("/", "/health", "/metrics", *(f"/{kind}" for kind in KINDS))
    return scope["path"] if scope["path"] in known else "other"
