"""Damaged and invented Caffe2 files: reading them gives blobs or a UserError, nothing else."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nonlocal_jax.checkpoints.caffe2 import blob_file
from nonlocal_jax.errors import UserError

ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    b"(I1\n(I1\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
    b"S'\\x00\xe9\"?'\ntb"
)
INSTRUCTIONS = st.sampled_from(
    [bytes([code]) for code in range(256)]
    + [b"S'a'\n", b"S'", b"I1\n", b"I01\n", b"L1L\n", b"F1.5\n", b"V\\u0100\n", b"(d", b"(l", b"(t"]
    + [b"p0\n", b"g0\n", b"p1\n", b"g1\n", b"U\x01a", b"T\x01\0\0\0\xff", b"s", b"u", ARRAY]
    + [b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"]
)
MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8), st.integers(0, 8)),
    min_size=1,
    max_size=4,
)


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def survives(path, data):
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        for value in blob_file.read(path).values():
            assert isinstance(value, np.ndarray | int | float)


def check_mutations(folder, mutations):
    blob_file.write(folder / "good.pkl", {"a_w": np.ones((2, 3), np.float32), "lr": 0.5})
    for data in ((folder / "good.pkl").read_bytes(), b"(dS'a'\n" + ARRAY + b"s."):
        for place, inserted, removed in mutations:
            start = int(place * len(data))
            data = data[:start] + inserted + data[start + removed :]
        survives(folder / "x.pkl", data)


def test_the_array_of_the_programs_is_one(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"(dS'a'\n" + ARRAY + b"s.")
    assert blob_file.read(tmp_path / "x.pkl")["a"].tobytes() == b'\x00\xe9"?'


@fuzz(500)
@given(mutations=MUTATIONS)
def test_fuzz_mutated_files(tmp_path, mutations):
    check_mutations(tmp_path, mutations)


@fuzz(1000)
@given(program=st.lists(INSTRUCTIONS, max_size=24))
def test_fuzz_random_programs(tmp_path, program):
    survives(tmp_path / "x.pkl", b"".join(program) + b".")


@pytest.mark.parity
@fuzz(30_000)
@given(mutations=MUTATIONS)
def test_fuzz_mutated_files_long(tmp_path, mutations):
    check_mutations(tmp_path, mutations)


@pytest.mark.parity
@fuzz(30_000)
@given(program=st.lists(INSTRUCTIONS, max_size=60))
def test_fuzz_random_programs_long(tmp_path, program):
    survives(tmp_path / "x.pkl", b"".join(program) + b".")
