"""No optimised program holds an N x N array, or scores at full resolution.

A narrow network on a large image has small arrays but for those two, so that they stand out: what
no program may hold is an array with a quarter of their elements.
"""

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from programs import (
    CLASSES,
    LIMIT,
    N_BY_N,
    POSITIONS,
    SCORES,
    SIZE,
    config_of,
    largest,
    on_one,
    train_program,
)

from nonlocal_jax.evaluation import programs
from nonlocal_jax.evaluation.batching import EvaluationBatch
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.models.network import build_network, without_auxiliary_head
from nonlocal_jax.ops.attention.softmax import softmax_attention
from nonlocal_jax.training.losses.cross_entropy import segmentation_loss


@pytest.mark.parametrize(
    "overrides", [pytest.param({}, marks=pytest.mark.soak), {"align_corners": True}]
)
def test_training(overrides):
    program = train_program(config_of(**overrides), on_one(jax.devices()[0]))
    assert largest(program) < LIMIT


@pytest.mark.parametrize(
    ("make", "padded"), [("counting", False), ("counting", True), ("segmenting", False)]
)
def test_evaluation_and_prediction(make, padded):
    config = config_of()
    network = build_network(without_auxiliary_head(config.model))
    protocol = Protocol.of(config.eval, config.model.align_corners)
    function = {
        "counting": lambda: programs.counting(network, protocol, CLASSES, keep_masks=True),
        "segmenting": lambda: programs.segmenting(network, protocol),
    }[make]()
    sizes, image = (
        jax.ShapeDtypeStruct(*like) for like in (((1, 2), "int32"), ((1, *SIZE, 3), "uint8"))
    )
    labels = jax.ShapeDtypeStruct((1, *SIZE), np.uint8)
    batch = EvaluationBatch((Scaled(image, sizes),), sizes, labels)
    lowered = function.lower(network.shapes, batch, canvas=SIZE, padded=padded)
    assert largest(lowered.compile()) < LIMIT


def test_a_plain_loss_would_be_seen():
    logits = jax.ShapeDtypeStruct((1, 65, 129, CLASSES), np.float32)
    labels = jax.ShapeDtypeStruct((1, *SIZE), np.uint8)

    def program(loss):
        gradient = jax.grad(lambda *arrays: loss(*arrays, False)[0])
        return jax.jit(gradient).lower(logits, labels).compile()

    assert largest(program(segmentation_loss)) < LIMIT
    assert largest(program(plain.loss_and_accuracy)) >= SCORES


def test_plain_attention_would_be_seen():
    arrays = [jax.ShapeDtypeStruct((1, POSITIONS, 8), np.float32)] * 3

    def plain_attention(query, key, value):
        weights = jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", query, key), axis=-1)
        return jnp.einsum("nqk,nkd->nqd", weights, value)

    assert largest(jax.jit(softmax_attention).lower(*arrays).compile()) < LIMIT
    assert largest(jax.jit(plain_attention).lower(*arrays).compile()) >= N_BY_N


def test_plain_argmax_would_be_seen():
    logits = jax.ShapeDtypeStruct((1, 65, 129, CLASSES), np.float32)

    @jax.jit
    def predict(logits):
        return jnp.argmax(plain.resize_bilinear(logits, SIZE, align_corners=False), axis=-1)

    assert largest(predict.lower(logits).compile()) >= SCORES
