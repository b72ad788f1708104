"""What the names in a config stand for: one line for each module that can be selected.

A module of a table has `Options`, a dataclass of settings, and `build`. docs/extending.md shows
each kind. A name with a dot is a module outside of these tables, such as `my_package.my_head`, so a
head of your own needs no change here.

Modules are named, not imported, so this module depends on none of them.
"""

import importlib
from types import ModuleType

from nonlocal_jax.errors import UserError

BACKBONES = {
    "resnet": "nonlocal_jax.models.backbones.resnet",
    "video_resnet": "nonlocal_jax.models.backbones.video_resnet",
}
HEADS = {
    "nonlocal": "nonlocal_jax.models.heads.nonlocal_head",
    "fcn": "nonlocal_jax.models.heads.fcn",
    "ann": "nonlocal_jax.models.heads.ann",
    "isa": "nonlocal_jax.models.heads.isa",
    "ema": "nonlocal_jax.models.heads.ema",
    "psa": "nonlocal_jax.models.heads.psa",
    "dnl": "nonlocal_jax.models.heads.dnl",
    "gc": "nonlocal_jax.models.heads.gc",
    "cc": "nonlocal_jax.models.heads.cc",
    "da": "nonlocal_jax.models.heads.da",
    "classification": "nonlocal_jax.models.heads.classification",
}
DATASETS = {
    "cityscapes": "nonlocal_jax.inputs.datasets.cityscapes",
    "ade20k": "nonlocal_jax.inputs.datasets.ade20k",
    "voc12aug": "nonlocal_jax.inputs.datasets.voc12aug",
    "camvid": "nonlocal_jax.inputs.datasets.camvid",
    "scenes": "nonlocal_jax.inputs.datasets.scenes",
    "folder": "nonlocal_jax.inputs.datasets.folder",
    "kinetics": "nonlocal_jax.inputs.datasets.kinetics",
    "video_folder": "nonlocal_jax.inputs.datasets.video_folder",
    "moving_shapes": "nonlocal_jax.inputs.datasets.moving_shapes",
}
LOSSES = {
    "cross_entropy": "nonlocal_jax.training.losses.cross_entropy",
    "ohem": "nonlocal_jax.training.losses.ohem",
    "dice": "nonlocal_jax.training.losses.dice",
    "focal": "nonlocal_jax.training.losses.focal",
    "lovasz": "nonlocal_jax.training.losses.lovasz",
    "sum": "nonlocal_jax.training.losses.sum",
    "same": "nonlocal_jax.training.losses.same",
    "classification": "nonlocal_jax.training.losses.classification",
}
OPTIMIZERS = {
    "sgd": "nonlocal_jax.training.optimizers.sgd",
    "adamw": "nonlocal_jax.training.optimizers.adamw",
    "caffe2_sgd": "nonlocal_jax.training.optimizers.caffe2_sgd",
}
SCHEDULES = {
    "polynomial": "nonlocal_jax.training.schedules.polynomial",
    "cosine": "nonlocal_jax.training.schedules.cosine",
    "steps": "nonlocal_jax.training.schedules.steps",
    "constant": "nonlocal_jax.training.schedules.constant",
}
TASKS = {
    "segmentation": "nonlocal_jax.training.tasks.segmentation",
    "video": "nonlocal_jax.training.tasks.video",
}
METRICS = {
    "iou": "nonlocal_jax.evaluation.metrics.iou",
    "acc": "nonlocal_jax.evaluation.metrics.accuracy",
    "dice": "nonlocal_jax.evaluation.metrics.dice",
    "fscore": "nonlocal_jax.evaluation.metrics.fscore",
    "precision": "nonlocal_jax.evaluation.metrics.precision",
}
WRITERS = {
    "auto": "nonlocal_jax.training.writers.auto",
    "tensorboard": "nonlocal_jax.training.writers.tensorboard",
    "wandb": "nonlocal_jax.training.writers.wandb",
    "mlflow": "nonlocal_jax.training.writers.mlflow",
}
# What a module has; for tables that are not here, Options and build.
NEEDED = {
    "datasets": ("build",),
    "metrics": ("TITLE", "MEAN_TITLE", "build"),
    "writers": ("check", "build"),
}
TABLES = {
    "backbones": BACKBONES,
    "heads": HEADS,
    "datasets": DATASETS,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "metrics": METRICS,
    "tasks": TASKS,
    "writers": WRITERS,
}
OF_A_TASK = ("backbones", "heads", "datasets", "losses")  # the others are for any task
OF_ONE_KEY = {"same": "auxiliary_loss.name"}  # names that no other key may have
_USUAL_TASK = "segmentation"  # of a module that states none


def find(table: str, name: str, key: str) -> ModuleType:
    """The module that `name` stands for in a table.

    Args:
      table: one of TABLES.
      name: in it, or the dotted name of a module of your own.
      key: of the config that holds the name, for errors.

    Raises:
      UserError: there is no such name or module.
    """
    check(table, name, key)
    path = TABLES[table].get(name, name)
    if path != name:
        return importlib.import_module(path)
    try:
        module = importlib.import_module(path)
    except Exception as error:  # whatever a module of the user's own may raise
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{path}.".startswith(f"{missing}."):
            raise UserError(
                f"config.{key} is {name!r}, and there is no module of that name to import. Python "
                "searches the working folder and those of PYTHONPATH."
            ) from error
        raise UserError(
            f"config.{key} is {name!r}, and that module cannot be imported: "
            f"{type(error).__name__}: {error}."
        ) from error
    lacking = [
        part for part in NEEDED.get(table, ("Options", "build")) if not hasattr(module, part)
    ]
    if lacking:
        raise UserError(
            f"config.{key} is {name!r}, and that module has no {lacking[0]}: docs/extending.md "
            "says what a module needs."
        )
    return module


def find_for(task: str, table: str, name: str, key: str) -> ModuleType:
    """The module that `name` stands for, which must be one for a task; see `find`.

    A module for videos states `TASK = "video"`; the others are for segmentation. A loss of your own
    that states nothing may be for either.

    Raises:
      UserError: there is no such name or module, or it is for another task.
    """
    check(table, name, key, task)
    module = find(table, name, key)
    if name not in TABLES[table] and table in OF_A_TASK:
        of = getattr(module, "TASK", task if table == "losses" else _USUAL_TASK)
        _check_task(of, task, name, key)
    return module


def check(table: str, name: str, key: str, task: str = "") -> None:
    """Checks a name. Only modules of the table are imported, for their task.

    Args:
      table: one of TABLES.
      name: in it, or with a dot.
      key: of the config that holds the name, for errors.
      task: of the config; empty: any.

    Raises:
      UserError: there is no such name, or it is for another task.
    """
    known = TABLES[table]
    if name not in known and "." not in name:
        listed = ", ".join(choices(table, task, key))
        raise UserError(
            f"config.{key} is {name!r}; it must be one of {listed}, or a module of your own, with "
            "a dot in its name."
        )
    if name in known and task and table in OF_A_TASK:
        _check_task(_task_of(table, name), task, name, key)


def choices(table: str, task: str, key: str) -> list[str]:
    """The names of a table that a key of the config may have.

    Args:
      table: one of TABLES.
      task: of the config; empty: any.
      key: of the config that holds the name.
    """
    return [
        name
        for name in TABLES[table]
        if OF_ONE_KEY.get(name, key) == key
        and (not task or table not in OF_A_TASK or _task_of(table, name) == task)
    ]


def _task_of(table: str, name: str) -> str:
    """The task of a module of a table."""
    return getattr(importlib.import_module(TABLES[table][name]), "TASK", _USUAL_TASK)


def _check_task(of: str, task: str, name: str, key: str) -> None:
    if of != task:
        raise UserError(f"config.{key} is {name!r}, which is for {of}; this config is for {task}.")
