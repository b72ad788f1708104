"""StableHLO: a file for CPU, GPU and TPU that JAX runs without this package.

file = pathlib.Path("network.stablehlo")
call = jax.export.deserialize(bytearray(file.read_bytes())).call
masks = call(images)
"""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from nonlocal_jax.checkpoints import conversion
from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting import check
from nonlocal_jax.exporting.description import describe
from nonlocal_jax.exporting.function import Exported, Images, tracing
from nonlocal_jax.exporting.request import Request, Written
from nonlocal_jax.ops.dims import Dim
from nonlocal_jax.reporting import pictures
from nonlocal_jax.runtime.files import write_json

PLATFORMS = ("cpu", "cuda", "tpu")


def write(request: Request) -> Written:
    """Writes a serialised `jax.export.Exported`, and FILE.json beside it with the classes.

    Raises:
      UserError: FILE.json exists, the head needs known sizes, results differ from JAX's, or a file
        can't be written.
    """
    description = conversion.new_path(f"{request.output}.json")
    content = bytes(exported(request).serialize())
    loaded: export.Exported = export.deserialize(bytearray(content))
    told = check.compare(request, lambda some: np.asarray(loaded.call(some)))
    write_json(description, describe(request))
    try:
        pictures.write(request.output, content)
    except UserError:
        description.unlink()
        raise
    size = f"{len(content) / 1e6:,.1f} MB"
    return Written([told, f"Wrote {request.output} ({size}) and {description}."])


def exported(request: Request) -> export.Exported:
    """A request's function for all platforms, with its weights, for images of any size.

    What follows the resizing of the images is exported first, and has symbols of its own for
    their sizes; see `Exported`.

    Raises:
      UserError: the head needs images of a known size.
    """
    function = Exported(request)
    if function.smallest > 1:
        raise UserError(
            "config.model.decode_head.sub_sample=True can't be exported as StableHLO for images of "
            "any size: JAX does not trace it. --to=onnx takes it."
        )
    variables = function.variables
    ratios = range(len(function.protocol.ratios))
    names = ["n", "height", "width", *(f"{side}{i}" for i in ratios for side in "hw")]
    count, height, width, *sides = export.symbolic_shape(", ".join(names))

    def argument(height: Dim, width: Dim) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, height, width, 3), jnp.uint8)

    scales = tuple(argument(*sides[2 * i : 2 * i + 2]) for i in ratios)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in variables.items()}
    with without_paths(), tracing(request):
        infer = export.export(jax.jit(function.infer), platforms=PLATFORMS)(
            shapes, argument(height, width), scales
        )

    def whole(images: Images) -> jax.Array:
        result: jax.Array = infer.call(variables, images, function.scale(images))
        return result

    with without_paths():
        return export.export(jax.jit(whole), platforms=PLATFORMS)(argument(height, width))


@contextlib.contextmanager
def without_paths() -> Iterator[None]:
    """A context in which programs name source files without the folders of this machine."""
    option = "jax_hlo_source_file_canonicalization_regex"
    before = jax.config.values[option]
    jax.config.update(option, "^.*/")
    try:
        yield
    finally:
        jax.config.update(option, before)
