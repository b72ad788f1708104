"""What is computed in which precision, decided by one value or by the device."""

import json
import logging
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest
from conftest import REPOSITORY
from networks import tiny_config

from nonlocal_jax.models.network import build_network, for_platform
from nonlocal_jax.ops.attention import softmax


@pytest.mark.parametrize(
    ("platform", "asked", "dtype", "kernel"),
    [
        ("cpu", "auto", "float32", "auto"),
        ("gpu", "auto", "bfloat16", "auto"),
        ("cuda", "auto", "bfloat16", "auto"),
        ("tpu", "auto", "bfloat16", "pallas"),
        ("tpu", "float32", "float32", "chunked"),
        ("cpu", "bfloat16", "bfloat16", "auto"),
    ],
)
def test_accelerators_compute_in_bfloat16_unless_told_otherwise(platform, asked, dtype, kernel):
    model = for_platform(tiny_config(dtype=asked).model, platform)
    assert (model.dtype, model.decode_head.implementation) == (dtype, kernel)


def test_forced_kernels_stay_forced():
    config = tiny_config(**{"dtype": "bfloat16", "decode_head.implementation": "chunked"})
    assert for_platform(config.model, "tpu").decode_head.implementation == "chunked"


def test_the_chosen_attention_is_logged_and_a_forced_one_is_taken(caplog, monkeypatch):
    softmax._log_choice.cache_clear()
    x = jnp.ones((1, 6, 4))
    monkeypatch.setattr(logging.getLogger("nonlocal_jax.ops"), "propagate", True)
    with caplog.at_level(logging.INFO, "nonlocal_jax.ops"):
        softmax.softmax_attention(x, x, x)
    assert "Attention kernel: chunked, for float32 queries of shape (6, 4)." in caplog.text
    with pytest.raises(ValueError, match=r"'flash' is none of auto, chunked, cudnn, pallas"):
        softmax.softmax_attention(x, x, x, implementation="flash")
    with pytest.raises(Exception):  # noqa: B017 - whatever JAX says about a kernel for GPUs here
        softmax.softmax_attention(x, x, x, implementation="cudnn").block_until_ready()


def test_whatever_the_platform_parameters_are_float32():
    for platform in ("cpu", "gpu", "tpu"):
        network = build_network(tiny_config().model, platform=platform)
        assert {leaf.dtype for leaf in network.shapes.values()} == {jnp.dtype("float32")}


PROGRAM = """
import jax, json, jax.numpy as jnp
from nonlocal_jax.config import command_line
from nonlocal_jax.ops.conv.conv2d import conv2d
from nonlocal_jax.runtime import startup

def main(options):
    startup.use_jax(options.config.precision)
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
    text = jax.jit(conv2d).lower(x, kernel).as_text()
    cache, dtype = jax.config.jax_compilation_cache_dir, options.config.model.dtype
    print(json.dumps([cache, dtype, text.count("HIGHEST")]))

command_line.run(main, config="required")
"""


@pytest.mark.parametrize(
    ("precision", "dtype", "times"), [("default", "auto", 0), ("highest", "float32", 2)]
)
def test_one_value_makes_every_product_exact_and_compiled_programs_are_kept(
    precision, dtype, times, tmp_path
):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            "--config=configs/demo.py",
            f"--config.precision={precision}",
        ],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    cache = str(tmp_path / "nonlocal_jax" / "compiled")
    assert json.loads(done.stdout) == [cache, dtype, times]
