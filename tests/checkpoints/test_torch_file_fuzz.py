"""Damaged and invented PyTorch files: reading them gives a value or a UserError, nothing else."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import FORMS, GOLDEN, TENSOR, storage, tensor, write_legacy, write_zip

from nonlocal_jax.checkpoints.pytorch import torch_file
from nonlocal_jax.errors import UserError


def survives(data, path):
    """Reading gives a value or a UserError; any other exception fails the test."""
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        torch_file.read(path)


@pytest.fixture(scope="session")
def originals():
    return [(GOLDEN / f"convert_kinds_{form}.pth").read_bytes() for form in FORMS]


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8), st.integers(0, 8)),
    min_size=1,
    max_size=4,
)


def mutate(data, mutations):
    """Replaces `removed` bytes at a relative place by others, several times."""
    for place, inserted, removed in mutations:
        start = int(place * len(data))
        data = data[:start] + inserted + data[start + removed :]
    return data


def check_mutations(tmp_path, originals, mutations):
    for original in originals:
        survives(mutate(original, mutations), tmp_path / "x.pth")


OPCODES = st.sampled_from(
    [bytes([code]) for code in range(256)]
    + [b"X\x01\x00\x00\x00a", b"K\x01", b"K\x00", b"ccollections\nOrderedDict\n", TENSOR]
    + [
        storage(),
        tensor(),
        b"h\x00",
        b"q\x00",
        b"h\x01",
        b"q\x01",
        b"cnumpy\ndtype\n",
        b"X\x02\0\0\0f8",
    ]
    + [
        b"cnumpy.core.multiarray\nscalar\n",
        b"c_codecs\nencode\n",
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"cnumpy\nndarray\n",
        b"ctorch\nSize\n",
        b"J\xff\xff\xff\xff",
    ]
)


def check_programs(tmp_path, program):
    body = b"".join(program)
    write_zip(tmp_path / "x.pth", body)
    survives((tmp_path / "x.pth").read_bytes(), tmp_path / "x.pth")
    write_legacy(tmp_path / "x.pth", body)
    survives((tmp_path / "x.pth").read_bytes(), tmp_path / "x.pth")


@fuzz(400)
@given(mutations=MUTATIONS)
def test_fuzz_mutated_files(tmp_path, originals, mutations):
    check_mutations(tmp_path, originals, mutations)


@fuzz(500)
@given(program=st.lists(OPCODES, max_size=24))
def test_fuzz_random_programs(tmp_path, program):
    check_programs(tmp_path, program)


@pytest.mark.parity
@fuzz(30_000)
@given(mutations=MUTATIONS)
def test_fuzz_mutated_files_long(tmp_path, originals, mutations):
    check_mutations(tmp_path, originals, mutations)


@pytest.mark.parity
@fuzz(30_000)
@given(program=st.lists(OPCODES, max_size=60))
def test_fuzz_random_programs_long(tmp_path, program):
    check_programs(tmp_path, program)


@pytest.mark.parametrize("form", FORMS)
def test_fuzz_every_flipped_byte(tmp_path, form):
    data = (GOLDEN / f"convert_kinds_{form}.pth").read_bytes()
    for place in range(0, len(data), 11):
        for flip in (0x01, 0x80, 0xFF):
            flipped = bytes([data[place] ^ flip])
            survives(data[:place] + flipped + data[place + 1 :], tmp_path / "x.pth")
