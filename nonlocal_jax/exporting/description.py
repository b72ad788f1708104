"""What a user of an exported file needs to know, and the file itself does not say."""

import dataclasses
from typing import Any

from nonlocal_jax.exporting.request import Request, Result

OUTPUTS: dict[Result, str] = {
    "indices": "uint8 [n, height, width]: the class of each pixel",
    "probabilities": "float32 [n, height, width, classes]",
    "logits": "float32 [n, rows, columns, classes]: at the network's output stride",
}


def describe(request: Request) -> dict[str, Any]:
    """Classes, colours, argument and result of an exported function, for a JSON file."""
    restored = request.restored
    return {
        "input": "uint8 [n, height, width, 3]: RGB images of any size",
        "output": OUTPUTS[request.result],
        "class_names": list(restored.class_names),
        "palette": restored.palette.tolist(),
        "tta": request.tta,
        "eval": dataclasses.asdict(restored.config.eval),
    }
