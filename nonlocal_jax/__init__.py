"""NonLocalNet for semantic segmentation in JAX and Flax.

    import nonlocal_jax

    model = nonlocal_jax.load("runs/camvid")
    mask = model.predict(nonlocal_jax.read_image("photo.jpg"))

What is public is imported when it is first used: `import nonlocal_jax` alone imports nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nonlocal_jax.errors import UserError
    from nonlocal_jax.evaluation.predictor import Predictor, load
    from nonlocal_jax.inputs.decode import read_image
    from nonlocal_jax.models.network import build_network
    from nonlocal_jax.models.non_local import NonLocal1d, NonLocal2d, NonLocal3d

__version__ = "0.2.0"
__all__ = [
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "Predictor",
    "UserError",
    "__version__",
    "build_network",
    "load",
    "read_image",
]

_HOMES = {
    "NonLocal1d": "models.non_local",
    "NonLocal2d": "models.non_local",
    "NonLocal3d": "models.non_local",
    "Predictor": "evaluation.predictor",
    "UserError": "errors",
    "build_network": "models.network",
    "load": "evaluation.predictor",
    "read_image": "inputs.decode",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
