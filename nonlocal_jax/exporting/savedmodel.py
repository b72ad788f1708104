"""SavedModel: a folder that TensorFlow runs, serves and converts, without JAX.

    model = tf.saved_model.load("folder")
    masks = model.segment(images)

The function is the same StableHLO program as of `--to=stablehlo`, inside of an operation of
TensorFlow, XlaCallModule.
"""

import json
import pathlib
import shutil
import tempfile

import numpy as np

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting import check
from nonlocal_jax.exporting.description import describe
from nonlocal_jax.exporting.request import Request, Written
from nonlocal_jax.exporting.stablehlo import PLATFORMS, exported, without_paths


def write(request: Request) -> Written:
    """Writes a SavedModel whose function is `segment`, with the classes in assets.extra.

    Raises:
      UserError: results differ from JAX's, or the folder can't be written.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

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
            told = check.compare(request, lambda some: np.asarray(loaded.segment(some)))
            extra = unfinished / "assets.extra"
            extra.mkdir()
            (extra / "classes.json").write_text(json.dumps(describe(request), indent=1))
            shutil.move(unfinished, request.output)
    except OSError as error:
        raise UserError(f"{request.output} can't be written: {error.strerror or error}.") from error
    return Written([told, f"Wrote {request.output}."])
