"""Checks the package's annotations while the tests run: shapes, dtypes and plain types.

`install()` has to run before the rooms are imported. Arrays may be NumPy's as well as JAX's: the
tests pass both, as users do.
"""

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype

CHECKED = ("models", "ops", "inputs", "evaluation", "training")

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def install():
    jaxtyping.Array = jax.Array | np.ndarray
    rooms = [f"nonlocal_jax.{room}" for room in CHECKED]
    jaxtyping.install_import_hook(rooms, "typechecked.checker")
