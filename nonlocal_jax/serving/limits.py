"""What the server accepts, and for how long it waits."""

import dataclasses
import re

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.buckets import Size
from nonlocal_jax.runtime.packages import need

LONGEST_SIDE = 16384  # pixels; a longer image needs more memory than its number of pixels says
MOST_CONNECTIONS = 512
PACKAGES = ("starlette", "uvicorn", "prometheus_client")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
      max_batch: images in a call of a program.
      queue: images that wait for a program; more are refused.
      max_bytes: of an upload.
      max_pixels: of an image.
      read_timeout: seconds that a client has to send a request's header, and its body.
      timeout: seconds to answer a request after its body is read, and for the client to read the
        answer.
      grace: seconds that a stopping server gives to what it began.
      programs: compiled programs that are kept.
    """

    max_batch: int = 8
    queue: int = 64
    max_bytes: int = 20_000_000
    max_pixels: int = 100_000_000
    read_timeout: float = 30.0
    timeout: float = 60.0
    grace: int = 30
    programs: int = 32

    def rows(self, canvas: Size) -> int:
        """Images in a call of the program of a canvas: fewer than `max_batch` of very large ones.

        Together they have no more pixels than a single image may have.
        """
        return min(max(self.max_pixels // (canvas[0] * canvas[1]), 1), self.max_batch)


def parse_sizes(texts: list[str]) -> list[Size]:
    """The sizes of `--warm`: "480x640" is an image of 480 rows and 640 columns.

    Raises:
      UserError: one is something else, or too long.
    """
    sizes = []
    for text in texts:
        match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip())
        size = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 0 < max(size) <= LONGEST_SIDE:
            raise UserError(
                f"--warm has {text!r}; it must be HEIGHTxWIDTH, e.g. 480x640, several separated "
                f"by commas, of sides up to {LONGEST_SIDE}."
            )
        sizes.append(size)
    return sizes


def check_installed() -> None:
    """Raises a UserError if a package of the extra `serve` is missing."""
    need("serve", "serve", *PACKAGES)
