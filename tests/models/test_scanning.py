"""Equal blocks as a loop against the same blocks one after another."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import lower_stage4, tiny_config

from nonlocal_jax.models.backbones.resnet import BasicBlock, Bottleneck
from nonlocal_jax.models.layers import BatchNorm, ConvNorm, freeze_statistics
from nonlocal_jax.models.network import build_network
from nonlocal_jax.models.scanning import scan_blocks

VALID = jnp.array([[7, 5], [3, 6]])


def make_blocks(kind):
    conv_norm = partial(ConvNorm, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    options = {"stride": 1, "dilation": 2, "average_shortcut": False, "conv_norm": conv_norm}
    options["stride_first"] = False
    channels = 2 * kind.expansion
    blocks = nnx.List([kind(channels, 2, **options) for _ in range(3)])
    rng = np.random.default_rng(1)
    for _, node in nnx.iter_modules(blocks):
        if isinstance(node, BatchNorm):  # a block's last scale begins at 0, which hides the block
            for variable in (node.scale, node.mean, node.var):
                variable.set_value(jnp.asarray(rng.uniform(0.5, 1.5, variable.shape)))
    return blocks, jnp.asarray(rng.standard_normal((2, 7, 6, channels)))


def one_by_one(blocks, x, valid):
    for block in blocks:
        x = block(x, valid)
    return x


@pytest.mark.parametrize(
    ("kind", "case"),
    [(Bottleneck, "train"), (Bottleneck, "padded"), (BasicBlock, "frozen"), (BasicBlock, "eval")],
)
def test_outputs_gradients_and_statistics_are_those_of_the_blocks(kind, case):
    valid = VALID if case == "padded" else None
    with jax.enable_x64(True):
        blocks, x = make_blocks(kind)
        if case == "eval":
            blocks.eval()
        if case == "frozen":
            freeze_statistics(blocks)
        graph, parameters, rest = nnx.split(blocks, nnx.Param, ...)

        def run(function, parameters, x):
            module = nnx.merge(graph, parameters, rest, copy=True)
            y = function(module, x, valid)
            return jnp.sum(jnp.sin(y)), (y, nnx.state(module, nnx.BatchStat))

        results = []
        loop = partial(scan_blocks, lambda block, x, valid: block(x, valid))
        for function in (one_by_one, loop):
            gradient = jax.grad(partial(run, function), (0, 1), has_aux=True)
            results.append(jax.tree.leaves(jax.jit(gradient)(parameters, x)))
    expected, actual = results
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-12)
    before = jax.tree.leaves(nnx.state(blocks, nnx.BatchStat))
    moved = any((a != b).any() for a, b in zip(actual[-len(before) :], before, strict=True))
    assert moved == (case in ("train", "padded"))


def test_the_network_is_the_same_and_compiles_one_block_for_all_equal_ones():
    plain, scanned = (
        build_network(tiny_config(**{"backbone.scan_blocks": scan}).model) for scan in (False, True)
    )
    assert scanned.shapes == plain.shapes and scanned.trainable == plain.trainable

    def convolutions(network):
        return lower_stage4(network, 33).compile().as_text().count(" convolution(")

    # 3x3 ones: 3 of the stem, and 1 of a block; 16 blocks against 8. Others are matrix products.
    assert convolutions(plain) == 3 + 16
    assert convolutions(scanned) == 3 + 8
