"""The builders of `data/NAME/NAME_dataset_builder.py`, installed or in the repository."""

import importlib
import importlib.util
import pathlib
import sys
from types import ModuleType
from typing import Any

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.preparation.records import RecordsBuilder

PACKAGE = "nonlocal_jax.data"  # as which `data/` is installed
REPOSITORYS = pathlib.Path(__file__).resolve().parents[3] / "data"
ENDING = "_dataset_builder.py"


def names() -> list[str]:
    """The data sets that can be prepared."""
    folders = (pathlib.Path(path) for path in _package().__path__)
    return sorted(
        {path.parent.name for folder in folders for path in folder.glob(f"[a-z]*/*{ENDING}")}
    )


def load(name: str) -> type[RecordsBuilder[Any]]:
    """The builder of a data set.

    Raises:
      UserError: there is none of that name.
    """
    if name not in names():
        raise UserError(f"{name!r} cannot be prepared; it must be one of {', '.join(names())}.")
    module = importlib.import_module(f"{_package().__name__}.{name}.{name}_dataset_builder")
    builder: type[RecordsBuilder[Any]] = module.Builder
    return builder


def _package() -> ModuleType:
    """The package that holds the builders; in a repository that is not installed, its `data/`."""
    try:
        return importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
    spec = importlib.util.spec_from_file_location(
        PACKAGE, REPOSITORYS / "__init__.py", submodule_search_locations=[str(REPOSITORYS)]
    )
    if spec is None or spec.loader is None or not REPOSITORYS.is_dir():
        raise UserError("This installation of nonlocal_jax lacks its builders of data sets.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    return module
