"""Where the videos of a data set are: prepared files, a list, or folders.

A data set is searched in `config.data_dir`, or if that is empty in its usual folders ROOT.

- array_record: ArrayRecord as TFDS writes it, in ROOT, ROOT/VERSION or ROOT/NAME/VERSION. Records
  hold `video` (the file's own bytes), `label` and `name`, in the order of the list or the folders.
- list: ROOT/train.txt and ROOT/val.txt with a line `path label` for each video.
- folder: ROOT/train/CLASS and ROOT/val/CLASS with the videos of each class.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.listing import files_below
from nonlocal_jax.inputs.records import Records
from nonlocal_jax.inputs.sources import check_unread, find_prepared, roots
from nonlocal_jax.inputs.video.dataset import VideoDataset
from nonlocal_jax.inputs.video.decode import SUFFIXES
from nonlocal_jax.inputs.video.example import EncodedVideo, EncodedVideos


class Listed(NamedTuple):
    """A video file with its class.

    Attributes:
      path: of the file.
      label: its class.
      name: unique in its split.
    """

    path: pathlib.Path
    label: int
    name: str


def open_videos(
    dataset: VideoDataset, split: str, *, data_dir: str = "", kind: str = "auto"
) -> EncodedVideos:
    """The stored videos of a data set's split.

    Args:
      dataset: which one.
      split: "train" or "val".
      data_dir: where it is; empty for its usual folders.
      kind: "array_record", "list", "folder", or "auto" for the first of these that is there.

    Raises:
      UserError: it is not there, or it cannot be read.
    """
    if dataset.generate is not None:
        check_unread(dataset, data_dir, kind)
        return dataset.generate(split)
    if kind in ("auto", "array_record"):
        prepared = find_prepared(dataset, data_dir)
        if prepared is not None:
            return RecordVideos(prepared, split, dataset.num_classes)
    for root in roots(dataset, data_dir):
        if kind in ("auto", "list") and (root / f"{split}.txt").is_file():
            return FileVideos(read_list(root / f"{split}.txt", dataset.num_classes))
        if kind in ("auto", "folder") and (root / split).is_dir():
            return FileVideos(read_folders(root / split, dataset.folders()))
    raise UserError(_missing(dataset, split, data_dir, kind))


def read_list(path: pathlib.Path, num_classes: int) -> list[Listed]:
    """The videos of a list.

    Args:
      path: a text file with a line `path label` for each video. A path is absolute or relative to
        the list's folder, and may contain spaces.
      num_classes: labels are below this number.

    Raises:
      UserError: a line is not of that form, a label is out of range, or there is no line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list {path} cannot be read: {error}.") from error
    listed = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise UserError(
                f"Line {number} of {path} is {line[:200]!r}; it must be `path label`, with the "
                "label as a number."
            )
        if int(label) >= num_classes:
            raise UserError(
                f"Line {number} of {path} has the label {label}, and there are {num_classes} "
                f"classes: 0 to {num_classes - 1}. Correct the list or config.model.num_classes."
            )
        listed.append(Listed(path.parent / name, int(label), name))
    if not listed:
        raise UserError(f"The list {path} names no video. Write a line `path label` for each.")
    return listed


def read_folders(folder: pathlib.Path, labels: dict[str, int]) -> list[Listed]:
    """The videos of a folder of each class, sorted by class and name.

    Args:
      folder: holds a folder for each class.
      labels: the label of each class by the name of its folder.

    Raises:
      UserError: there is no video, or a video lies in no folder of a class.
    """
    listed = []
    for name in files_below(folder, SUFFIXES).files:
        inner = name.partition("/")[0].replace(" ", "_") if "/" in name else ""
        if inner not in labels:
            where = f"the folder {folder / inner}" if inner else f"{folder}, outside of all folders"
            raise UserError(
                f"The video {folder / name} is in {where}, which is no class. Rename the folder "
                "after one of the classes, with _ for spaces, or take it away."
            )
        listed.append(Listed(folder / name, labels[inner], name))
    if not listed:
        raise UserError(
            f"{folder} holds no video. Put the videos of each class into {folder}/CLASS; they end "
            f"in {', '.join(SUFFIXES)}."
        )
    return sorted(listed, key=lambda video: (video.label, video.name))


class FileVideos:
    """Videos in files of their own.

    Args:
      listed: the files.
    """

    def __init__(self, listed: Sequence[Listed]):
        self._listed = listed

    def __len__(self) -> int:
        return len(self._listed)

    def __getitem__(self, index: int) -> EncodedVideo:
        path, label, name = self._listed[index]
        return EncodedVideo(path, label, name, str(path))

    def name(self, index: int) -> str:
        """See EncodedVideos."""
        return self._listed[index].name


class RecordVideos:
    """Videos of a prepared data set.

    Args:
      folder: holds TFDS's dataset_info.json and the records.
      split: "train" or "val".
      num_classes: labels are below this number.

    Raises:
      UserError: the folder is none, or has no such split; from `__getitem__`, a record is damaged
        or has another label.
    """

    def __init__(self, folder: pathlib.Path, split: str, num_classes: int):
        self._records, self._num_classes = Records(folder, split), num_classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> EncodedVideo:
        record, folder = self._records[index], self._records.folder
        name, label = record["name"], int(record["label"])
        if not 0 <= label < self._num_classes:
            raise UserError(
                f"Record {index} of {folder} has the label {label}, and there are "
                f"{self._num_classes} classes. Prepare the data set again."
            )
        return EncodedVideo(record["video"], label, name, f"{name} in {folder}")

    def name(self, index: int) -> str:
        """See EncodedVideos."""
        return self[index].name


def _missing(dataset: VideoDataset, split: str, data_dir: str, kind: str) -> str:
    wanted = {
        "auto": f"no prepared files, no list {split}.txt and no folder {split}",
        "array_record": "no prepared files",
        "list": f"no list {split}.txt",
        "folder": f"no folder {split}",
    }[kind]
    looked = " or ".join(map(str, roots(dataset, data_dir)))
    return f"There are {wanted} of {dataset.name} in {looked}. {dataset.remedy}"
