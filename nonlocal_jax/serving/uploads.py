"""Reads the bodies of requests, in bounded time and memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from nonlocal_jax.serving.limits import Limits

RETRY_AFTER = 1  # seconds
DRAINED = 4  # a body of up to so many times the limit is read to its end, and forgotten


class Refused(Exception):
    """A request that gets no picture.

    Attributes:
      status: of the answer.
      message: one sentence for the client.
      retry_after: seconds after which the client may try again; None if that makes no sense.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


class Uploads:
    """Reads bodies. Together they take at most `queue * max_bytes` bytes."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._held = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, which counts as long as the context is open.

        Raises:
          Refused: it is empty, too large, comes too slowly, or all bodies are too large.
        """
        content, encoded = bytearray(), b""
        try:
            try:
                async with asyncio.timeout(self._limits.read_timeout):
                    await self._read(request, content)
            except TimeoutError:
                raise Refused(
                    408, f"The body did not come in {self._limits.read_timeout:g} seconds."
                ) from None
            except ClientDisconnect:
                raise Refused(400, "The connection was closed before the body ended.") from None
            if not content:
                raise Refused(400, "The body is empty: it must be the bytes of an image file.")
            encoded = bytes(content)
            content.clear()  # a body is in memory once, as it is counted
            yield encoded
        finally:
            self._held -= len(content) + len(encoded)

    async def _read(self, request: Request, content: bytearray) -> None:
        """Adds the body to `content`."""
        most, size = self._limits.max_bytes, 0
        stated = request.headers.get("content-length", "")
        refusal = None
        if stated.isdecimal() and int(stated) > most:
            refusal = self._too_large()
            if int(stated) > DRAINED * most:
                raise refusal
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                refusal = refusal or self._too_large()
            elif self._held + len(chunk) > self._limits.queue * most:
                refusal = refusal or Refused(503, "Too many bodies are being read.", RETRY_AFTER)
            if refusal is None:
                content += chunk
                self._held += len(chunk)
            elif size > DRAINED * most:
                raise refusal
        # A client that is still sending when the connection closes may not see the answer.
        if refusal is not None:
            raise refusal

    def _too_large(self) -> Refused:
        return Refused(413, f"The body has more than {self._limits.max_bytes} bytes.")
