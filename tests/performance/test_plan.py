"""The plan: the TPU compiler's programs read right, the roofline, and every refusal."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPOSITORY
from jax import lax
from runs import SHRUNK

from nonlocal_jax import plan as command
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.ops.attention import softmax
from nonlocal_jax.ops.conv.conv2d import conv2d
from nonlocal_jax.performance import chips, flops, meshes, plan, roofline
from nonlocal_jax.performance.compiler import Compiled
from nonlocal_jax.performance.hlo import Collective


def config_of(row="ade20k_r101_160k", **overrides):
    return files.load(REPOSITORY / f"configs/{row}.py", **overrides)


def run_plan(tmp_path, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "nonlocal_jax.plan", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_operations_of_a_convolution_and_its_gradients(stride, dilation):
    image, kernel = jnp.ones((2, 9, 12, 3)), jnp.ones((3, 3, 3, 5))

    def convolve(image, kernel):
        return lax.conv_general_dilated(
            image,
            kernel,
            (stride, stride),
            [(dilation, dilation)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    # With ones, every product of two real elements adds exactly one to a result.
    forward = 2 * float(jnp.sum(convolve(image, kernel)))
    assert flops.count(jax.make_jaxpr(convolve)(image, kernel).jaxpr) == forward
    gradient = jax.make_jaxpr(jax.grad(lambda *a: jnp.sum(convolve(*a)), argnums=(0, 1)))
    # Each of the three meets every pair of an input and an output once.
    assert flops.count(gradient(image, kernel).jaxpr) == 3 * forward


def test_operations_of_loops_branches_and_products():
    x = jnp.ones((4, 6))

    def program(x):
        looped = lax.scan(lambda carry, _: (carry @ carry.T @ carry, None), x, None, length=5)[0]
        return lax.cond(looped[0, 0] > 0, lambda y: y @ y.T, lambda y: jnp.zeros((4, 4)), looped)

    assert flops.count(jax.make_jaxpr(program)(x).jaxpr) == 5 * 2 * (2 * 4 * 4 * 6) + 2 * 4 * 4 * 6


def test_operations_of_the_attention_kernels():
    x = jnp.ones((2, 1024, 256), jnp.bfloat16)

    def attend(*arrays):
        summed = softmax.softmax_attention(*arrays, implementation="pallas")
        return jnp.sum(summed.astype(jnp.float32))

    # Two products forward; backward the weights, once for each kernel, and five gradients'.
    product = 2 * 2 * 1024 * 1024 * 256
    assert flops.count(jax.make_jaxpr(attend)(x, x, x).jaxpr) == 2 * product
    gradient = jax.make_jaxpr(jax.grad(attend, argnums=(0, 1, 2)))(x, x, x)
    assert flops.count(gradient.jaxpr) == (2 + 4 + 3) * product


def test_roofline_by_hand():
    compiled = Compiled(
        fits=True,
        needed=0,
        parts={},
        flops=394e12,
        traffic=int(81.9e9),
        collectives=(
            Collective("all-reduce", 3, int(10e9), 1),
            Collective("all-gather", 1, int(20e9), 1),
        ),
    )
    found = roofline.roofline(compiled, chips.parse("v5e:4x4"))
    assert found.compute == pytest.approx(2.0)
    assert found.memory == pytest.approx(0.1)
    assert found.network == pytest.approx((2 * 10 + 20) / 200)
    assert found.step == pytest.approx(2.2)
    assert found.bound == "compute"


def test_a_sum_over_slices_by_hand():
    gradient = Collective("all-reduce", 7, int(3e9), 1)
    compiled = Compiled(True, 0, {}, flops=0.0, transfers=(gradient,))
    for slices, passes in ((2, 1.0), (4, 1.5)):  # each sends all but a part of it, twice
        where = chips.parse("v6e:4x4", slices)
        assert roofline.bytes_between_slices(compiled, slices) == passes * 3e9
        assert roofline.roofline(compiled, where).step == pytest.approx(passes * 3e9 / 12.5e9)
    slow = chips.parse("v6e:4x4", 2, dcn_gbps=1.0)
    assert roofline.roofline(compiled, slow).between_slices == pytest.approx(24.0)


def test_a_chip_of_two_devices_halves_its_figures():
    where = chips.parse("tpu7x:2x2x2", 3)
    assert (where.chips, where.devices) == (24, 48)
    compiled = Compiled(True, 0, {}, flops=2307e12, traffic=int(7380e9))
    found = roofline.roofline(compiled, where)
    assert (found.compute, found.memory) == pytest.approx((2.0, 2.0))
    assert where.chip.device.hbm == 96 * 2**30
    assert chips.peak("TPU7x") == 2307e12 / 2


def test_costs_and_memory_of_a_plan_by_hand():
    config = files.load("demo", total_steps=3600, eval_every=1800)
    where = chips.parse("tpu7x:2x2x1")
    step = Compiled(True, 0, {}, flops=2307e12 / 2)  # a second
    layout = meshes.Layout({"data": 8, "fsdp": 1, "spatial": 1})
    made = plan.Plan(config, where, layout, step, (step, 8), images=80, price=2.0)
    found = plan.to_json(made)
    assert found["chip_hours"] == pytest.approx(4.0)
    assert found["eval_chip_hours"] == pytest.approx(2 * 10 * 4 / 3600)
    assert found["cost"] == 2.0 * (found["chip_hours"] + found["eval_chip_hours"])
    assert "| GiB of half a chip |" in plan.table("demo", [made])


def test_slices_and_their_hosts():
    assert chips.parse("v5e:16x16").chips == 256
    assert chips.parse("v5e:2x4").host_shape == (2, 4, 1)
    assert chips.parse("v5e:4x4").host_shape == (2, 2, 1)
    assert chips.parse("v6e:1x1").host_shape == (1, 1, 1)
    assert chips.parse("v4:2x2x4").host_shape == (2, 2, 1)
    assert chips.parse("tpu7x:4x4x4").host_shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("name", "slices", "settings"),
    [
        (
            "v5e:4x4",
            2,
            "SLICES=2 ACCELERATOR_TYPE=v5litepod-16 GKE_ACCELERATOR=tpu-v5-lite-podslice "
            "GKE_MACHINE=ct5lp-hightpu-4t GKE_TOPOLOGY=4x4 GKE_HOSTS=4 GKE_CHIPS_PER_HOST=4",
        ),
        (
            "v5p:2x2x4",
            1,
            "SLICES=1 ACCELERATOR_TYPE=v5p-32 GKE_ACCELERATOR=tpu-v5p-slice "
            "GKE_MACHINE=ct5p-hightpu-4t GKE_TOPOLOGY=2x2x4 GKE_HOSTS=4 GKE_CHIPS_PER_HOST=4",
        ),
        (
            "tpu7x:2x2x2",
            1,
            "SLICES=1 GKE_ACCELERATOR=tpu7x GKE_MACHINE=tpu7x-standard-4t GKE_TOPOLOGY=2x2x2 "
            "GKE_HOSTS=2 GKE_CHIPS_PER_HOST=4",
        ),
    ],
)
def test_the_settings_that_ask_for_a_slice(name, slices, settings):
    assert chips.parse(name, slices).settings == settings


def test_slices_without_a_known_network_need_a_stated_one():
    with pytest.raises(UserError, match="--dcn_gbps"):
        chips.parse("v4:2x2x2", 2)
    assert chips.parse("v4:2x2x2", 2, dcn_gbps=8).chip.dcn_bandwidth == 1e9


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("v9:2x2", "v4, v5e, v5p, v6e"),
        ("v5e", "chips along each axis"),
        ("v5e:2x2x2", "2 axes"),
        ("v4:4x4", "3 axes"),
        ("v5e:32x32", "the largest v5e slice is 16x16"),
        ("v5e:0x4", "the largest"),
        ("tpu7x:2x2x32", "the largest tpu7x slice is 16x24x24"),
        ("tpu7x:1x1x1", "whole machines of 2x2x1"),
    ],
)
def test_an_unknown_slice_is_refused_with_examples(name, reason):
    with pytest.raises(UserError, match=reason):
        chips.parse(name)


def test_the_mesh_is_the_configs_where_that_fits():
    assert meshes.choose(config_of(), 16) == ({"data": 16, "fsdp": 1, "spatial": 1}, "")
    by_hand = config_of(**{"mesh.spatial": 2, "mesh.fsdp": 4})
    assert meshes.choose(by_hand, 16).sizes == {"data": 2, "fsdp": 4, "spatial": 2}


def test_more_chips_than_images_share_images():
    layout = meshes.choose(config_of(), 256)
    assert layout.sizes == {"data": 16, "fsdp": 1, "spatial": 16}
    assert "16 devices share an image" in layout.note
    assert meshes.choose(config_of(accumulate_steps=4), 16).sizes["data"] == 4
    assert meshes.choose(config_of(), 32, slices=2).sizes == {"data": 16, "fsdp": 1, "spatial": 2}


@pytest.mark.parametrize(
    ("overrides", "devices", "reason"),
    [
        ({"mesh.data": 3}, 16, "does not fit 16 devices"),
        ({"mesh.data": 32}, 32, "config.batch_size = 16"),
        ({"data.crop_size": (64, 64)}, 256, "a smaller slice"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(overrides, devices, reason):
    with pytest.raises(UserError, match=reason):
        meshes.choose(config_of(**overrides), devices)


@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_of_a_convolution_are_two_more_of_them(dilation):
    """Nothing is traced, and so counted, that the gradients do not need."""
    x, kernel = jnp.zeros((1, 32, 32, 8)), jnp.zeros((3, 3, 8, 8))

    def total(x, kernel):
        return jnp.sum(conv2d(x, kernel, dilation=dilation))

    forward = flops.count(jax.make_jaxpr(total)(x, kernel).jaxpr)
    gradients = flops.count(jax.make_jaxpr(jax.grad(total, (0, 1)))(x, kernel).jaxpr)
    assert 3 * forward <= gradients < 3.2 * forward


def test_without_the_compiler_the_command_that_installs_it_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        chips.importlib.util, "find_spec", lambda name: None if name == "libtpu" else found(name)
    )
    with pytest.raises(UserError, match=r"pip install 'libtpu==0\.0\.\d+\.\*'"):
        plan.make(config_of(), chips.parse("v5e:4x4"), REPOSITORY / "nowhere")


def test_what_can_not_be_planned_is_said_in_a_sentence(capsys):
    assert command.run(["--config=demo", "--topology=v5e:3"]) == 2
    assert capsys.readouterr().err.startswith("nonlocal_jax: --topology=v5e:3")
    assert command.run(["--config=demo", "--topology=v5e:4x4", "--slices=3"]) == 2
    assert "does not" in capsys.readouterr().err
    assert command.run(["--config=demo", "--topology=v5e:4x4", "--slices=0"]) == 2
    assert "slices" in capsys.readouterr().err
    assert command.run(["--config=demo"]) == 2
    assert "--topology is missing" in capsys.readouterr().err


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A shrunk run on four and on sixteen chips: what is printed, and the JSON."""
    pytest.importorskip("libtpu")
    folder = tmp_path_factory.mktemp("plan")
    code, out, err = run_plan(
        folder,
        "--config=configs/demo.py",
        *SHRUNK,
        "--config.batch_size=16",
        "--topology=v5e:2x2",
        "--topology=v5e:4x4",
        f"--json={folder}/plan.json",
    )
    assert code == 0, err
    return out, json.loads((folder / "plan.json").read_text())["plans"]


@pytest.mark.compiler
def test_a_plan_from_end_to_end(planned):
    out, plans = planned
    assert [p["topology"] for p in plans] == ["v5e:2x2", "v5e:4x4"]
    assert out.count("fits") >= 4 and "roofline (a bound, no measurement)" in out
    few, many = plans
    assert few["mesh"] == {"data": 4, "fsdp": 1, "spatial": 1}
    for step in ("train", "eval"):
        assert few[step]["fits"] and few[step]["needed"] == sum(few[step]["parts"].values())
    # SGD keeps one momentum for each parameter; statistics have none.
    parts = few["train"]["parts"]
    assert 0.9 * parts["parameters"] < parts["optimizer"] < parts["parameters"]
    assert few["train"]["flops"] == pytest.approx(4 * many["train"]["flops"])
    assert few["hours"] == pytest.approx(8 * few["roofline_seconds"]["step"] / 3600)


@pytest.mark.compiler
def test_collectives_do_not_grow_with_the_chips(planned):
    _, (few, many) = planned
    sizes = [{c["kind"]: c["bytes"] for c in p["train"]["collectives"]} for p in (few, many)]
    assert set(sizes[0]) == set(sizes[1]) == {"all-reduce"}
    np.testing.assert_allclose(sizes[0]["all-reduce"], sizes[1]["all-reduce"], rtol=0.01)


@pytest.mark.compiler
@pytest.mark.parametrize("topology", ["v5e:2x2", "tpu7x:2x2x1"])
def test_slices_exchange_their_sums_alone(tmp_path, topology):
    pytest.importorskip("libtpu")
    flags = [*SHRUNK, "--config.batch_size=16", f"--topology={topology}", "--price=2"]
    flags += ["--slices=1", "--slices=2", f"--json={tmp_path}/plan.json"]
    code, out, err = run_plan(tmp_path, "--config=configs/demo.py", *flags)
    assert code == 0, err
    one, two = json.loads((tmp_path / "plan.json").read_text())["plans"]
    assert one["train"]["transfers"] == [] and one["bytes_between_slices"] == 0
    (sums,) = two["train"]["transfers"]
    assert sums["kind"] == "all-reduce"
    summed = {c["kind"]: c["bytes"] for c in one["train"]["collectives"]}["all-reduce"]
    assert sums["bytes"] * two["devices"] / 2 >= summed
    assert two["bytes_between_slices"] == sums["bytes"]  # 2 (s - 1) / s is 1
    assert two["chips"] == 2 * one["chips"] == 8
    assert two["devices"] == two["chips"] * (2 if topology.startswith("tpu7x") else 1)
    assert two["eval_chip_hours"] == two["chips"] * two["eval_hours"]
    assert two["cost"] == pytest.approx(2 * (two["chip_hours"] + two["eval_chip_hours"]))
    assert "over slices" in out
