"""One case in PyTorch: inference or training, eager float32, eager TF32, or its best form."""

import contextlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch_model import NonLocalNet
from worker import example, serve


def prepare(case: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The case's work as a function of how often, and what is known before it is timed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case["form"] != "fp32"
    torch.backends.cudnn.benchmark = True
    best = case["form"] == "best"
    model = NonLocalNet(**case["widths"], classes=case["classes"])
    loaded = torch.load(case["weights"], map_location="cpu", weights_only=True)
    model.load_state_dict(loaded["state_dict"])
    model = model.to(device, memory_format=torch.channels_last if best else torch.contiguous_format)
    images, labels = (torch.from_numpy(array).to(device) for array in example(case))
    resize = {"size": images.shape[1:3], "mode": "bilinear", "align_corners": case["align_corners"]}

    def autocast() -> contextlib.AbstractContextManager:
        return torch.autocast(device, torch.bfloat16) if best else contextlib.nullcontext()

    def compiled(function: Any) -> Any:
        if not best:
            return function
        if case["backend"] == "eager":  # without a C++ compiler, to try the script
            return torch.compile(function, backend="eager")
        return torch.compile(function, mode=case["backend"])

    def infer() -> torch.Tensor:
        with autocast():
            logits = model(images)[0]
        return F.interpolate(logits.float(), **resize).argmax(1).to(torch.uint8)

    def loss() -> torch.Tensor:
        with autocast():
            heads = model(images)
        losses = [
            F.cross_entropy(
                F.interpolate(x.float(), **resize),
                labels.long(),
                ignore_index=255,
                reduction="none",
            ).mean()
            for x in heads
        ]
        return losses[0] + 0.4 * losses[1]

    if case["kind"] == "infer":
        model.eval()
        with torch.inference_mode(), autocast():
            np.save(case["logits"], model(images)[0].float().permute(0, 2, 3, 1).cpu().numpy())
        infer = compiled(infer)

        @torch.inference_mode()
        def run(times: int) -> None:
            for _ in range(times):
                indices = infer()
            indices[0, 0, 0].item()  # waits

        facts: dict[str, Any] = {}
    else:
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        loss = compiled(loss)

        def run(times: int) -> dict[str, float]:
            for _ in range(times):
                optimizer.zero_grad(set_to_none=True)
                value = loss()
                value.backward()
                optimizer.step()
            return {"loss": value.item()}

        facts = run(1)
    run(2)
    if device == "cuda":
        facts["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return run, {**facts, "device": torch.cuda.get_device_name() if device == "cuda" else "CPU"}


if __name__ == "__main__":
    serve(prepare)
