"""The non-local block against the PyTorch reference, against its own definition, and in padding."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tests.golden.make_non_local import CASES, MODES, SHAPES, run_reference

from nonlocal_jax.errors import UserError
from nonlocal_jax.models import non_local
from nonlocal_jax.models.non_local import NonLocal1d, NonLocal2d, NonLocal3d
from nonlocal_jax.ops.padding import zero_outside

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "non_local.npz"
BLOCKS = {1: NonLocal1d, 2: NonLocal2d, 3: NonLocal3d}
FORMS = [(mode, sub_sample) for mode in MODES for sub_sample in (False, True)]


def reference_block(case, arrays):
    """The block of `case` with the reference's parameters, `arrays['param/KEY']`."""
    features = arrays["y"].shape[-1]
    block = BLOCKS[case.dims](
        features,
        mode=case.mode,
        reduction=1 if case.mode == "gaussian" else 2,
        use_scale=case.use_scale,
        sub_sample=case.sub_sample,
        rngs=nnx.Rngs(0),
    )
    block.eval()

    def linear(layer, name):
        name = name if f"param/{name}.weight" in arrays else name.replace(".conv", ".0.conv")
        weight = arrays[f"param/{name}.weight"]
        layer.kernel[...] = jnp.asarray(weight.reshape(weight.shape[:2]).T)
        if layer.bias is not None:
            layer.bias[...] = jnp.asarray(arrays[f"param/{name}.bias"])

    for name in ("g", "theta", "phi", "concat_project"):
        if hasattr(block, name):
            linear(getattr(block, name), f"{name}.conv")
    linear(block.out, "conv_out.conv")
    norm_names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for ours, theirs in norm_names.items():
        getattr(block.norm, ours)[...] = jnp.asarray(arrays[f"param/conv_out.bn.{theirs}"])
    return block


def random_block(mode, sub_sample, *, dims=2, features=8, **settings):
    """A block whose every parameter is random, in evaluation mode."""
    block = BLOCKS[dims](features, mode=mode, sub_sample=sub_sample, rngs=nnx.Rngs(1), **settings)
    state = nnx.state(block, nnx.Param)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    random = [0.5 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    nnx.update(block, jax.tree.unflatten(tree, random))
    block.eval()
    return block


@nnx.jit
def call(block, x, valid=None):
    return block(x, valid)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_reference(case):
    with np.load(GOLDEN) as golden:
        x = golden[f"x_{case.dims}d"]
        prefix = f"{case.name}/"
        arrays = {k.removeprefix(prefix): golden[k] for k in golden.files if k.startswith(prefix)}
    y = call(reference_block(case, arrays), jnp.asarray(x))
    np.testing.assert_allclose(y, arrays["y"], rtol=0, atol=1e-5 * np.abs(arrays["y"]).max())


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_reference_run_now(case, shared):
    """Random sizes and seeds; NONLOCAL_JAX_PEER is the reference's Python."""
    python = os.environ.get("NONLOCAL_JAX_PEER")
    if python is None:
        pytest.skip("NONLOCAL_JAX_PEER does not name the reference's Python")
    generator = np.random.default_rng()
    seed = int(generator.integers(2**31))
    space = generator.integers(2, {1: 400, 2: 24, 3: 9}[case.dims], case.dims)
    shape = (int(generator.integers(1, 4)), *space, 2 * int(generator.integers(1, 33)))
    x = generator.standard_normal(shape, dtype=np.float32)
    arrays = run_reference(python, str(shared / "peer" / "peer.py"), case, x, seed)
    y = call(reference_block(case, arrays), jnp.asarray(x))
    bound = 1e-5 * np.abs(arrays["y"]).max()
    np.testing.assert_allclose(y, arrays["y"], rtol=0, atol=bound, err_msg=f"{shape=} {seed=}")


@pytest.mark.parametrize(("mode", "sub_sample"), FORMS)
def test_block_is_its_definition(mode, sub_sample):
    """The sums of ops/ equal the product of the written-out matrix f / C with g."""
    block = random_block(mode, sub_sample)
    valid = jnp.array([[5, 6], [3, 2], [4, 7]])

    @nnx.jit
    def both(block, x):
        embeddings = block._embed(zero_outside(x, valid), valid)
        weights = block.pairwise_weights(embeddings)
        direct = jnp.einsum("nqk,nkd->nqd", weights, embeddings.value)
        y = block._gather(embeddings)
        return y.reshape(direct.shape), direct

    fast, direct = both(block, normal(3, 5, 7, 8))
    np.testing.assert_allclose(fast, direct, rtol=3e-7, atol=3e-6)


@pytest.mark.parametrize(
    ("mode", "sub_sample", "dims"),
    [(*form, 2) for form in FORMS] + [("embedded_gaussian", True, dims) for dims in (1, 3)],
)
def test_padded_image_equals_the_image_alone(mode, sub_sample, dims):
    block = random_block(mode, sub_sample, dims=dims)
    generator = np.random.default_rng(dims)
    shape = {1: (12,), 2: (6, 9), 3: (3, 5, 6)}[dims]
    valid = np.stack([generator.integers(2, np.array(shape) + 1) for _ in range(3)])
    batch = np.full((3, *shape, 8), 1e30, np.float32)
    windows = [tuple(slice(0, int(size)) for size in sizes) for sizes in valid]
    for image, window in zip(batch, windows, strict=True):
        image[window] = generator.standard_normal(image[window].shape)
    together = np.array(call(block, jnp.asarray(batch), jnp.asarray(valid)))
    for image, window, result in zip(batch, windows, together, strict=True):
        alone = np.asarray(call(block, jnp.asarray(image[window][None])))[0]
        np.testing.assert_allclose(result[window], alone, rtol=0, atol=1e-6 * np.abs(alone).max())
        result[window] = 0
        assert not result.any()  # zero beyond the image


@pytest.mark.parametrize("mode", MODES)
def test_gradients_ignore_garbage_in_the_padding(mode):
    block = random_block(mode, sub_sample=False)
    valid = jnp.array([[3, 4]])
    image = normal(1, 3, 4, 8)
    padded = jnp.pad(image, ((0, 0), (0, 2), (0, 1), (0, 0)), constant_values=1e30)

    def loss(block, x, valid):
        return jnp.sum(jnp.square(block(x, valid)))

    alone = nnx.jit(nnx.grad(loss))(block, image, None)
    inside = nnx.jit(nnx.grad(loss))(block, padded, valid)
    for expected, got in zip(jax.tree.leaves(alone), jax.tree.leaves(inside), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_attention_map_is_a_softmax_over_the_image():
    block = random_block("embedded_gaussian", sub_sample=False)
    x = normal(2, 4, 5, 8)
    attention = np.asarray(block.attention_map(x, (2, 3)))

    def linear(layer, array):
        kernel, bias = (np.asarray(p[...], np.float64) for p in (layer.kernel, layer.bias))
        return array @ kernel + bias

    positions = np.asarray(x, np.float64)
    logits = np.einsum(
        "nc,nhwc->nhw", linear(block.theta, positions[:, 2, 3]), linear(block.phi, positions)
    ) / np.sqrt(4)
    expected = np.exp(logits) / np.exp(logits).sum((1, 2), keepdims=True)
    np.testing.assert_allclose(attention, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["embedded_gaussian", "gaussian"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_attention_rows_sum_to_one(mode, dims):
    x = normal(*SHAPES[dims])
    position = (1,) * dims
    for sub_sample in (False, True):
        block = random_block(mode, sub_sample, dims=dims)
        rows = block.attention_map(x, position)
        pooled = [s // w for s, w in zip(x.shape[1:-1], block.pool_window, strict=True)]
        assert rows.shape == (x.shape[0], *(pooled if sub_sample else x.shape[1:-1]))
        np.testing.assert_allclose(rows.reshape(x.shape[0], -1).sum(1), 1, atol=1e-6)


def test_attention_map_leaves_out_the_padding():
    block = random_block("embedded_gaussian", sub_sample=False)
    x = normal(1, 5, 6, 8)
    padded = np.asarray(block.attention_map(x, (1, 2), jnp.array([[4, 3]])))
    alone = np.asarray(block.attention_map(x[:, :4, :3], (1, 2)))
    np.testing.assert_allclose(padded[:, :4, :3], alone, atol=1e-7)
    assert padded.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("norm", [True, False])
def test_new_block_is_the_identity(norm):
    block = NonLocal2d(8, norm=norm, rngs=nnx.Rngs(0))
    x = normal(2, 4, 5, 8)
    np.testing.assert_array_equal(call(block, x), x)


def test_new_parameters_are_drawn_as_published():
    block = NonLocal2d(64, mode="concatenation", rngs=nnx.Rngs(0))
    for layer in (block.g, block.theta, block.phi):
        assert float(jnp.std(layer.kernel[...])) == pytest.approx(0.01, rel=0.1)
        assert not layer.bias[...].any()
    assert float(jnp.std(block.out.kernel[...])) == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert float(jnp.std(block.concat_project.kernel[...])) == pytest.approx(2**0.5, rel=0.3)
    assert block.out.bias is None and block.concat_project.bias is None


def test_scale_divides():
    """mmdetection once multiplied (its issue 1447); published rows divide by sqrt(256)."""
    assert non_local.embedded_scale(256) == 1 / 16
    assert NonLocal2d(512, rngs=nnx.Rngs(0)).scale == 1 / 16
    assert NonLocal2d(512, use_scale=False, rngs=nnx.Rngs(0)).scale == 1
    assert NonLocal2d(512, mode="gaussian", rngs=nnx.Rngs(0)).scale == 1


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_computes_close_to_float32(mode):
    x = normal(2, 6, 7, 8)
    exact = call(random_block(mode, False), x)
    block = random_block(mode, False, dtype=jnp.bfloat16)
    result = call(block, x)
    assert result.dtype == jnp.bfloat16
    assert block.g.kernel[...].dtype == jnp.float32
    bound = 0.02 * float(jnp.abs(exact).max())
    np.testing.assert_allclose(result.astype(jnp.float32), exact, rtol=0, atol=bound)


def test_refuses_an_unknown_mode():
    with pytest.raises(UserError, match=r"'guassian'.*gaussian"):
        NonLocal2d(8, mode="guassian", rngs=nnx.Rngs(0))


def test_refuses_to_pool_a_single_row():
    block = NonLocal2d(8, sub_sample=True, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="sub_sample"):
        block(normal(1, 1, 5, 8))


@pytest.mark.parametrize("shape", [(1, 5, 8), (1, 4, 5, 6)])
def test_refuses_arrays_of_another_shape(shape):
    block = NonLocal2d(8, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"NonLocal2d takes arrays with .* and 8 channels"):
        block(normal(*shape))
