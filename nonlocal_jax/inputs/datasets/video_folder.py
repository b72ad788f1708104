"""Videos of your own: train/CLASS and val/CLASS, or the lists train.txt and val.txt.

The classes are the lines of classes.txt. Without that file they are the folders in train, in ASCII
order.
"""

import pathlib

from nonlocal_jax.config.video import VideoData
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.video.dataset import VideoDataset

TASK = "video"
FOLDER = "data/video_folder"  # if no folder is named
CLASSES_FILE = "classes.txt"


def build(data: VideoData, data_dir: str) -> VideoDataset:
    """The data set in a folder.

    Raises:
      UserError: there are no classes, or the list of classes is invalid.
    """
    return VideoDataset(
        name="video_folder",
        class_names=read_classes(pathlib.Path(data_dir or FOLDER)),
        roots=(FOLDER,),
        remedy="Give the folder that holds train/CLASS and val/CLASS with the videos of each class "
        "with --config.data_dir=DIR.",
    )


def read_classes(root: pathlib.Path) -> tuple[str, ...]:
    """The class names of a folder of videos, in the order of the labels.

    Raises:
      UserError: there are none, one is empty, cannot be printed, or is there twice.
    """
    path = root / CLASSES_FILE
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The list of classes {path} cannot be read: {error}.") from error
        names = [line.strip() for line in lines if line.strip()]
    elif (root / "train").is_dir():
        path = root / "train"
        names = sorted(f.name for f in path.iterdir() if f.is_dir() and f.name[0] != ".")
    else:
        raise UserError(
            f"{root} has neither {CLASSES_FILE} nor a folder train. Put the videos of each class "
            "into train/CLASS and val/CLASS, and name the folder with --config.data_dir=DIR."
        )
    folders = [name.replace(" ", "_") for name in names]
    bad = [name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1]
    bad += [name for name in names if not name.isprintable()]
    if bad:
        raise UserError(f"The class {bad[0]!a} of {path} is there twice or cannot be printed.")
    if not names:
        raise UserError(f"{path} names no class.")
    return tuple(names)
