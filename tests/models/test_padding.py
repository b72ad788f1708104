"""An image's result does not depend on the padding it sits in, nor on the rest of its batch."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nonlocal_jax.config import files
from nonlocal_jax.evaluation.inference import Scaled, low_resolution_scores
from nonlocal_jax.evaluation.protocol import Protocol, Windows
from nonlocal_jax.models.backbones.resnet import BLOCKS_PER_STAGE, STRIDES
from nonlocal_jax.models.network import build_network, init_variables
from nonlocal_jax.ops.normalize import normalize

CANVAS = (75, 93)
SIZES = [(40, 33), (1, 1), (9, 93), (57, 71), (64, 64)]

# Both kinds of block at every stride, and both variants; `make parity` has every depth.
NETWORKS = [
    (18, 16, "v1d"),
    (18, 32, "v1c"),
    (50, 8, "v1d"),
]


def small_config(depth, output_stride, variant, **head):
    return files.load(
        "ade20k_r50_80k",
        **{
            "model.dtype": "float32",
            "model.num_classes": 5,
            "model.backbone.variant": variant,
            "model.backbone.depth": depth,
            "model.backbone.output_stride": output_stride,
            "model.backbone.stem_channels": 4,
            "model.backbone.base_channels": 4,
            "model.decode_head.channels": 8,
            "model.auxiliary_head.loss_weight": 0.0,
            **{f"model.decode_head.{key}": value for key, value in head.items()},
        },
    )


def small_network(*which, **head):
    config = small_config(*which, **head)
    return build_network(config.model), loud(init_variables(config.model, seed=0))


def loud(variables):
    """Biases far from zero: a layer that does not zero its padding fills it with large values."""
    rng = np.random.default_rng(0)

    def value(name, array):
        if name.endswith("bias"):
            return jnp.asarray(rng.uniform(2, 4, array.shape), array.dtype)
        if name.endswith("scale"):
            return jnp.asarray(rng.uniform(0.5, 1, array.shape), array.dtype)
        return array

    return {name: value(name, array) for name, array in variables.items()}


GARBAGE = (1e30, -1e30, np.inf, np.nan)


def padded_batch(sizes, canvas, garbage, seed=0):
    """Images, the same in one array among `garbage`, and their sizes."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    batch = rng.choice(np.array(garbage), (len(sizes), *canvas, 3))
    for row, image in zip(batch, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return images, batch, np.array(sizes, np.int32)


def logits_of(network, variables):
    @jax.jit
    def logits(images, sizes):
        return network.bind_for_inference(variables)(normalize(images), sizes)

    @jax.jit
    def alone(image):
        return network.bind_for_inference(variables)(normalize(image[None]))[0]

    return logits, alone


def assert_same_as_alone(network, variables, sizes, seed=0):
    """Whatever the rest of the batch: here, an image as large as the canvas."""
    images, batch, sizes_array = padded_batch([CANVAS, *sizes], CANVAS, GARBAGE, seed)
    padded, alone = logits_of(network, variables)
    together = np.asarray(padded(batch.astype(np.float32), sizes_array))
    for image, logits in zip(images[1:], together[1:], strict=True):
        expected = np.asarray(alone(image))
        own = logits[: expected.shape[0], : expected.shape[1]]
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_padded_logits_equal_those_of_the_image_alone(index):
    depth, output_stride, variant = NETWORKS[index]
    size = SIZES[index % len(SIZES)]
    assert_same_as_alone(*small_network(depth, output_stride, variant), [size])


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("network", list(itertools.product(BLOCKS_PER_STAGE, STRIDES)))
def test_padded_logits_equal_those_of_the_image_alone_for_random_mixes(network, seed):
    rng = np.random.default_rng(seed)
    sizes = [tuple(int(rng.integers(1, side + 1)) for side in CANVAS) for _ in range(3)]
    assert_same_as_alone(*small_network(*network, "v1c" if seed % 2 else "v1d"), sizes, seed)


WINDOWS = Windows((41, 50), (27, 33))


@pytest.mark.parametrize(
    ("windows", "align_corners"),
    [
        (None, True),
        (WINDOWS, False),
        pytest.param(None, False, marks=pytest.mark.parity),
        pytest.param(WINDOWS, True, marks=pytest.mark.parity),
    ],
)
def test_scores_at_full_size_equal_those_of_the_image_alone(windows, align_corners):
    network, variables = small_network(18, 8, "v1c")
    protocol = Protocol(CANVAS, align_corners, flip=True, windows=windows)

    @functools.partial(jax.jit, static_argnames="canvas")
    def volumes(images, sizes, canvas):
        scores = low_resolution_scores(
            network.bind_for_inference(variables),
            (Scaled(images, sizes),),
            sizes,
            canvas,
            protocol,
        )
        return [
            jnp.einsum("nHa,nabc,nWb->nHWc", s.rows, s.logits, s.columns, precision="highest")
            for s in scores
        ]

    rng = np.random.default_rng(int(align_corners))
    sizes = [CANVAS, tuple(int(rng.integers(1, side)) for side in CANVAS)]
    images, batch, sizes_array = padded_batch(sizes, CANVAS, (255, 0, 255))
    together = volumes(batch.astype(np.uint8), sizes_array, canvas=CANVAS)
    height, width = sizes[1]
    alone = volumes(images[1][None], sizes_array[1:], canvas=sizes[1])
    for padded, expected in zip(together, alone, strict=True):
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(padded[1, :height, :width], expected[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", ["dot_product", "concatenation"])
def test_every_pairwise_function_leaves_padding_out(mode):
    assert_same_as_alone(*small_network(18, 8, "v1c", mode=mode), [(40, 33)])


def test_subsampled_keys_leave_padding_out():
    assert_same_as_alone(*small_network(18, 8, "v1c", sub_sample=True), [(57, 71)])


def test_the_plain_head_zeroes_padding():
    assert_same_as_alone(*small_network(18, 8, "v1c", name="fcn"), [(40, 33)])


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("output_stride", STRIDES)
@pytest.mark.parametrize("canvas", [(1, 100), (17, 64)])
def test_feature_maps_are_as_large_as_their_stage_says(canvas, output_stride, depth):
    network = build_network(small_config(depth, output_stride, "v1c").model)
    stages = nnx.merge(network.graph, network.state).backbone.stages

    def outputs(variables, images):
        model = network.bind_for_inference(variables)
        return model.backbone(images), model(images)

    images = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
    features, logits = jax.eval_shape(outputs, network.shapes, images)
    assert features.keys() == stages.keys()
    for name, stage in stages.items():
        size = tuple(-(-side // stage.stride) for side in canvas)
        assert features[name].shape == (1, *size, stage.features)
    assert logits.shape[1:3] == tuple(-(-side // network.output_stride) for side in canvas)
