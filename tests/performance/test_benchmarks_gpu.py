"""The comparison with PyTorch on a GPU: its cases on tiny networks, and its table of kernels."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu_against_pytorch  # noqa: E402
import kernel_table  # noqa: E402

PROGRAM = """\
HloModule jit_train_step

FileNames
1 "/home/me/nonlocal_jax/training/losses/cross_entropy.py"
2 "/home/me/nonlocal_jax/ops/conv/conv2d.py"
3 "/home/me/nonlocal_jax/models/layers.py"
4 "/home/me/nonlocal_jax/training/step.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=61 end_line=61 column=12 end_column=87}
2 {file_name_id=2 function_name_id=2 line=9 end_line=9 column=1 end_column=5}
3 {file_name_id=3 function_name_id=3 line=9 end_line=9 column=1 end_column=5}
4 {file_name_id=4 function_name_id=4 line=9 end_line=9 column=1 end_column=5}

StackFrames
1 {file_location_id=4 parent_frame_id=1}
2 {file_location_id=3 parent_frame_id=2}
3 {file_location_id=2 parent_frame_id=3}
4 {file_location_id=1 parent_frame_id=2}

ENTRY %main {
  %cudnn-conv.52 = (bf16[4], u8[0]) custom-call(%x), metadata={op_name="conv" stack_frame_id=3}
  %loop_add_fusion.3 = f32[4] fusion(%x), kind=kLoop, metadata={op_name="add" stack_frame_id=4}
  ROOT %input_reduce_fusion.1 = f32[4] fusion(%x), metadata={op_name="sum" stack_frame_id=2}
}
"""
LAUNCHES = [
    ("cudnn-conv.52", "sm90_xmma_fprop_implicit_gemm_bf16bf16", 400e3),
    ("cudnn-conv.52", "sm90_xmma_fprop_implicit_gemm_bf16bf16", 600e3),
    ("cudnn-conv-bw-filter.4", "sm90_xmma_wgrad_indexed_implicit_gemm", 100e3),
    ("cudnn-conv-bw-input.4", "sm90_xmma_dgrad_implicit_gemm", 100e3),
    ("command_buffer_5", "nvjet_sm90_tst_128x160_64x5_2x1_v_bz_NNT", 100e3),
    ("command_buffer_5", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop", 100e3),
    ("command_buffer_5", "loop_add_fusion_3", 100e3),
    ("command_buffer_5", "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_ffma", 100e3),
    ("input_reduce_fusion.1", "input_reduce_fusion_1", 100e3),
    ("", "MemcpyD2D", 100e3),
]


def test_kernels_are_told_apart_by_their_names_and_by_their_source():
    kernels = kernel_table.table(LAUNCHES, 2, PROGRAM)
    assert kernels[0].times == 1 and kernels[0].microseconds == 500
    assert kernel_table.by_category(kernels) == {
        "convolutions, forward": 0.5,
        "convolutions, input gradient": 0.05,
        "convolutions, weight gradient": 0.05,
        "1x1 products": 0.05,
        "attention": 0.05,
        "loss": 0.1,
        "norms and the rest": 0.1,
        "all": 0.9,
    }
    assert json.loads(kernel_table.to_json(kernels))[0][:2] == list(LAUNCHES[0][:2])


@pytest.fixture
def torch_python() -> str:
    """A Python with PyTorch: this one, or NONLOCAL_JAX_TORCH; "" for none."""
    named = os.environ.get("NONLOCAL_JAX_TORCH") or os.environ.get("NONLOCAL_JAX_PEER", "")
    return sys.executable if importlib.util.find_spec("torch") else named


def measured(torch_python, folder, *arguments):
    """The records of a smoke run, and what it printed."""
    script = str(BENCHMARKS / "gpu_against_pytorch.py")
    python = f"--torch_python={torch_python or sys.executable}"
    done = subprocess.run(
        [sys.executable, script, "--smoke", python, f"--output={folder}", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = json.loads((folder / "results.json").read_text())
    assert not [record["error"] for record in records if "error" in record]
    assert all(record["ms"] > 0 for record in records)
    for record in records:
        differences = record.get("against_the_first")
        if differences and record["kind"] == "train":
            assert differences["loss"] < 1e-5
        elif differences:
            assert differences["same_classes"] > 0.9999
            assert differences.get("logits", 0) < 1e-5
    return records, done.stdout


def names_of(records):
    """Row, kind, batch and program of each."""
    return [(r["row"], r["kind"], r["batch"], r["name"]) for r in records]


def test_inference_and_training_run_on_a_tiny_network_in_both_frameworks(torch_python, tmp_path):
    """And agree. Where there is no PyTorch, this project is measured alone."""
    chosen = ["--rows", "ade20k_r50_80k", "--cases", "infer:1", "train:2"]
    records, printed = measured(torch_python, tmp_path, *chosen)
    programs = ["ours", *(["PyTorch, eager"] if torch_python else [])]
    cases = [("ade20k_r50_80k", kind, batch) for kind, batch in (("infer", 1), ("train", 2))]
    assert names_of(records) == [(*case, name) for case in cases for name in programs]
    assert len(list(tmp_path.glob("*.kernels.json"))) == 2
    assert bool(torch_python) or "only this project is measured" in printed


def test_other_flags_make_one_more_program(torch_python, tmp_path):
    chosen = ["--rows", "ade20k_r50_80k", "--cases", "infer:1", "--no_torch"]
    chosen += ["--flags", "fast=--xla_cpu_enable_fast_math=true"]
    records, _ = measured(torch_python, tmp_path, *chosen)
    assert [record["name"] for record in records] == ["ours", "fast"]


@pytest.mark.soak
def test_every_case_of_every_row_runs(torch_python, tmp_path):
    """What `--smoke` alone means: three minutes on two cores."""
    records, _ = measured(torch_python, tmp_path)
    programs = ["ours", *(["PyTorch, eager"] if torch_python else [])]
    expected = [
        (row, *text.split(":"), name)
        for row in gpu_against_pytorch.ROWS
        for text in ("infer:1", "infer:16", "train:4", "train:16")
        for name in programs
    ]
    assert [tuple(map(str, names)) for names in names_of(records)] == expected


def test_flags_are_those_of_one_more_program_in_each_case(monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    told = {"smoke": False, "also": [], "no_torch": False, "torch_python": "python", "output": None}
    flags = [gpu_against_pytorch.named_flags("fused=--xla_b=true --xla_c=false")]
    options = argparse.Namespace(folder=tmp_path, flags=flags, **told)
    programs = gpu_against_pytorch.programs_of(options, "ade20k_r50_80k", "train", 4)
    names = ["ours", "fused", "PyTorch, default", "PyTorch, reduce-overhead"]
    assert [program.name for program in programs] == names
    ours, fused = (program.environment["XLA_FLAGS"].split() for program in programs[:2])
    assert ours == ["--xla_a=1"] and fused == ["--xla_a=1", "--xla_b=true", "--xla_c=false"]
    assert len({program.case["masks"] for program in programs}) == 4
