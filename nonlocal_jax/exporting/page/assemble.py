"""Joins the files of web/ and the data into one HTML file."""

import html
import json
import pathlib
import string
from collections.abc import Sequence
from importlib import resources

import numpy as np
from jaxtyping import UInt8

import nonlocal_jax
from nonlocal_jax.checkpoints.locate import Found
from nonlocal_jax.errors import UserError, counted
from nonlocal_jax.exporting.page.entry import Entry, printable
from nonlocal_jax.exporting.page.own_picture import SERVER, OwnPicture
from nonlocal_jax.exporting.page.packing import base64_of
from nonlocal_jax.reporting import attention, pictures

SCRIPTS = ("decode.js", "attention.js", "draw.js", "reading.js", "own.js", "explorer.js")
MOST_BYTES = 400_000_000  # browsers don't hold a text of 512 MB
# The browser refuses any request, and any script but those in the file.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
RUNS_MODEL = " 'wasm-unsafe-eval' blob:"  # a script that the page has made
DOWNLOADS = f"; connect-src {SERVER}"


def checkpoint_name(found: Found) -> str:
    """Which checkpoint it is, without where it lies: the page may be published."""
    folder = printable((found.run or found.folder).name)
    return folder if found.step is None else f"step {found.step} of {folder}"


def page_data(
    entries: Sequence[Entry],
    *,
    network: str,
    class_names: Sequence[str] = (),
    palette: UInt8[np.ndarray, "classes 3"] | None = None,
    own: OwnPicture | None = None,
) -> dict[str, object]:
    """What the page's scripts read.

    Args:
      entries: the pictures.
      network: a line that tells which network it is.
      class_names: of the mask's classes.
      palette: their colours.
      own: the network for visitors' pictures, or None.
    """
    levels = np.arange(256, dtype=np.uint8)[:, None]
    return {
        "network": network,
        "classes": list(class_names),
        "palette": [] if palette is None else palette.tolist(),
        "colours": base64_of(pictures.heat(levels)),
        "scale": {
            "least": attention.LEAST,
            "most": attention.MOST,
            "opacity": attention.OPACITY,
        },
        "notes": _notes(entries, own),
        "own": None if own is None else own.values(),
        "items": [entry.values for entry in entries],
    }


def write_page(
    path: pathlib.Path,
    data: dict[str, object],
    entries: Sequence[Entry],
    own: OwnPicture | None = None,
    unit: str = "picture",
) -> list[str]:
    """Writes the file, and returns lines that tell its size and how exact it is.

    Args:
      path: of the file.
      data: what the page's scripts read.
      entries: the pictures or videos.
      own: the network for visitors' pictures, or None.
      unit: what an entry is.

    Raises:
      UserError: it can't be written, or is too large for browsers.
    """
    content = page_text(data, title=f"{data['network']}: attention", policy=_policy(own)).encode()
    megabytes = len(content) / 1e6
    if len(content) > MOST_BYTES:
        raise UserError(
            f"The page would have {megabytes:.0f} MB, which browsers don't open: give fewer "
            f"{unit}s, or a smaller config.eval.scale."
        )
    pictures.write(path, content)
    count = counted(len(entries), unit)
    return [f"{path}: {megabytes:.2f} MB, {count}.", exactness(entries)]


def page_text(data: dict[str, object], *, title: str, policy: str = POLICY) -> str:
    """The HTML file.

    Args:
      data: what the page's scripts read.
      title: of the page.
      policy: what the browser lets the page do.
    """
    web = resources.files(__package__) / "web"

    def read(name: str) -> str:
        return (web / name).read_text(encoding="utf-8")

    return string.Template(read("template.html")).substitute(
        title=html.escape(title),
        policy=policy,
        style=read("style.css"),
        data=embedded_json(data),
        script="\n".join(map(read, SCRIPTS)),
        own=read("own.html") if data["own"] else "",
    )


def embedded_json(data: object) -> str:
    """JSON that can stand inside of a script element, whatever its texts are."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def exactness(entries: Sequence[Entry]) -> str:
    """How the page's weights are stored, and how far they are from the network's."""
    bits = " or ".join(f"{bits}-bit" for bits in sorted({entry.bits for entry in entries}))
    error, points = max(entry.error for entry in entries), sum(entry.points for entry in entries)
    return (
        f"Weights are computed in the browser, from queries and keys stored as {bits} integers "
        "with a scale for each position. When the page was made, the weights of "
        f"{points} points differed from the network's own by at most {error:.1e}."
    )


def _policy(own: OwnPicture | None) -> str:
    if own is None:
        return POLICY
    return POLICY + RUNS_MODEL + ("" if own.runtime else DOWNLOADS)


def _notes(entries: Sequence[Entry], own: OwnPicture | None) -> list[str]:
    """What the page tells of itself."""
    notes = [exactness(entries)]
    if any(entry.kind != "softmax" for entry in entries):
        notes.append(
            "This block has no softmax: its weights need not be positive or sum to one. Shares "
            "are those of the positive weights."
        )
    made = f"Made by nonlocal_jax {nonlocal_jax.__version__}."
    downloads = own is not None and not own.runtime
    notes.append(made if downloads else f"{made} It needs no internet connection.")
    return notes
