"""Instructions of a GPU that a kernel's compiler does not choose by itself."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453

Tile = Float[Array, "*#tile"]


def multiply_add(a: Tile, b: Tile, c: Tile, *, interpret: bool) -> Tile:
    """a b + c, rounded once; the three are broadcast."""
    if interpret:
        return a * b + c
    return _instruction("fma.rn.f32 $0, $1, $2, $3;", a, b, c)


def power_of_2(x: Tile, *, interpret: bool) -> Tile:
    """2^x, to 2 units in the last place; 0 where it would be denormal."""
    return jnp.exp2(x) if interpret else _instruction("ex2.approx.ftz.f32 $0, $1;", x)


def _instruction(code: str, *operands: Tile) -> Tile:
    shape = jnp.broadcast_shapes(*(jnp.shape(x) for x in operands))
    (result,) = plgpu.elementwise_inline_asm(
        code,
        args=[jnp.broadcast_to(x, shape) for x in operands],
        constraints=",".join(["=f", *["f"] * len(operands)]),
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(shape, jnp.float32)],
    )
    return result
