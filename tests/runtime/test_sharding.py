"""Any mesh of devices computes what one device does, and moves no more than it must."""

import math
import os
import re
import subprocess
import sys

import evaluations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded
from conftest import REPOSITORY
from jax.sharding import PartitionSpec as P
from networks import golden_variables
from ports import free_port

from nonlocal_jax.checkpoints import run
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files, schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.evaluate import Evaluation
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.ops import layout
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training import loop
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.tasks import task as tasks

# Every mode and both resizes, on one device and on meshes of 2, 4 and 8: (data, fsdp, spatial).
CASES = {
    ("embedded_gaussian", False): [(1, 2, 1), (1, 1, 4), (8, 1, 1), (2, 2, 2)],
    ("embedded_gaussian", True): [(2, 1, 2)],
    ("gaussian", True): [(1, 1, 2)],
    ("dot_product", False): [(1, 4, 2)],
    ("concatenation", True): [(2, 1, 1)],
}


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    sharded.shrink(monkeypatch)


@pytest.fixture(scope="module")
def computed():
    """What was compiled and computed, by case and mesh, for several tests."""
    return {}


def case_on(computed, case, sizes):
    """The compiled step's text, and its results."""
    if (case, sizes) not in computed:
        mode, align_corners = case
        config = sharded.config(**{"decode_head.mode": mode, "align_corners": align_corners})
        mesh = sharded.mesh_of(*sizes)
        compiled = sharded.compile_step(config, mesh)
        computed[case, sizes] = compiled.as_text(), sharded.results(compiled, config, mesh)
    return computed[case, sizes]


def assert_equal_results(ours, theirs, tolerance=1e-5):
    """Within `tolerance` of the largest gradient, or of what else an array holds.

    The order of float32 sums alone moves tiny gradients by more than that of their own: those are
    compared in float64 below. Where two classes' scores are equal but for rounding, a pixel may
    change its class, and the accuracy with it.
    """
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(v).max() for k, v in theirs.items() if k.startswith("gradient/"))
    for name, expected in theirs.items():
        bound = largest if name.startswith("gradient/") else np.abs(expected).max()
        allowed = 3 / sharded.PIXELS if name == "metric/accuracy" else tolerance * bound
        np.testing.assert_allclose(
            ours[name].astype(np.float64), expected, rtol=0, atol=allowed, err_msg=name
        )


ALWAYS = [(2, 2, 2), (1, 4, 2)]  # the others add little to these
ALL = [
    pytest.param(case, sizes, marks=[pytest.mark.soak] * (sizes not in ALWAYS))
    for case, meshes in CASES.items()
    for sizes in meshes
]


@pytest.mark.parametrize(("case", "sizes"), ALL, ids=str)
def test_a_mesh_computes_what_one_device_does(computed, case, sizes):
    _, alone = case_on(computed, case, (1, 1, 1))
    _, together = case_on(computed, case, sizes)
    assert_equal_results(together, alone)


@pytest.mark.soak
def test_what_is_left_is_float32s_rounding():
    """Computed in float64 from float32 parameters, each gradient is equal to a rounding of it."""
    results = []
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for sizes in ((1, 1, 1), (2, 2, 2)):
            config, mesh = sharded.config(dtype="float64"), sharded.mesh_of(*sizes)
            results.append(sharded.results(sharded.compile_step(config, mesh), config, mesh))
    alone, together = results
    largest = max(np.abs(v).max() for k, v in alone.items() if k.startswith("gradient/"))
    for name, expected in alone.items():
        bound = max(np.abs(np.asarray(expected, float)).max(), 1e-6 * largest)
        np.testing.assert_allclose(
            together[name].astype(float), expected, rtol=0, atol=1e-6 * bound, err_msg=name
        )


def excess(program, sizes, mode="embedded_gaussian"):
    """What the program moves or holds that it must not: nothing, if the network is well split.

    Collectives may give gradients, variables and batch norms' sums, and a device's own images' keys
    and values. The keys of the whole batch have more elements than any variable. A device hands its
    neighbours (collective-permute) the borders of its own images' rows, not half of their features.
    """
    data, fsdp, spatial = sizes
    keys = sharded.POSITIONS * sharded.KEY_CHANNELS[mode]
    network = tasks.of(sharded.config()).network(sharded.mesh_of(1, 1, 1))
    variables = max(math.prod(shape.shape) for shape in network.shapes.values())
    assert variables < sharded.BATCH * keys
    allowed = max(variables, keys * sharded.BATCH // (data * fsdp) if spatial > 1 else 0)
    features = sharded.POSITIONS * sharded.WIDEST * sharded.BATCH // (data * fsdp)
    found = [
        (operation, size)
        for operation, size in sharded.collective_sizes(program)
        if size > (max(allowed, features // 2) if operation == "collective-permute" else allowed)
    ]
    queries = {sharded.POSITIONS, -(-12 // spatial) * 10}
    pairs = "|".join(f"{count},{sharded.POSITIONS}" for count in queries)
    return found + re.findall(rf"\[[\d,]*\b(?:{pairs})\b[\d,]*\]", program)


@pytest.mark.parametrize(("case", "sizes"), ALL, ids=str)
def test_neither_the_batch_nor_the_pairs_are_gathered(computed, case, sizes):
    program, _ = case_on(computed, case, sizes)
    assert not excess(program, sizes, mode=case[0])


@pytest.mark.parametrize("sizes", [(2, 1, 1)], ids=str)
def test_a_gathered_batch_would_be_seen(monkeypatch, sizes):
    monkeypatch.setattr(layout, "split", lambda x: jax.lax.with_sharding_constraint(x, P()))
    program = sharded.compile_step(sharded.config(), sharded.mesh_of(*sizes)).as_text()
    assert any(operation == "all-gather" for operation, _ in excess(program, sizes))


def test_a_matrix_of_pairs_would_be_seen():
    pairs = jax.jit(lambda x: jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", x, x), -1).sum())
    x = jnp.zeros((2, sharded.POSITIONS, 3))
    assert excess(pairs.lower(x).compile().as_text(), (1, 1, 1))


def test_variables_and_optimiser_are_split_over_fsdp():
    config, mesh = sharded.config(), sharded.mesh_of(2, 4, 1)
    state = TrainProgram.of(config, mesh).abstract_state()
    shapes = {"decode_head/conv_cat/conv/kernel": P(None, None, "fsdp")}
    for name, spec in shapes.items():
        assert state.parameters[name].sharding.spec == spec
        momentum = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer)
            if name in jax.tree_util.keystr(path)
        ]
        assert [leaf.sharding.spec for leaf in momentum] == [spec]
    for name, leaf in state.statistics.items():
        assert leaf.sharding.spec == P(), name
    shape = jax.ShapeDtypeStruct((3, 3, 512, 512), jnp.float32)
    assert sharding.variable_shardings(mesh, shape).spec == P(None, None, None, "fsdp")
    odd = jax.ShapeDtypeStruct((3, 3, 510, 512 * 3 + 1), jnp.float32)
    assert sharding.variable_shardings(mesh, odd).spec == P()


@pytest.mark.parametrize("mode", ["whole_tta", "slide"])
def test_evaluation_on_a_mesh_gives_the_same_counts(tmp_path, mode):
    evaluations.write_folder(tmp_path, evaluations.mixed_examples(5))
    config = evaluations.config_for(tmp_path, mode.partition("_")[0])
    config = files.override(config, **{"model.backbone.depth": 18, "eval.tta_ratios": (1.0,)})
    results = []
    for sizes in ((1, 1, 1), (2, 1, 2), (1, 2, 2)):
        mesh, masks = sharded.mesh_of(*sizes), {}
        network = tasks.of(config).network(mesh)
        variables = sharding.place_variables(golden_variables(config, network), mesh)
        evaluation = Evaluation.of(config, network, mesh, tta=mode.endswith("tta"))
        scores = evaluation.run(variables, on_mask=masks.__setitem__)
        results.append((scores.confusion, masks))
    (alone, alone_masks), *others = results
    for together, masks in others:
        assert together.sum() == alone.sum()
        # Scores that are equal but for rounding may change places.
        assert np.abs(together - alone).sum() <= 1e-3 * alone.sum()
        for index, mask in alone_masks.items():
            assert (masks[index] != mask).mean() <= 1e-2


def on_processes(count, output, slices=0):
    """What `count` processes with four devices in all write; the mesh may take them for slices."""
    address = f"localhost:{free_port()}"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    program = [
        sys.executable,
        str(REPOSITORY / "tests" / "support" / "sharded.py"),
        address,
        str(count),
    ]
    processes = [
        subprocess.Popen(
            [*program, str(rank), str(output), str(slices)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, said
    return dict(np.load(output))


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_compute_what_one_does(computed, tmp_path, count):
    """Also where images are split over processes, which then feed the same ones."""
    _, alone = case_on(computed, ("embedded_gaussian", False), (1, 1, 1))
    found = on_processes(count, tmp_path / "results.npz")
    for sizes in sharded.MESHES_OF_PROCESSES:
        together = {
            name.removeprefix(f"{sizes}/"): value
            for name, value in found.items()
            if name.startswith(f"{sizes}/")
        }
        assert_equal_results(together, alone)


@pytest.mark.soak
def test_two_slices_compute_what_one_device_does(computed, tmp_path):
    """Two processes, each of them a slice for the mesh."""
    _, alone = case_on(computed, ("embedded_gaussian", False), (1, 1, 1))
    found = on_processes(2, tmp_path / "results.npz", slices=2)
    (sizes,) = sharded.MESHES_OF_SLICES
    assert found.pop("slices").tolist() == [[0], [1]]
    together = {name.removeprefix(f"{sizes}/"): value for name, value in found.items()}
    assert_equal_results(together, alone)


def test_processes_that_share_images_feed_the_same_rows(monkeypatch):
    class Device:
        def __init__(self, process_index):
            self.process_index = process_index

    class Grid:
        def __init__(self):
            self.shape = {"data": 2, "fsdp": 1, "spatial": 2}
            self.devices = np.array([[[Device(2), Device(1)]], [[Device(0), Device(3)]]])

    rows = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        rows.append(sharding.local_rows(Grid(), 6))
    assert rows == [[3, 4, 5], [0, 1, 2], [0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 1), (1, 4, 1)], ids=str)
def test_a_checkpoint_of_eight_devices_goes_on_elsewhere(tmp_path, sizes):
    scenes = {"data.name": "scenes", "model.num_classes": 5}
    config = files.override(sharded.config(), init_from="", **scenes)
    inputs = Inputs.of(config)
    eight, program = (
        TrainProgram.of(config, mesh)
        for mesh in (sharded.mesh_of(2, 4, 1), sharded.mesh_of(*sizes))
    )
    run.prepare(tmp_path)
    with run.RunCheckpoints(tmp_path, keep=1) as saved:
        state = loop._first_state(config, inputs, eight, saved, 0)
        # A momentum of zeros would tell nothing.
        moved = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), state)
        saved.save(7, moved.variables, moved.optimizer, Metadata(kind="training", config=config))
    with run.RunCheckpoints(tmp_path, keep=1) as found:
        restored = loop._first_state(config, inputs, program, found, 7)
    assert int(restored.step) == 7
    expected = moved._replace(step=np.int32(7))
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    abstract = program.abstract_state()
    places = jax.tree.map(
        lambda x, like: x.sharding.is_equivalent_to(like.sharding, x.ndim), restored, abstract
    )
    assert all(jax.tree.leaves(places))


def test_the_next_batches_are_the_same_on_other_devices():
    scenes = {
        "data.name": "scenes",
        "data.crop_size": (64, 96),
        "data.scale": (512, 64),
        "data.num_threads": 1,
        "data.num_workers": 0,
        "model.num_classes": 5,
    }
    config = files.override(sharded.config(), **scenes)
    inputs = Inputs.of(config)
    whole = inputs.train_batches(start_step=7)
    expected = [next(whole) for _ in range(2)]
    for sizes in [(1, 1, 1), (2, 1, 2), (2, 2, 2)]:
        mesh = sharded.mesh_of(*sizes)
        rows = sharding.local_rows(mesh, config.batch_size)
        batches = inputs.train_batches(start_step=7, rows=rows)
        for batch in expected:
            placed = sharding.put_batch(next(batches), mesh)
            jax.tree.map(np.testing.assert_array_equal, placed, batch)


class SliceDevice:
    """What the arrangement of a mesh asks of a device of one of several TPU slices."""

    platform, device_kind, core_on_chip = "tpu", "TPU of a test", 0

    def __init__(self, number, slices, slice_index):
        self.id, self.process_index, self.slice_index = number, number // 2, slice_index
        self.coords = (number // slices, 0, 0)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (4, 1, 2), (-1, 1, 4)], ids=str)
def test_only_data_goes_over_slices(sizes):
    # JAX may list the devices of slices in any order.
    devices = [SliceDevice(number, 2, number % 2) for number in range(8)]
    mesh = sharding.make_mesh(schema.Mesh(data=sizes[0], fsdp=sizes[1], spatial=sizes[2]), devices)
    where = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert where.shape == (8 // (sizes[1] * sizes[2]), *sizes[1:])
    half = where.shape[0] // 2
    assert (where[:half] == 0).all() and (where[half:] == 1).all()
    assert sorted(device.id for device in mesh.devices.flat) == list(range(8))


@pytest.mark.parametrize("sizes", [(1, 1, 8), (1, 8, 1), (1, 2, 4)], ids=str)
def test_an_axis_larger_than_a_slice_is_refused_in_a_sentence(sizes):
    devices = [SliceDevice(number, 2, number % 2) for number in range(8)]
    axes = schema.Mesh(data=sizes[0], fsdp=sizes[1], spatial=sizes[2])
    with pytest.raises(UserError, match="does not fit 2 slices of 4 devices: only data") as caught:
        sharding.make_mesh(axes, devices)
    assert "\n" not in str(caught.value)


def test_any_axis_may_go_over_nodes_of_gpus(monkeypatch):
    monkeypatch.setattr(SliceDevice, "platform", "gpu")
    devices = [SliceDevice(number, 2, number % 2) for number in range(8)]
    mesh = sharding.make_mesh(schema.Mesh(data=1, spatial=8), devices)
    assert mesh.shape == {"data": 1, "fsdp": 1, "spatial": 8}


def test_a_mesh_that_does_not_fit_is_explained():
    with pytest.raises(UserError, match="does not fit 8 devices"):
        sharding.make_mesh(schema.Mesh(data=3))
    mesh = sharding.make_mesh(schema.Mesh(data=-1, fsdp=2))
    with pytest.raises(UserError, match="make it a multiple of 8"):
        sharding.check_batch_size(mesh, 12, "config.batch_size")
