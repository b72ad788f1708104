"""The sharding of activations on the mesh in context, if there is one.

Inside `jax.set_mesh(mesh)`, images are split over the axes `data` and `fsdp`, and the rows of each
image over `spatial`. XLA does most of the rest: convolutions exchange the rows at their borders,
and means over a batch become sums over all devices. The functions here state what XLA would do
worse or wrongly. Without a mesh, and inside functions that already run on each device, they do
nothing.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

IMAGE_AXES = ("data", "fsdp")
ROW_AXIS = "spatial"

Queries = TypeVar("Queries")
Keys = TypeVar("Keys")
Results = TypeVar("Results")
Sums = TypeVar("Sums")


def split(images: Array) -> Array:
    """[n, rows, ...] with images and rows split. The rows need not divide evenly."""
    axes = _axes()
    if not axes:
        return images
    parts: Array = jax.lax.with_sharding_constraint(images, _split_spec(axes, images))
    return parts


def whole_rows(images: Array) -> Array:
    """[n, rows, ...] with images split. Devices that share an image each hold all of it."""
    axes = _axes()
    if not axes:
        return images
    return gather(images, P(_image_axes(axes, images)), _split_spec(axes, images))


def everywhere(array: Array) -> Array:
    """A small array that every device holds whole."""
    if not _axes():
        return array
    whole: Array = jax.lax.with_sharding_constraint(array, P())
    return whole


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather(x: Array, whole: P, parts: P) -> Array:
    """`x` with the sharding `whole` on the mesh in context; its gradient has the sharding `parts`.

    With a plain constraint the gradient would be whole, too, and its factors would be gathered.
    """
    gathered: Array = jax.lax.with_sharding_constraint(x, whole)
    return gathered


def _gather_forward(x: Array, whole: P, parts: P) -> tuple[Array, None]:
    return gather(x, whole, parts), None


def _gather_backward(whole: P, parts: P, _: None, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(gradient, parts),)


gather.defvjp(_gather_forward, _gather_backward)


def on_each_device(
    function: Callable[..., Results], queries: Queries, keys: Keys, *everywhere: Array
) -> Results:
    """Applies function(queries, keys) -> [n, rows, ...] on each device to its rows of the queries.

    A device gets the rows of its images and all keys of these images. So XLA never splits a custom
    kernel or a loop inside the function. Gradients of keys are summed over devices.

    Args:
      function: row i of its results depends on row i of the queries and on all keys.
      queries: arrays [n, rows, ...].
      keys: arrays [n, ...].
      everywhere: further arguments of the function, that all devices get whole.
    """
    if not _axes():
        return function(queries, keys, *everywhere)
    length = jax.tree.leaves(queries)[0].shape[1]
    rows = _shared(function, _pad_rows(queries, 0), keys, *everywhere)
    results: Results = jax.tree.map(lambda x: x[:, :length], rows)
    return results


def sum_over_devices(
    function: Callable[[Queries, Keys], Sums], queries: Queries, keys: Keys, *, fill: int
) -> Sums:
    """The sum of function(queries, keys), which are scalars, over the parts of `on_each_device`.

    If the rows do not divide evenly over devices, the missing ones are filled with `fill`.
    """
    if not _axes():
        return function(queries, keys)

    def part(queries: Queries, keys: Keys) -> Any:
        return jax.tree.map(lambda x: x.reshape(1, 1), function(queries, keys))

    sums: Sums = jax.tree.map(jnp.sum, _shared(part, _pad_rows(queries, fill), keys))
    return sums


def sum_over_rows(
    function: Callable[[Queries, Keys], Sums], queries: Queries, keys: Keys, *, fill: Any
) -> Sums:
    """The sum of function(queries, keys), a tree of [n, ...], over devices that share an image.

    `fill` is a tree: what missing rows of each array of the queries are filled with.
    """
    if not _axes():
        return function(queries, keys)

    def part(queries: Queries, keys: Keys) -> Any:
        return jax.tree.map(lambda x: x[:, None], function(queries, keys))

    parts = _shared(part, _pad_rows(queries, fill), keys)
    sums: Sums = jax.tree.map(lambda x: jnp.sum(x, axis=1), parts)
    return sums


def _shared(function: Callable[..., Any], queries: Queries, keys: Keys, *everywhere: Array) -> Any:
    axes, first = _axes(), jax.tree.leaves(queries)[0]
    rows = _split_spec(axes, first)
    return jax.shard_map(
        function,
        in_specs=(rows, P(_image_axes(axes, first)), *(P() for _ in everywhere)),
        out_specs=rows,
        check_vma=False,  # custom kernels do not declare over which axes their results vary
    )(queries, keys, *everywhere)


def _pad_rows(arrays: Queries, fill: Any) -> Queries:
    """Pads the rows to a multiple of the devices, as XLA does: no row changes its device.

    `fill` is a number, or a tree of them.
    """
    parts = _axes().get(ROW_AXIS, 1)

    def pad(x: Array, fill: int) -> Array:
        widths = [(0, 0), (0, -x.shape[1] % parts)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, widths, constant_values=fill)

    fills = jax.tree.broadcast(fill, arrays) if isinstance(fill, int) else fill
    padded: Queries = jax.tree.map(pad, arrays, fills)
    return padded


def splits_rows() -> bool:
    """Whether the mesh in context splits the rows of an image over devices."""
    return _axes().get(ROW_AXIS, 1) > 1


def _axes() -> dict[str, int]:
    """Sizes of the axes of the mesh in context that XLA splits arrays over."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return {}
    return dict(mesh.shape)


def _image_axes(axes: dict[str, int], images: Array) -> tuple[str, ...]:
    """The axes that split the images; none if there are too few, then all devices hold them."""
    chosen = tuple(axis for axis in IMAGE_AXES if axis in axes)
    return () if images.shape[0] % math.prod(axes[axis] for axis in chosen) else chosen


def _split_spec(axes: dict[str, int], images: Array) -> P:
    return P(_image_axes(axes, images), ROW_AXIS if ROW_AXIS in axes else None)
