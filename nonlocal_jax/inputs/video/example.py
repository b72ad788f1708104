"""A stored video, and the interface of sources of videos."""

import pathlib
from typing import NamedTuple, Protocol, runtime_checkable


class EncodedVideo(NamedTuple):
    """A video as it is stored.

    Attributes:
      content: the bytes of the file, or its path.
      label: its class.
      name: unique in its split.
      where: its place, for errors.
    """

    content: bytes | pathlib.Path
    label: int
    name: str
    where: str


@runtime_checkable
class EncodedVideos(Protocol):
    """Videos by index. They can be pickled, and an index always gives the same video."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EncodedVideo: ...

    def name(self, index: int) -> str:
        """The name of a video, without reading it if possible."""
