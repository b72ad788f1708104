"""One case in PyTorch at its best: channels_last, bfloat16 autocast, torch.compile, fused SGD."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch_model import NonLocalNet
from worker import Facts, Work, example, serve

WAIT = 120.0  # seconds, for the weights that another process writes


def prepare(case: Facts) -> Work:
    """The case's program, compiled, which takes its first runs; memory is given back after."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    model = NonLocalNet(**case["widths"], classes=case["classes"])
    model.load_state_dict(_weights(pathlib.Path(case["weights"])))
    model = model.to(device, memory_format=torch.channels_last)
    images, labels = (torch.from_numpy(array).to(device) for array in example(case))
    make = _inference if case["kind"] == "infer" else _training
    run, first = make(case, model, images, labels)
    begin = time.perf_counter()
    outcome = first()
    run(3)  # CUDA graphs are recorded in the second run
    facts = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "version": f"torch {torch.__version__}",
        "compile_seconds": time.perf_counter() - begin,
    }
    facts["held_gb"] = _give_back()

    def start() -> Facts:
        run(2)
        return {**outcome, **_memory()}

    return Work(facts, start, run)


def _inference(
    case: Facts, model: NonLocalNet, images: torch.Tensor, labels: torch.Tensor
) -> tuple[Callable[[int], None], Callable[[], Facts]]:
    """The timed function, and the one that says what comes out."""
    model.eval()

    def infer() -> torch.Tensor:
        with _autocast(case, images):
            logits = model(images)[0]
        return F.interpolate(logits.float(), **_resize(case)).argmax(1).to(torch.uint8)

    compiled = _compiled(case, infer)

    @torch.inference_mode()
    def run(times: int) -> None:
        for _ in range(times):
            masks = compiled()
        masks[0, 0, 0].item()  # waits

    @torch.inference_mode()
    def first() -> Facts:
        if case["logits"]:
            with _autocast(case, images):
                logits = model(images)[0].float().permute(0, 2, 3, 1)
            np.save(case["logits"], logits.cpu().numpy())
        np.save(case["masks"], compiled().cpu().numpy())
        return {}

    return run, first


def _training(
    case: Facts, model: NonLocalNet, images: torch.Tensor, labels: torch.Tensor
) -> tuple[Callable[[int], None], Callable[[], Facts]]:
    """Likewise; what comes out is the first step's loss."""
    model.train()
    # The rate of the rows. A random network may diverge at it, which costs the same time.
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), fused=True, **settings)
    labels = labels.long()

    def loss() -> torch.Tensor:
        with _autocast(case, images):
            heads = model(images)
        losses = [
            F.cross_entropy(
                F.interpolate(x.float(), **_resize(case)),
                labels,
                ignore_index=255,
                reduction="none",
            ).mean()
            for x in heads
        ]
        return losses[0] + 0.4 * losses[1]

    compiled = _compiled(case, loss)

    def step() -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        value = compiled()
        value.backward()
        optimizer.step()
        return value

    def run(times: int) -> None:
        for _ in range(times):
            value = step()
        value.item()  # waits

    return run, lambda: {"loss": step().item()}


def _weights(file: pathlib.Path) -> dict[str, torch.Tensor]:
    end = time.perf_counter() + WAIT
    while not file.exists():
        if time.perf_counter() > end:
            raise FileNotFoundError(f"no weights in {file} after {WAIT:.0f} s")
        time.sleep(0.2)
    return torch.load(file, map_location="cpu", weights_only=True)["state_dict"]


def _compiled(case: Facts, function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """`mode` is one of torch.compile's, "eager" (a backend without a C++ compiler), or "none"."""
    if case["mode"] == "none":
        return function
    if case["mode"] == "eager":
        return torch.compile(function, backend="eager")
    return torch.compile(function, mode=case["mode"])


def _autocast(case: Facts, images: torch.Tensor) -> contextlib.AbstractContextManager:
    if case["dtype"] == "float32":
        return contextlib.nullcontext()
    return torch.autocast(images.device.type, torch.bfloat16)


def _resize(case: Facts) -> dict[str, Any]:
    size = tuple(case["size"])
    return {"size": size, "mode": "bilinear", "align_corners": case["align_corners"]}


def _give_back() -> float:
    """Leaves the device's memory to other processes; returns the gigabytes that must stay."""
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_reserved() / 1e9


def _memory() -> Facts:
    """A CUDA graph's own memory is not allocated when it runs: it counts as reserved."""
    if not torch.cuda.is_available():
        return {}
    peak = max(torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved())
    return {"peak_gb": peak / 1e9, "allocated_gb": torch.cuda.max_memory_allocated() / 1e9}


if __name__ == "__main__":
    serve(prepare)
