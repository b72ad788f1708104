"""What a run's folder says about its training: the entries of its log, and its evaluations."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from nonlocal_jax.reporting import time_spent

LOG = "metrics.jsonl"
EVALUATIONS = "evaluations"  # a folder with STEP.json of each evaluation
CONFIG, ENVIRONMENT = "config.json", "environment.json"
SCORES = "evaluation/scores.json"  # of the command `evaluate`
OF_A_STEP = "learning_rate"  # what an entry of a training step has, and that of an evaluation lacks

Entry = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class History:
    """The history of a run. What is not there, or can't be read, is empty.

    Attributes:
      folder: of the run.
      steps: the entries of training steps, in order: `step`, `loss`, `time`, ...
      evaluations: the entries of evaluations, in order: `step`, `miou` or `top1`, `iou`, ...
      records: all that is kept of evaluations, by step: `classes`, `confusion`, `worst`, ...
      config: the settings of the run.
      environment: versions, devices, command.
      goodput: `seconds` by what they were spent on; see time_spent.
      unreadable: lines of the log and files that can't be read, a description each.
    """

    folder: pathlib.Path
    steps: tuple[Entry, ...] = ()
    evaluations: tuple[Entry, ...] = ()
    records: Mapping[int, Entry] = dataclasses.field(default_factory=dict)
    config: Entry = dataclasses.field(default_factory=dict)
    environment: Entry = dataclasses.field(default_factory=dict)
    goodput: Entry = dataclasses.field(default_factory=dict)
    unreadable: tuple[str, ...] = ()

    @property
    def score(self) -> str:
        """The name of the score that the best checkpoint is chosen by: "miou", or "top1"."""
        return "top1" if any("top1" in entry for entry in self.evaluations) else "miou"

    @property
    def by_class(self) -> str:
        """The name of the scores of classes in an evaluation's entry."""
        return "top1_by_class" if self.score == "top1" else "iou"

    @property
    def best(self) -> Entry | None:
        """The evaluation of the best score, the later of equal ones; None without any."""
        scored = [e for e in self.evaluations if is_number(e.get(self.score))]
        return max(scored, key=lambda e: (e[self.score], e["step"]), default=None)

    @property
    def last_step(self) -> int:
        """The last step in the log; 0 without any."""
        return max((entry["step"] for entry in (*self.steps, *self.evaluations)), default=0)

    def setting(self, key: str) -> Any:
        """A setting of the run by its dotted key; None if it is not known."""
        node: Any = self.config
        for name in key.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        return node

    def record(self) -> tuple[str, Entry] | None:
        """What is shown of evaluations in detail, and of which one: the best, else the last."""
        best = self.best
        if best is not None and best["step"] in self.records:
            return f"step {best['step']}, the best", self.records[best["step"]]
        if self.records:
            step = max(self.records)
            return f"step {step}", self.records[step]
        return None


def read(folder: pathlib.Path) -> History:
    """The history of the run in `folder`."""
    unreadable: list[str] = []
    entries, bad = _entries(folder / LOG)
    if bad:
        unreadable.append(f"{bad} of {bad + len(entries)} lines of {LOG}")
    records = {}
    for step, file in sorted(records_of(folder).items()):
        content = _object(file, unreadable)
        if content:
            records[step] = content
    if not records:  # of a run of 0.1, or an imported checkpoint, that `evaluate` was used on
        scores = _object(folder / SCORES, unreadable)
        at = scores.get("step")
        records = {at if isinstance(at, int) else 0: scores} if scores else {}
    return History(
        folder=folder,
        steps=tuple(entry for entry in entries if OF_A_STEP in entry),
        evaluations=tuple(entry for entry in entries if OF_A_STEP not in entry),
        records=records,
        config=_settings(_object(folder / CONFIG, unreadable)),
        environment=_object(folder / ENVIRONMENT, unreadable),
        goodput=_object(folder / time_spent.FILE, unreadable),
        unreadable=tuple(unreadable),
    )


def parse(line: bytes) -> dict[str, Any] | None:
    """The entry of one line of the log; None if it is damaged."""
    try:
        content = json.loads(line)
        return {**content, "step": int(content["step"])}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def records_of(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """The files of a run's evaluations, by step."""
    found = (folder / EVALUATIONS).glob("*.json")
    return {int(file.stem): file for file in found if file.stem.isdecimal()}


def _entries(file: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """The entries of a log, and how many lines are damaged; a last line may be half written."""
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except OSError:
        return [], 0
    parsed = [parse(line) for line in lines if line.endswith(b"\n")]
    entries = [entry for entry in parsed if entry is not None]
    return entries, len(parsed) - len(entries)


def _settings(content: Entry) -> Entry:
    """The config in a config.json, whose first version held nothing else."""
    config = content.get("config", content)
    return config if isinstance(config, Mapping) else {}


def _object(file: pathlib.Path, unreadable: list[str]) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file, or it can't be read."""
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    unreadable.append(file.name)
    return {}


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of an entry is a finite number; version 0.1 wrote NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def flat(entry: Entry, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of an entry by name, that of a class as "iou/road"."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
