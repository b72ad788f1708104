"""Measures time and memory of a config on this machine:

    python -m nonlocal_jax.benchmark --config=configs/ade20k_r50_80k.py --what=inference,training

Images or clips, labels and weights are random, which does not affect the speed. --what=saving takes
--steps train steps with a checkpoint among them and without. --what=input and --what=evaluation
read the data set of the config. --all_rows measures the published rows of --methods, with the
published number of images for each device, beside the published figures.
Timings vary from run to run, so compare figures of the same run only.
"""

import dataclasses
import signal
import sys
from collections.abc import Mapping, Sequence

import jax
from absl import flags

from nonlocal_jax.config import command_line, files
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.config.schema import Config, Published, Run, Size
from nonlocal_jax.errors import UserError
from nonlocal_jax.performance import measure, saving
from nonlocal_jax.runtime import startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import check_file, write_json
from nonlocal_jax.training.tasks import task as tasks

KINDS = ("inference", "training", "saving", "input", "evaluation")
NONLOCAL = "nonlocal"  # the method whose rows have a file each
PUBLISHED_GPUS = 4  # for the batch of each row; the published memory is that of one GPU


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    listed = ", ".join(KINDS)
    flags.DEFINE_list("what", ["inference", "training"], f"Some of {listed}.", flag_values=values)
    flags.DEFINE_integer(
        "batch", 1, "Images or views a step of inference.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_string(
        "size", None, "HEIGHT,WIDTH of inference, other than the usual.", flag_values=values
    )
    flags.DEFINE_integer(
        "runs", 5, "Runs after the first; their median counts.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "steps", 20, "Train steps around a save.", lower_bound=2, flag_values=values
    )
    flags.DEFINE_integer(
        "samples",
        200,
        "Examples of --what=input and --what=evaluation.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "all_rows",
        False,
        "Every published row of --methods; needs no --config.",
        flag_values=values,
    )
    flags.DEFINE_alias("all-rows", "all_rows", flag_values=values)
    flags.DEFINE_list(
        "methods",
        [NONLOCAL],
        "Methods whose rows --all_rows measures: nonlocal, dnl, gc, ...",
        flag_values=values,
    )
    flags.DEFINE_string(
        "json", None, "A file for the numbers of all but evaluation.", flag_values=values
    )


def main(options: Options) -> None:
    """Measures `--config`, or all rows."""
    unknown = set(options.flags.what) - set(KINDS)
    if unknown:
        raise UserError(f"--what has {', '.join(sorted(unknown))}; it may be {', '.join(KINDS)}.")
    if options.flags.all_rows and (options.names_config or options.overridden):
        raise UserError("--all_rows takes the rows as they are: leave out --config, or --all_rows.")
    if options.flags.json and set(options.flags.what) == {"evaluation"}:
        raise UserError("--json is for the numbers of all but evaluation: leave it out.")
    if options.flags.json:
        check_file(options.flags.json)
    startup.use_jax(
        "default" if options.flags.all_rows else options.config.precision, log_kernels=True
    )
    alone = not options.flags.all_rows
    size, runs = parse_size(options.flags.size), options.flags.runs
    configs: Mapping[str, Run] = (
        {options.config_name: options.config} if alone else rows(options.flags.methods)
    )
    if {"input", "evaluation"} & set(options.flags.what):
        for config in configs.values():
            tasks.of(config).inputs.check()  # before anything is compiled
    measured: list[measure.Measured] = []
    saved: list[saving.Saving] = []
    rates: list[measure.InputRates] = []
    for name, config in configs.items():
        if "inference" in options.flags.what:
            measured.append(
                measure.inference(name, config, options.flags.batch, options.flags.runs, size)
            )
        if "training" in options.flags.what:
            measured.append(measure.training(name, config, runs))
        if "saving" in options.flags.what:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # removes what is saved
            saved.append(saving.saving(name, config, options.flags.steps, runs))
            say(saved[-1].line())
        if "input" in options.flags.what:
            rates.append(measure.input_rates(name, config, options.flags.samples))
            say(rates[-1].text())
        if "evaluation" in options.flags.what:
            say(measure.evaluation_report(name, config, options.flags.samples))
    if measured or saved:
        say(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
    if measured:
        published = {
            name: config.published
            for name, config in configs.items()
            if isinstance(config.published, Published)
        }
        say(measure.table(measured, published))
    if options.flags.json:
        numbers = [dataclasses.asdict(one) for one in measured]
        numbers += [dataclasses.asdict(one) for one in saved]
        numbers += [dataclasses.asdict(one) for one in rates]
        write_json(options.flags.json, numbers)


def parse_size(text: str | None) -> Size | None:
    """Height and width from "HEIGHT,WIDTH"; None for None.

    Raises:
      UserError: it is no such pair.
    """
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise UserError(f"--size is {text!r}; it must be HEIGHT,WIDTH, e.g. 512,1024.")
    return int(numbers[0]), int(numbers[1])


def rows(methods: Sequence[str] = (NONLOCAL,)) -> dict[str, Config]:
    """The published rows of segmentation, by name, with the published batch of a device.

    Args:
      methods: names of files with several rows; "nonlocal" for the files with one.

    Raises:
      UserError: there is no such method.
    """
    names = {NONLOCAL: [name for name in files.names() if not files.rows(name)]}
    for method in files.names():
        if several := files.rows(method):
            names[method] = [f"{method}:{row}" for row in several]
    if unknown := set(methods) - set(names):
        raise UserError(
            f"--methods has {', '.join(sorted(unknown))}; it may be some of {', '.join(names)}."
        )
    found = {name: files.load(name) for method in methods for name in names[method]}
    return {
        name: dataclasses.replace(
            config, batch_size=config.batch_size // PUBLISHED_GPUS * jax.device_count()
        )
        for name, config in found.items()
        if isinstance(config, Config) and config.published.url
    }


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
