"""What pages tell of a run in words and numbers: titles of scores, summaries, differences."""

import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from nonlocal_jax.config import files
from nonlocal_jax.config.video import backbone_details
from nonlocal_jax.reporting.history import Entry, History, is_number
from nonlocal_jax.reporting.report.charts import Series

TITLES = {
    "miou": "mIoU",
    "aacc": "pixel accuracy",
    "macc": "mAcc",
    "mdice": "mDice",
    "mfscore": "mFscore",
    "top1": "top-1",
    "top5": "top-5",
    "iou": "IoU",
    "acc": "Acc",
    "dice": "Dice",
    "fscore": "Fscore",
    "precision": "Precision",
    "top1_by_class": "top-1",
}
NO_SCORES = ("step", "time", "pixels", "videos")
MOST_ROWS = 200  # of a table; of more, every so many are shown

T = TypeVar("T")


def percent(value: object) -> str | None:
    """A share in percent; None if it is none."""
    return f"{100 * float(value):.2f}" if is_number(value) else None


def number(value: object) -> str | None:
    """A number of a log with four digits; None if it is none."""
    return f"{value:.4g}" if is_number(value) else None


def score_names(entries: Sequence[Entry]) -> list[str]:
    """The names of the scores in entries of evaluations, the main one first."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    main = [name for name in ("miou", "top1") if names.pop(name, "no") is None]
    return main + [
        name
        for name in names
        if name not in NO_SCORES and not any(isinstance(e.get(name), Mapping) for e in entries)
    ]


def series(name: str, entries: Sequence[Entry], key: str) -> Series:
    """A line of the values of a key over the steps of entries."""
    return Series(name, [e["step"] for e in entries], [e.get(key) for e in entries])


def rate_key(entries: Sequence[Entry]) -> str | None:
    """The key of the speed: images_per_second, or that of another task."""
    found = [key for entry in entries for key in entry if key.endswith("_per_second")]
    return found[0] if found else None


def rate_title(key: str) -> str:
    """The title of a chart of a speed: "Images per second"."""
    return f"{key.removesuffix('_per_second').capitalize()} per second"


def summary(history: History) -> dict[str, object]:
    """The most important facts of a run, by their titles; None for what is not known."""
    best, last = history.best, (history.evaluations or (None,))[-1]
    title = TITLES[history.score]
    total, rate = history.setting("total_steps"), rate_key(history.steps)
    speeds = [e[rate] for e in history.steps if rate and is_number(e.get(rate))]
    return {
        f"best {title}, %": best and percent(best[history.score]),
        "at step": best and best["step"],
        f"last {title}, %": last and percent(last.get(history.score)),
        "steps": f"{history.last_step} of {total}" if total else history.last_step or None,
        "data": history.setting("data.name"),
        "network": _network(history),
        "batch size": history.setting("batch_size"),
        "learning rate": history.setting("optimizer.learning_rate"),
        f"{(rate or 'images_per_second').replace('_per_second', '')}/s, median": (
            number(statistics.median(speeds)) if speeds else None
        ),
        "first entry of the log": _when(history, 0),
        "last entry of the log": _when(history, -1),
        "device": history.environment.get("devices"),
    }


def state(history: History) -> str:
    """Whether the run is finished, in a sentence."""
    total = history.setting("total_steps")
    if not history.steps and not history.evaluations:
        return "There is no log: this is an imported checkpoint, or a run that has logged nothing."
    if not isinstance(total, int) or history.last_step >= total:
        return "The run is finished."
    return (
        f"The run is at step {history.last_step} of {total}: it is still training, or was "
        "interrupted."
    )


def flat_config(history: History) -> dict[str, str]:
    """The settings of a run by their dotted keys."""
    flat = files.flatten(history.config)
    return {key: _shown(value) for key, value in flat.items()}


def flat_environment(history: History) -> dict[str, str]:
    """Versions, devices and sources of a run's last start."""
    shown = {key: _shown(value) for key, value in files.flatten(history.environment).items()}
    command = history.environment.get("command")
    if isinstance(command, list):
        shown["command"] = shlex.join(map(str, command))
    return shown


def differences(named: Mapping[str, Mapping[str, str]]) -> list[list[str | None]]:
    """The keys whose values differ between runs: the key, and the value of each run."""
    keys = sorted({key for values in named.values() for key in values})
    rows = [[key, *(values.get(key) for values in named.values())] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def thinned(rows: Sequence[T]) -> list[T]:
    """At most MOST_ROWS rows, evenly spread, and the last one."""
    every = -(-len(rows) // MOST_ROWS) or 1
    kept = list(rows[::every])
    return kept if not rows or kept[-1] is rows[-1] else [*kept, rows[-1]]


def _network(history: History) -> str | None:
    head = history.setting("model.decode_head.name") or history.setting("model.head.name")
    backbone = history.setting("model.backbone.name")
    depth = history.setting("model.backbone.depth")
    details = backbone_details(
        history.setting("model.backbone.kind"), history.setting("model.backbone.non_local")
    )
    parts = [
        backbone,
        None if depth is None else str(depth),
        details and f"({details})",
        head and f"with {head}",
    ]
    return " ".join(part for part in parts if part) or None


def _when(history: History, place: int) -> str | None:
    stamps = [e["time"] for e in (*history.steps, *history.evaluations) if is_number(e.get("time"))]
    if not stamps:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(sorted(stamps)[place]))


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
