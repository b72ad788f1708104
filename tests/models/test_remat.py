"""Rematerialisation: the same step from fewer arrays in memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded
from flax import nnx
from networks import assert_close, golden_batch, golden_variables, tiny_config
from plain import normalize_batch
from steps import optimizer, train_step

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import inference, protocol
from nonlocal_jax.models import layers
from nonlocal_jax.models.network import build_network, for_platform
from nonlocal_jax.training.step import initial_state


def one_step(remat, **overrides):
    config = tiny_config(remat=remat, dtype="float64", **overrides)
    network = build_network(config.model)
    variables = golden_variables(config, network)
    variables = {name: value.astype(jnp.float64) for name, value in variables.items()}
    state = initial_state(network, variables, optimizer())
    return train_step(network)(state, golden_batch(0, (33, 41)))


@pytest.mark.parametrize(
    "overrides",
    [pytest.param({"backbone.depth": 18}, marks=pytest.mark.soak), {"backbone.frozen_stages": 1}],
)
def test_a_step_is_the_same_whatever_is_kept(overrides, monkeypatch):
    """Also the running statistics: they move once."""
    sharded.shrink(monkeypatch, depth=50 if "backbone.frozen_stages" in overrides else 18)
    # The golden images are normalised already.
    place = "nonlocal_jax.training.tasks.segmentation.normalize"
    monkeypatch.setattr(place, lambda image, _: image)
    with jax.enable_x64(True):
        expected, metrics = one_step("none", **overrides)
        for remat in ("norms", "blocks"):
            state, same = one_step(remat, **overrides)
            for name, value in expected.variables.items():
                assert_close(state.variables[name], np.asarray(value), 1e-12)
            for ours, plain in zip(
                jax.tree.leaves(state.optimizer), jax.tree.leaves(expected.optimizer), strict=True
            ):
                np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-14)


def kept_bytes(remat):
    """Bytes of feature maps that the backward pass is given, by dtype; nothing is compiled."""
    config = tiny_config(remat=remat, dtype="bfloat16")
    network = build_network(config.model)

    def backward(variables, images):
        def logits(variables):
            model = network.bind(variables)
            model.train()
            outputs = model.training_outputs(images, rngs=nnx.Rngs(dropout=0))
            return jnp.sum(outputs["decode"].logits) + jnp.sum(outputs["auxiliary"].logits)

        return jax.vjp(logits, variables)[1]

    images = jax.ShapeDtypeStruct((2, 128, 128, 3), np.float32)
    kept = {"bfloat16": 0, "float32": 0, "bool": 0, "uint8": 0}  # places of max-pooling
    for leaf in jax.tree.leaves(jax.eval_shape(backward, network.shapes, images)):
        if leaf.ndim == 4 and leaf.shape[0] == 2 and leaf.shape[-1] != 3:
            kept[str(leaf.dtype)] += leaf.size * leaf.dtype.itemsize
    return kept


def test_norms_keep_convolutions_in_the_compute_dtype_and_blocks_keep_less(monkeypatch):
    none, norms, blocks = map(kept_bytes, ("none", "norms", "blocks"))
    monkeypatch.setattr(
        layers,
        "normalize_batch",
        lambda x, mean, inverse, *more: normalize_batch(x.astype("f4"), *more),
    )
    monkeypatch.setattr(
        layers,
        "normalize_batch_relu",
        lambda x, mean, inverse, *more: nnx.relu(
            normalize_batch(x.astype("f4"), *more[:-1]).astype(more[-1])
        ),
    )
    step_by_step = sum(kept_bytes("none").values())  # as JAX differentiates batch norms itself
    total = sum(norms.values())
    # What is left of float32 is around the non-local block's own norm, and logits.
    assert norms["float32"] < 0.05 * total
    assert total < 0.3 * step_by_step
    assert total < 0.6 * sum(none.values()) < 0.3 * step_by_step  # written out, it keeps half
    assert sum(blocks.values()) < 0.5 * total


def test_a_tpu_keeps_less_than_a_cpu_or_a_gpu():
    model = tiny_config().model
    assert for_platform(model, "cpu").remat == for_platform(model, "gpu").remat == "none"
    assert for_platform(model, "tpu").remat == "norms"
    blocks = dataclasses.replace(model, remat="blocks")
    assert for_platform(blocks, "cpu").remat == "blocks"


def test_an_unknown_value_is_refused():
    with pytest.raises(UserError, match=r"config\.model\.remat is 'all'; it must be one of"):
        tiny_config(remat="all")


@pytest.mark.parametrize(
    "overrides", [{"remat": "norms"}, {"remat": "blocks"}, {"backbone.scan_blocks": True}], ids=str
)
def test_what_saves_training_memory_does_not_keep_from_sliding_and_mirroring(overrides):
    config = tiny_config(**{"backbone.depth": 34, **overrides})
    network, size = build_network(config.model), (40, 56)
    windows = protocol.Windows((32, 32), (24, 24))
    how = protocol.Protocol(size, False, flip=True, windows=windows)

    def masks(variables, images, sizes):
        model = network.bind_for_inference(variables)
        scales = (inference.Scaled(images, sizes),)
        scores = inference.low_resolution_scores(model, scales, sizes, size, how)
        return inference.class_indices(scores)

    images = jax.ShapeDtypeStruct((2, *size, 3), np.uint8)
    sizes = jax.ShapeDtypeStruct((2, 2), np.int32)
    assert jax.eval_shape(masks, network.shapes, images, sizes).shape == (2, *size)
