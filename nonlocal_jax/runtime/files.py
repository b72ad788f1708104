"""Writing a file whole: whoever reads it sees the old content or the new one, never a part."""

import contextlib
import os
import pathlib


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replaces `path` in one step, and makes its folder.

    What was there stays as it is if the content can't be written.

    Raises:
      OSError: nothing can be written there.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
