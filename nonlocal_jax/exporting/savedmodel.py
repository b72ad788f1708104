"""SavedModel: a folder that TensorFlow runs, serves and converts, without JAX.

    model = tf.saved_model.load("folder")
    masks = model.segment(images)

The function is the same StableHLO program as of `--to=stablehlo`, inside of an operation of
TensorFlow, XlaCallModule.
"""

import importlib.util
import json
import pathlib
import shutil
import tempfile

import numpy as np

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting import check
from nonlocal_jax.exporting.description import describe
from nonlocal_jax.exporting.request import Request
from nonlocal_jax.exporting.stablehlo import PLATFORMS, exported, without_paths


def check_installed() -> None:
    """Raises a UserError if TensorFlow is missing."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError('--to=savedmodel needs TensorFlow: pip install "nonlocal_jax[savedmodel]".')


def write(request: Request) -> list[str]:
    """Writes a SavedModel whose function is `segment`, with the classes in assets.extra.

    Raises:
      UserError: TensorFlow is missing, results differ from JAX's, or the folder can't be written.
    """
    check_installed()
    import tensorflow as tf
    from jax.experimental import jax2tf

    seen = check.images(request)
    convert = jax2tf.convert(
        exported(request).call,
        polymorphic_shapes=["n, height, width, 3"],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    module = tf.Module()
    images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    module.segment = tf.function(convert, autograph=False, input_signature=[images])
    try:
        request.output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=request.output.parent) as folder:
            unfinished = pathlib.Path(folder) / request.output.name
            with without_paths():
                tf.saved_model.save(module, str(unfinished), signatures=module.segment)
            loaded = tf.saved_model.load(str(unfinished))
            told = check.compare(request, lambda some: np.asarray(loaded.segment(some)), seen)
            extra = unfinished / "assets.extra"
            extra.mkdir()
            (extra / "classes.json").write_text(json.dumps(describe(request), indent=1))
            shutil.move(unfinished, request.output)
    except OSError as error:
        raise UserError(f"{request.output} can't be written: {error.strerror}.") from error
    return [told, f"Wrote {request.output}."]
