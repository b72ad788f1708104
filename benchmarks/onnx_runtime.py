"""ONNX Runtime against JAX: class indices of one image, by a config's network and protocol.

    python benchmarks/onnx_runtime.py --config=ade20k_r50_80k --size=512,512 [--threads=2]
    python benchmarks/onnx_runtime.py --smoke

Weights and image are random, which does not affect the speed. Both programs may use the same cores,
and take turns. Medians of --rounds turns and their ratio are printed; the first turn, which
compiles, is left out. Seconds of CPU time are printed beside them: they say more where other
programs use the machine, too.
"""

import argparse
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

TINY = {
    "eval.scale": (96, 64),
    "model.backbone.depth": 18,
    "model.backbone.stem_channels": 4,
    "model.backbone.base_channels": 4,
    "model.decode_head.channels": 16,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="ade20k_r50_80k")
    parser.add_argument("--size", default="512,512", help="HEIGHT,WIDTH of the image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="a tiny network, to test this script")
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):  # before JAX counts the cores
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: options.threads])
    size = (48, 64) if options.smoke else tuple(map(int, options.size.split(",")))
    ours, theirs, image = programs(
        options.config, size, options.threads, TINY if options.smoke else {}
    )
    figures = alternate(
        {"jax": lambda: ours(image), "onnxruntime": lambda: theirs(image)}, options.rounds
    )
    print(
        json.dumps({"config": options.config, "size": size, "threads": options.threads, **figures})
    )


def programs(config_name, size, threads, overrides):
    """JAX's and ONNX Runtime's function of an image, and an image."""
    import numpy as np

    from nonlocal_jax.checkpoints import locate
    from nonlocal_jax.checkpoints.metadata import Metadata
    from nonlocal_jax.config import files
    from nonlocal_jax.evaluation.predictor import Predictor
    from nonlocal_jax.evaluation.restore import Restored
    from nonlocal_jax.exporting.onnx import network
    from nonlocal_jax.exporting.onnx.session import Session
    from nonlocal_jax.exporting.request import Request, portable
    from nonlocal_jax.inputs.datasets.dataset import distinct_colours
    from nonlocal_jax.models.fold import fold
    from nonlocal_jax.models.network import build_network, init_variables, without_auxiliary_head

    config = portable(files.load(config_name, **overrides))
    model = without_auxiliary_head(config.model)
    values = {name: np.asarray(x) for name, x in init_variables(model, 0).items()}
    folded, variables = fold(build_network(model), values)
    count = model.num_classes
    restored = Restored(
        locate.Found(pathlib.Path("random"), None, None),
        Metadata(kind="segmentor"),
        config,
        folded,
        variables,
        tuple(map(str, range(count))),
        distinct_colours(count),
    )
    content = network.build(Request(restored, pathlib.Path())).SerializeToString()
    session = Session(content, threads)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return Predictor(restored).predict, lambda x: session(x[None])[0], image


def alternate(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, object]:
    """Medians of wall and CPU seconds of each, and the ratios of the first to the second."""
    wall = {name: [] for name in runs}
    cpu = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start[0])
            cpu[name].append(time.process_time() - start[1])
    figures = {}
    for title, times in (("seconds", wall), ("cpu_seconds", cpu)):
        medians = {name: statistics.median(found[1:]) for name, found in times.items()}
        first, second = medians.values()
        figures[title] = {name: round(median, 4) for name, median in medians.items()}
        figures[f"ratio_of_{title}"] = round(first / second, 2)
    return figures


if __name__ == "__main__":
    main()
