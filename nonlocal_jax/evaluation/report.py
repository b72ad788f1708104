"""Writes the reports of runs: a page for each, and one that compares them."""

import dataclasses
import pathlib
from collections.abc import Sequence

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.checkpoints.locate import CHECKPOINTS, Found
from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Config
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import run_pictures
from nonlocal_jax.evaluation.run_pictures import Pictures
from nonlocal_jax.reporting import history as histories
from nonlocal_jax.reporting import pictures
from nonlocal_jax.reporting.history import History
from nonlocal_jax.reporting.report import html
from nonlocal_jax.reporting.report.comparison import comparison
from nonlocal_jax.reporting.report.run_page import run_page
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import check_file

PAGE, INDEX = "report.html", "index.html"
SEVERAL = "report"  # the default folder of several runs' pages


def write(folders: Sequence[pathlib.Path], output: str | None, count: int) -> list[pathlib.Path]:
    """Writes a page for each run, and one that compares them if there are several.

    Args:
      folders: of the runs.
      output: a folder, or the file (.html) of the page, or of the comparison. By default the page
        of one run is RUN/report.html, and those of several are in the folder `report`.
      count: images of each run that are drawn.

    Returns:
      The files, the one to open first.

    Raises:
      UserError: a folder holds no run, or a page can't be written.
    """
    folders = list(dict.fromkeys(folder.absolute() for folder in folders))
    for folder in folders:
        _check(folder)
    names = short_names(folders)
    first, pages = _places(folders, names, output)
    for path in dict.fromkeys([first, *pages]):
        _check_place(path)
    runs: dict[str, History] = {}
    for folder, name, path in zip(folders, names, pages, strict=True):
        say(f"Reading {folder}.")
        found = _checkpoint(folder)
        history = _with_config(histories.read(folder), found)
        if history.unreadable:
            say(f"Can't be read: {', '.join(history.unreadable)}.")
        drawn, note = _pictures(history, found, count)
        pictures.write(path, run_page(name, history, drawn, note))
        runs[name] = history
    if len(runs) > 1:
        links = {name: path.name for name, path in zip(names, pages, strict=True)}
        pictures.write(first, comparison(runs, links))
    return list(dict.fromkeys([first, *pages]))


def short_names(folders: Sequence[pathlib.Path]) -> list[str]:
    """The names of folders: the last parts of their paths, as many as tell them apart."""
    for count in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["__".join(folder.parts[-count:]) for folder in folders]
        if len({name.casefold() for name in names}) == len(folders):
            break
    return [name.strip("/_") or "run" for name in names]


def _check(folder: pathlib.Path) -> None:
    """Raises a UserError for a folder without anything to report."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: name the folder of a run.")
    known = (histories.LOG, histories.EVALUATIONS, histories.CONFIG, CHECKPOINTS, "model")
    if not any((folder / name).exists() for name in known):
        inside = sorted(path.parent for path in folder.glob(f"*/{histories.CONFIG}"))
        hint = f" Did you mean {inside[0]}?" if inside else ""
        raise UserError(f"{folder} holds no run: there is neither a log nor a checkpoint.{hint}")


def _places(
    folders: Sequence[pathlib.Path], names: Sequence[str], output: str | None
) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """The page to open first, and the page of each run."""
    alone = len(folders) == 1
    if output is None and alone:
        return folders[0] / PAGE, [folders[0] / PAGE]
    given = pathlib.Path(output or SEVERAL)
    if given.suffix.lower() in (".html", ".htm") and not given.is_dir():
        pages = [given.with_name(f"{given.stem}-{name}.html") for name in names]
        return given, [given] if alone else pages
    pages = [
        given / f"{name if name.casefold() != 'index' else 'run-index'}.html" for name in names
    ]
    return (pages[0] if alone else given / INDEX), pages


def _check_place(path: pathlib.Path) -> None:
    """Raises a UserError if a page can't be written there, or would replace another file."""
    check_file(path)
    if path.is_file() and html.MARK.encode() not in path.read_bytes()[:2000]:
        raise UserError(f"{path} exists, and is no report: choose another --output.")


def _checkpoint(folder: pathlib.Path) -> Found | str:
    """The checkpoint that pictures are of: the best, else the latest; or why there is none."""
    try:
        return locate.find(folder)
    except UserError as error:
        return str(error)


def _with_config(history: History, found: Found | str) -> History:
    """The history, with the checkpoint's config if the folder has none."""
    if history.config or isinstance(found, str):
        return history
    try:
        config = read_metadata(found.folder).config
    except UserError:
        return history
    return history if config is None else dataclasses.replace(history, config=files.to_tree(config))


def _pictures(history: History, found: Found | str, count: int) -> Pictures:
    """The pictures of a run's worst images; none, and why, if that is not possible."""
    if not count:
        return Pictures([], "")
    if isinstance(found, str):
        return Pictures([], f"No image is drawn. {found}")
    try:
        config = read_metadata(found.folder).needed_config(found)
        if not isinstance(config, Config):
            return Pictures([], "")
        return run_pictures.draw(found, config, _worst(history, found), count)
    except UserError as error:
        return Pictures([], f"No image is drawn. {error}")


def _worst(history: History, found: Found) -> list[str]:
    """The images that the evaluation of a checkpoint was worst on."""
    if found.step is not None and found.step in history.records:
        record = history.records[found.step]
    else:
        record = (history.record() or ("", {}))[1]
    worst = record.get("worst", [])
    names = [one.get("name") for one in worst if isinstance(one, dict)] if worst else []
    return [name for name in names if isinstance(name, str)]
