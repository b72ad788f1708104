"""How fast the input pipeline is: `python -m nonlocal_jax.benchmark --config=configs/camvid.py`.

One thread runs every stage for the same examples, one after the other; then the whole pipeline runs
as in training. Compare figures taken in one run only: machines swing.
"""

from absl import flags
from ml_collections import ConfigDict

from nonlocal_jax import cli
from nonlocal_jax.inputs import loader, sources, timing

SAMPLES = flags.DEFINE_integer("samples", 200, "Examples to time.", lower_bound=1)


def input_report(config: ConfigDict, samples: int) -> str:
    """A line for each stage of the input pipeline, and one for the whole of it.

    Raises:
      UserError: the data set is not there, or an example is bad.
    """
    source = loader.open_source(config, "train")
    lines = [f"{'stage, one thread':<24}{'ms':>8}{'images/s':>12}"]
    if isinstance(source, sources.EncodedSource):  # generated images have no such stages
        crop_size = tuple(config.data.crop_size)
        stages = timing.stage_seconds(source, loader.augmentations(config), crop_size, samples)
        stages["together"] = sum(stages.values())
        lines += [f"{name:<24}{s * 1e3:8.2f}{1 / s:12.0f}" for name, s in stages.items()]
    rate = timing.images_per_second(loader.train_batches(config), samples)
    return "\n".join([*lines, f"whole pipeline, as in training: {rate:.0f} images/s"])


def _main() -> None:
    print(input_report(cli.config(), SAMPLES.value))


if __name__ == "__main__":
    cli.run(_main)
