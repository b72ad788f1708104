"""Packages that only some features need: the extras of pyproject.toml."""

import importlib.util

from nonlocal_jax.errors import UserError


def need(what: str, extra: str, *packages: str) -> None:
    """Makes sure that packages are installed.

    Args:
      what: needs them, for the message.
      extra: of nonlocal_jax, which installs them.
      packages: their names in imports.

    Raises:
      UserError: one is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs {' and '.join(missing)}: pip install 'nonlocal_jax[{extra}]'."
        )
