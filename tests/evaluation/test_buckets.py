"""Every image lies in one bucket that is large enough, in few buckets, with little padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nonlocal_jax.evaluation import buckets
from nonlocal_jax.inputs import transforms

SIZES = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=60)


@given(SIZES, st.integers(1, 9), st.floats(0, 1e6))
@settings(max_examples=40, deadline=None)
def test_every_image_is_in_one_bucket_that_holds_it(sizes, batch_size, compile_cost):
    inputs = [[(2 * h, 2 * w), (h, w)] for h, w in sizes]
    planned = buckets.sort_into_buckets(
        sizes, inputs, batch_size=batch_size, compile_cost=compile_cost
    )
    assert 1 <= len(planned) <= buckets.MAX_BUCKETS
    members = [member for bucket in planned for member in bucket.members]
    assert sorted(members) == list(range(len(sizes)))
    for bucket in planned:
        shapes = np.array([[sizes[m], *inputs[m]] for m in bucket.members])
        np.testing.assert_array_equal(shapes.max(axis=0), [bucket.canvas, *bucket.inputs])
        np.testing.assert_array_equal(shapes[:, 1:].min(axis=0), bucket.smallest)


@given(SIZES, st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_batches_hold_every_image_once(sizes, batch_size):
    planned = buckets.sort_into_buckets(sizes, [[size] for size in sizes], batch_size=batch_size)
    groups = buckets.batches(planned, batch_size)
    assert sorted(m for _, members in groups for m in members) == list(range(len(sizes)))
    assert all(1 <= len(members) <= batch_size for _, members in groups)


def test_few_sizes_are_not_padded_at_all():
    sizes = [(100, 100), (300, 200), (100, 400)] * 5
    planned = buckets.sort_into_buckets(sizes, [[size] for size in sizes], batch_size=1)
    assert sorted(b.inputs[0] for b in planned) == [(100, 100), (100, 400), (300, 200)]
    assert all(b.inputs == b.smallest for b in planned)


def test_the_padding_of_a_mixed_set_is_small():
    rng = np.random.default_rng(0)
    aspect = rng.choice([4 / 3, 3 / 4, 3 / 2, 1.0], 300) * np.exp(rng.normal(0, 0.02, 300))
    sizes = [(512, int(512 * a)) if a > 1 else (int(512 / a), 512) for a in aspect]
    planned = buckets.sort_into_buckets(sizes, [[size] for size in sizes], batch_size=1)
    used = sum(len(b.members) * b.inputs[0][0] * b.inputs[0][1] for b in planned)
    assert sum(h * w for h, w in sizes) / used > 0.95


def test_an_expensive_compiler_means_fewer_programs():
    sizes = [(100, 100), (100, 101)]
    plan = {
        cost: len(
            buckets.sort_into_buckets(sizes, [[s] for s in sizes], batch_size=1, compile_cost=cost)
        )
        for cost in (0.0, 1e3)
    }
    assert plan == {0.0: 2, 1e3: 1}


def test_what_the_network_sees_decides_who_is_grouped_with_whom():
    """With windows, images with the same number of windows go together."""
    sizes = [(100, 100), (100, 200), (100, 201)]

    def windows(height, width):
        return -(-width // 100) * 1e4

    planned = buckets.sort_into_buckets(
        sizes, [[s] for s in sizes], batch_size=1, input_cost=windows, max_buckets=2
    )
    assert sorted(b.members for b in planned) == [(0, 1), (2,)] or sorted(
        b.members for b in planned
    ) == [(0,), (1, 2)]


@pytest.mark.parametrize("count", [1, 500])
def test_many_different_sizes_are_planned_in_a_moment(count):
    rng = np.random.default_rng(count)
    sizes = [tuple(int(v) for v in rng.integers(200, 2000, 2)) for _ in range(count)]
    planned = buckets.sort_into_buckets(sizes, [[size] for size in sizes], batch_size=4)
    assert len(planned) == min(count, buckets.MAX_BUCKETS)


@pytest.mark.parametrize(
    ("length", "seen", "shown"),
    [(1, 32, 256), (61, 64, 256), (257, 320, 512), (683, 768, 768), (1600, 1792, 2048)],
)
def test_an_image_alone_is_padded_by_a_quarter_and_its_result_by_a_half(length, seen, shown):
    bucket = buckets.alone((length, 9), [(33, length)])
    assert bucket.inputs == ((64, seen),) and bucket.canvas == (shown, max(256, seen))
    assert bucket.smallest == ((33, length),) and bucket.members == (0,)
    assert seen - length < max(length / 4, 32) and shown - length < max(length / 2, 256)


def test_photographs_of_all_sizes_share_a_few_programs():
    """Of three formats, of 240 to 3000 rows, fitted into 2048x512."""
    sizes = {(h, round(h * ratio)) for h in range(240, 3001) for ratio in (4 / 3, 3 / 2, 16 / 9)}
    found = {buckets.alone(s, transforms.test_sizes(*s, (2048, 512), [1.0])) for s in sizes}
    shapes = {(bucket.canvas, bucket.inputs) for bucket in found}
    assert len(sizes) > 8000 and len(shapes) <= 24
