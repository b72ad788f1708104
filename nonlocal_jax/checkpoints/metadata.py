"""The metadata of a checkpoint: its config, its classes, its source.

Format 2 holds the whole config. Format 1 held it for training runs only. An import in format 1 held
the settings of the network and the name of the config, which is read here.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.config import files, versions
from nonlocal_jax.config.schema import Run
from nonlocal_jax.errors import UserError

FORMAT = 2
Kind = Literal["training", "segmentor", "recognizer", "backbone"]


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The metadata of a checkpoint.

    Attributes:
      kind: a step of a run, an imported network (segmentor, recognizer), or an imported backbone.
      config: the config it was made with; None for a backbone, and for an import in format 1 of a
        config that is not installed.
      model: settings of the network: those of `config`, if there is one.
      network: name of the config or backbone that was imported: "ade20k_r50_80k".
      step: step of the run.
      meta: CLASSES and PALETTE, and other entries of an imported file.
      source: name and SHA-256 of the imported file.
      counters: PyTorch's `num_batches_tracked`, by PyTorch's keys.
      recent: metrics that are not in the run's log yet.
    """

    kind: Kind
    config: Run | None = None
    model: Any = None
    network: str = ""
    step: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    recent: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.config is not None:
            object.__setattr__(self, "model", self.config.model)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes by label; None if the checkpoint does not say."""
        names = self.meta.get("CLASSES")
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            return None
        return tuple(names)

    @property
    def palette(self) -> UInt8[np.ndarray, "classes 3"] | None:
        """RGB of the classes; None if the checkpoint does not say."""
        try:
            colours = np.asarray(self.meta.get("PALETTE"))
        except ValueError:  # rows of unequal length
            return None
        if colours.ndim != 2 or colours.shape[1] != 3 or colours.dtype.kind not in "iu":
            return None
        return colours.astype(np.uint8) if colours.min() >= 0 and colours.max() <= 255 else None

    def needed_config(self, where: object) -> Run:
        """The config.

        Args:
          where: the checkpoint, for the error.

        Raises:
          UserError: there is none.
        """
        if self.config is not None:
            return self.config
        if self.kind == "backbone":
            raise UserError(f"{where} is a backbone ({self.network}), not a whole network.")
        named = f"{self.network}, which is not installed" if self.network else "unknown"
        raise UserError(
            f"{where} does not hold the config it was made with (its name is {named}). Name the "
            "config with --config=FILE."
        )

    def to_tree(self) -> dict[str, Any]:
        """The metadata as JSON values, for `from_tree`.

        Raises:
          TypeError: JSON can't hold it.
        """
        tree = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.config is not None:
            tree["config"], tree["model"] = files.to_tree(self.config), None
        elif self.model is not None:
            tree["model"] = dataclasses.asdict(self.model)
        kept = {name: value for name, value in tree.items() if value or value == 0}
        # An error here is easier to understand than one in a thread of Orbax.
        return dict(json.loads(json.dumps({"format": FORMAT, **kept})))


def from_json(text: str | bytes, where: object) -> Metadata:
    """Reads metadata of this format or of an older one.

    Args:
      text: JSON of what `to_tree` returned.
      where: the checkpoint, for errors.

    Raises:
      UserError: it is no metadata, or a newer version wrote it.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, error) from error
    return from_tree(tree, where)


def from_tree(tree: Any, where: object) -> Metadata:
    """The same of what is parsed already."""
    try:
        version = int(tree.get("format", 1))
        kind = tree["kind"]
        if kind not in get_args(Kind):
            raise ValueError(f"its kind is {kind!r}")
        values = {
            "kind": kind,
            "network": str(tree.get("network", "")),
            "step": tree.get("step"),
            "meta": dict(tree.get("meta", {})),
            "source": dict(tree.get("source", {})),
            "counters": dict(tree.get("counters", tree.get("num_batches_tracked", {}))),
            "recent": tree.get("recent"),
        }
        given, model = tree.get("config"), tree.get("model")
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise _unreadable(where, error) from error
    refuse_newer(version, where)
    try:
        config = _config(given, model, values["network"], version, where)
        only = _model(model, version, where) if config is None and model else None
    except UserError as error:
        raise UserError(
            f"The checkpoint {where} was made with a config that can't be used here: {error}"
        ) from error
    return Metadata(**values, config=config, model=only)


def refuse_newer(version: int, where: object) -> None:
    """Raises a UserError if `version` is of a later version of this project."""
    if version > FORMAT:
        raise UserError(
            f"The checkpoint {where} has format {version}, and this version of nonlocal_jax reads "
            f"up to {FORMAT}: update nonlocal_jax."
        )


def _unreadable(where: object, error: Exception) -> UserError:
    return UserError(f"The checkpoint {where} has no readable metadata: {error}.")


def _config(
    given: Mapping[str, Any] | None,
    model: Mapping[str, Any] | None,
    name: str,
    version: int,
    where: object,
) -> Run | None:
    if given is not None:
        return files.validate(files.complete(versions.migrate(given, version, where)))
    if not model or name not in files.names():
        return None
    migrated = versions.migrate({"model": model}, version, where)
    return files.validate(files.complete({**files.read(name).to_dict(), **migrated}))


def _model(model: Mapping[str, Any], version: int, where: object) -> Any:
    migrated = versions.migrate({"model": model}, version, where)
    return files.validate(files.complete(migrated)).model
