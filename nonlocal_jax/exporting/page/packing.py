"""Arrays and bytes as text, for JSON; web/decode.js reads it."""

import base64
import zlib

import numpy as np


def base64_of(array: np.ndarray) -> str:
    """An array's numbers, with the least byte first."""
    ordered = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(np.ascontiguousarray(ordered).tobytes()).decode()


def packed(content: bytes) -> str:
    """Bytes, compressed."""
    return base64.b64encode(zlib.compress(content, 9)).decode()
