"""Folders and lists of a published tree, or what it lacks."""

import pathlib

from nonlocal_jax.errors import UserError


def split_folder(root: pathlib.Path, split: str) -> pathlib.Path:
    """The folder of a split.

    Raises:
      UserError: there is none, as after half a download.
    """
    if not (root / split).is_dir():
        there = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "no folder"
        raise UserError(
            f"{root} has {there} but no {split}: this is another download, or it was not unpacked "
            "whole."
        )
    return root / split


def names(path: pathlib.Path) -> list[str]:
    """The lines of a list such as ImageSets/Segmentation/train.txt.

    Raises:
      UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: the download was not unpacked whole.")
    return path.read_text().split()
