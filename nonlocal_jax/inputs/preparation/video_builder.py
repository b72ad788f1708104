"""The base class of the builders of videos."""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from nonlocal_jax.config.video import VideoData
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import SPLITS
from nonlocal_jax.inputs.preparation.records import Record, RecordsBuilder, parallel
from nonlocal_jax.inputs.video import dataset, decode, sources
from nonlocal_jax.inputs.video.dataset import VideoDataset
from nonlocal_jax.inputs.video.sources import Listed

MOST_NAMED = 20  # bad videos that the report names


@dataclasses.dataclass
class Findings:
    """Statistics of the videos of a split.

    Attributes:
      labels: number of videos of each label.
      heights: number of videos of each height.
      frames: number of frames of each video.
      bytes: size of all files.
      bad: a sentence on each video that was left out.
    """

    labels: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    heights: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    frames: list[int] = dataclasses.field(default_factory=list)
    bytes: int = 0
    bad: list[str] = dataclasses.field(default_factory=list)


class VideoBuilder(RecordsBuilder[Listed], skip_registration=True):
    """Decodes each video of the lists or folders, and writes its file, label and name.

    A bad video is an error; with `allow_incomplete` it is left out and named in the report.
    """

    UNIT = "video"
    dataset: VideoDataset

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.findings = {split: Findings() for split in SPLITS}

    def describe(self) -> VideoDataset:
        """See RecordsBuilder."""
        return dataset.describe(VideoData(name=self.name))

    def features(self) -> dict[str, Any]:
        """See RecordsBuilder."""
        return {
            "video": tfds.features.Text(),  # bytes
            "label": tfds.features.ClassLabel(names=list(self.dataset.class_names)),
            "name": tfds.features.Text(),
        }

    def is_there(self, source: pathlib.Path) -> bool:
        """See RecordsBuilder."""
        return any((source / s).is_dir() or (source / f"{s}.txt").is_file() for s in SPLITS)

    def list_examples(self, source: pathlib.Path, split: str) -> list[Listed]:
        """See RecordsBuilder. Files that a list names and that are not there are bad videos."""
        if (source / f"{split}.txt").is_file():
            listed = sources.read_list(source / f"{split}.txt", self.dataset.num_classes)
        else:
            listed = sources.read_folders(source / split, self.dataset.folders())
        there = [video for video in listed if video.path.is_file()]
        missing = [str(video.path) for video in listed if not video.path.is_file()]
        if missing and not self.allow_incomplete:
            raise UserError(
                f"{len(missing)} of the {len(listed)} videos of {split} are missing; the first is "
                f"{missing[0]}. (--allow_incomplete prepares what is there.)"
            )
        self.findings[split].bad += [f"{path} is missing." for path in missing]
        return there

    def file_of(self, example: Listed) -> pathlib.Path:
        """See RecordsBuilder."""
        return example.path

    def records(self, examples: list[Listed], split: str) -> Iterator[Record]:
        """See RecordsBuilder."""
        findings = self.findings[split]
        for video, content, size in parallel(self._verified, examples):
            if isinstance(size, UserError):
                if not self.allow_incomplete:
                    raise size
                findings.bad.append(str(size))
                continue
            findings.frames.append(size.frames)
            findings.heights[size.height] += 1
            findings.labels[video.label] += 1
            findings.bytes += len(content)
            features = {"video": content, "label": video.label, "name": video.name}
            yield video.name, features

    def report(self) -> str:
        """See RecordsBuilder."""
        published = self.dataset.counts
        lines = [
            f"{'split':<7}{'videos':>8}{'published':>11}{'classes':>9}{'frames':>14}{'height':>12}"
            f"{'GB':>8}"
        ]
        for split, found in self.findings.items():
            lines.append(
                f"{split:<7}{len(found.frames):>8}{published[split]:>11}{len(found.labels):>9}"
                f"{_span(found.frames):>14}{_span(found.heights):>12}{found.bytes / 1e9:>8.1f}"
            )
        for split, found in self.findings.items():
            if found.bad:
                lines.append(f"{len(found.bad)} videos of {split} were left out:")
                lines += found.bad[:MOST_NAMED] + ["..."] * (len(found.bad) > MOST_NAMED)
        return "\n".join(lines)

    def _verified(self, video: Listed) -> tuple[Listed, bytes, decode.VideoSize | UserError]:
        """A video, its bytes, and its size or what is wrong with it."""
        content = b""
        with contextlib.suppress(OSError):  # an empty file is refused as well
            content = video.path.read_bytes()
        try:
            return video, content, decode.measure(content, str(video.path))
        except UserError as error:
            return video, content, error


def _span(values: Iterable[int]) -> str:
    """The least and the largest of some numbers."""
    least, most = min(values, default=0), max(values, default=0)
    return str(least) if least == most else f"{least}..{most}"
