"""What heads attend to is what the definition says; softmaxes and sums are float32, and small.

The matrices are formed here only: [positions, positions], in float64, one image at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from heads import METHODS, golden_variables, in_training, padded, tiny_head
from jax.extend import core

from family_cases import CASES, STAGES, direction  # isort: skip  # heads has put golden/ on the path
from nonlocal_jax.models.heads.head import Head

RELATIVE = (0.6, 0.35)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


class Weights:
    """Linear layers of a block, by name, in float64."""

    def __init__(self, variables, block):
        self.values = {
            name.removeprefix(f"{block}/"): np.asarray(value, np.float64)
            for name, value in variables.items()
            if name.startswith(f"{block}/")
        }

    def linear(self, name, x):
        return x @ self.values[f"{name}/kernel"] + self.values[f"{name}/bias"]

    def projected(self, name, x):
        """A 1x1 convolution with norm and ReLU."""
        x = x @ self.values[f"{name}/conv/kernel"][0, 0]
        scale, bias, mean, var = (
            self.values[f"{name}/norm/{part}"] for part in ("scale", "bias", "mean", "var")
        )
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)


def dnl(variables, x, size):
    block = Weights(variables, "disentangled")
    q, k = (y - y.mean(0) for y in (block.linear("theta", x), block.linear("phi", x)))
    options = CASES["dnl"].ours
    whitened = softmax(q @ k.T / np.sqrt(q.shape[1]) / options["temperature"])
    return (whitened + softmax(block.linear("unary", x)[:, 0])) / 2


def gc(variables, x, size):
    key = Weights(variables, "global_context").linear("key", x)[:, 0]
    return np.broadcast_to(softmax(key), (len(x), len(x)))


def cc(variables, x, size):
    block = Weights(variables, "criss_cross")
    row, column = np.divmod(np.arange(len(x)), size[1])
    crossing = (row[:, None] == row) | (column[:, None] == column)
    total = np.eye(len(x))
    for _ in range(2):
        scores = block.linear("query", x) @ block.linear("key", x).T
        weights = softmax(np.where(crossing, scores, -np.inf))
        x = block.values["gamma/scale"] * weights @ block.linear("value", x) + x
        total = weights @ total
    return total


def da(variables, x, size):
    block = Weights(variables, "position")
    return softmax(block.linear("query", x) @ block.linear("key", x).T)


def ann(variables, x, size):
    """Means over cells, a cell after another; then each mean's weight is spread over its cell."""
    block, cells = Weights(variables, "context"), []
    row, column = np.divmod(np.arange(len(x)), size[1])
    for grid in (1, 3, 6, 8):
        for i, j in np.ndindex(grid, grid):
            inside = np.ones(len(x), bool)
            for place, cell, length in ((row, i, size[0]), (column, j, size[1])):
                first, last = np.floor(cell * length / grid), np.ceil((cell + 1) * length / grid)
                inside &= (first <= place) & (place < last)
            cells.append(inside / inside.sum())
    phi = block.projected("phi", x)
    return softmax(phi @ (cells @ phi).T / np.sqrt(phi.shape[1])) @ cells


def isa(variables, x, size):
    """Far, then near, of all positions of whole blocks; what the zeros get is lost."""
    rows, columns = CASES["isa"].ours["group"]
    height, width = (-(-s // b) * b for s, b in zip(size, (rows, columns), strict=True))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    whole = np.zeros((height, width, x.shape[1]))
    whole[top : top + size[0], left : left + size[1]] = x.reshape(*size, -1)
    whole = whole.reshape(height * width, -1)
    row, column = np.divmod(np.arange(len(whole)), width)
    place, block = row % rows * columns + column % columns, row // rows * width + column // columns

    def weights(layers, x, group):
        query, key = (
            layers.projected(f"{name}/1", layers.projected(f"{name}/0", x))
            for name in ("theta", "phi")
        )
        scores = query @ key.T / np.sqrt(query.shape[1])
        return softmax(np.where(group[:, None] == group, scores, -np.inf))

    layers = Weights(variables, "far")
    far = weights(layers, whole, place)
    after = layers.projected("rho", far @ layers.linear("g", whole))
    both = weights(Weights(variables, "near"), after, block) @ far
    inside = (row >= top) & (row < top + size[0]) & (column >= left) & (column < left + size[1])
    return both[inside][:, inside]


def ema(variables, x, size):
    bases = np.asarray(variables["attention/bases"], np.float64)
    for _ in range(3):
        z = softmax(x @ bases)
        bases = x.T @ z / z.sum(0)
        bases /= np.linalg.norm(bases, axis=0)
    return z @ (z / z.sum(0)).T


def psa(variables, x, size):
    masks = [np.asarray(variables[f"branches/{i}/mask/kernel"], np.float64) for i in range(2)]
    logits = np.zeros((2, len(x), len(x)))
    (rows, columns), half = CASES["psa"].ours["mask_size"], len(x[0]) // 2
    for t, s in np.ndindex(len(x), len(x)):
        for i, (own, other) in enumerate(((t, s), (s, t))):  # collect, distribute
            down, right = np.subtract(divmod(other, size[1]), divmod(own, size[1]))
            k, m = down + (rows - 1) // 2, right + (columns - 1) // 2
            if 0 <= k < rows and 0 <= m < columns:
                logits[i, t, s] = x[own, i * half : (i + 1) * half] @ masks[i][:, k * columns + m]
    return softmax(logits).mean(0)


def hidden_of_branches(head, features, valid):
    """What both predict from, side by side."""
    shrinking = head._shrinking(features[0], valid[0])
    parts = [b._parts(features[0], valid[0], shrinking)[1] for b in head.branches]
    return jnp.concatenate(parts, -1)


def after(layer):
    """The result of the layer before the block."""
    return lambda head, features, valid: layer(head)(features[-1], valid=valid[-1])


# Method -> the matrix, and what it is computed from.
MATRICES = {
    "dnl": (dnl, after(lambda head: head.convs[0])),
    "gc": (gc, after(lambda head: head.convs[0])),
    "cc": (cc, after(lambda head: head.convs[0])),
    "da": (da, after(lambda head: head.before_position)),
    "ann": (ann, lambda head, features, valid: head._before_context(features, valid, None)),
    "isa": (isa, after(lambda head: head.before)),
    "ema": (ema, lambda head, features, valid: head.linear(head.before(features[0]))),
    "psa": (psa, hidden_of_branches),
}
# Its groups are filled with zeros up to the same size, in the reference, too; they get weights.
BEYOND_THE_IMAGE = ("isa",)


def with_a_map():
    return [
        m for m in METHODS if type(tiny_head(m).abstract).attention_map is not Head.attention_map
    ]


@pytest.mark.parametrize("method", with_a_map())
def test_the_map_sums_to_one_and_is_a_row_of_the_matrix(method):
    head = tiny_head(method)
    variables = golden_variables(head)
    features, valid = padded(method)
    matrix, layer = MATRICES[method]
    relative = np.full((len(valid[0]), 2), RELATIVE, np.float32)

    @jax.jit
    def run(variables, features, valid):
        model = head.bind_for_inference(variables)
        return model.attention_map(features, relative, valid), layer(model, features, valid)

    found, before = run(variables, features, valid)
    assert found.weights.dtype == jnp.float32
    sizes = np.asarray(found.sizes)
    for i, (weights, (height, width)) in enumerate(zip(found.weights, sizes, strict=True)):
        own = np.asarray(weights[:height, :width], np.float64)
        if method in BEYOND_THE_IMAGE:
            assert 0 < own.sum() < 1 + 1e-5
        else:
            np.testing.assert_allclose(own.sum(), 1, atol=1e-5)
        np.testing.assert_allclose(np.abs(weights).sum(), own.sum(), rtol=1e-6)
        if i < len(CASES[method].sizes):  # the last image is loud: rounding decides
            row, column = (int(r * n) for r, n in zip(RELATIVE, (height, width), strict=True))
            x = np.asarray(before[i, :height, :width], np.float64).reshape(height * width, -1)
            expected = matrix(variables, x, (height, width))[row * width + column]
            np.testing.assert_allclose(own.ravel(), expected, atol=1e-5)


def equations(jaxpr):
    """All equations of a program, those inside of others included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if isinstance(inner, core.Jaxpr):
                    yield from equations(inner)


@pytest.mark.parametrize("method", METHODS)
def test_softmaxes_and_sums_are_float32_in_bfloat16(method):
    head = tiny_head(method, "bfloat16")
    features, valid = padded(method)
    features = tuple(jnp.asarray(x, jnp.bfloat16) for x in features)
    variables = golden_variables(head)

    def logits(variables, features, valid):
        return head.bind_for_inference(variables)(features, valid)

    program = jax.make_jaxpr(logits)(variables, features, valid)
    assert [aval.dtype for aval in program.out_avals] == [jnp.float32]
    for equation in equations(program.jaxpr):
        if equation.primitive.name in ("exp", "reduce_sum", "div", "rsqrt", "cumsum"):
            assert equation.outvars[0].aval.dtype != jnp.bfloat16, equation


SIDE = 128  # 16,384 positions


@pytest.mark.parametrize("method", METHODS)
def test_no_array_has_a_number_for_each_pair_of_positions(method):
    """In a training step, of an image of 1024x1024 pixels."""
    head = tiny_head(method)
    features = tuple(
        jax.ShapeDtypeStruct((1, SIDE, SIDE, STAGES[stage]), jnp.float32)
        for stage in CASES[method].reads
    )
    directions = {name: jnp.float32(direction(name)[0, 0, 0]) for name in CASES[method].outputs}
    program = jax.make_jaxpr(lambda v, x: in_training(head, v, x, directions))(
        head.shapes, features
    )
    largest = max(
        (int(np.prod(v.aval.shape)) for e in equations(program.jaxpr) for v in e.outvars), default=0
    )
    assert SIDE**2 < largest < SIDE**4 / 8
