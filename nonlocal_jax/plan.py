"""Plans a config for a TPU slice, on a machine without a TPU:

    python -m nonlocal_jax.plan --config=configs/ade20k_r101_160k.py --topology=v5e:4x4

compiles the train and the eval step for the slice with the TPU's own compiler, and prints memory,
operations, traffic and a lower bound of the time. --topology may be repeated. --slices=4 plans for
four such slices, with what they send to each other. --price=1.20 adds the cost at that price of a
chip hour.
"""

import sys
from collections.abc import Sequence

import jax
from absl import flags

from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.errors import UserError
from nonlocal_jax.performance import chips, meshes, plan
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import cache_folder, check_file, write_json


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_multi_string(
        "topology",
        [],
        "A slice such as v5e:4x4, v4:2x2x1, v6e:16x16 or tpu7x:2x2x1; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_multi_integer(
        "slices",
        [1],
        "Number of such slices; may be repeated.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "dcn_gbps",
        None,
        "Gbit/s of a chip to other slices, instead of the published figure.",
        lower_bound=1e-3,
        flag_values=values,
    )
    flags.DEFINE_float(
        "price", 0.0, "Price of a chip hour, for the cost.", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_string("json", None, "A file for the plan's numbers.", flag_values=values)


def main(options: Options) -> None:
    """Plans `--config` for each `--topology`."""
    jax.config.update("jax_platforms", "cpu")  # only child processes load the TPU's library
    if not options.flags.topology:
        raise UserError("--topology is missing: name a slice, such as --topology=v5e:4x4.")
    wanted = [
        chips.parse(topology, slices, options.flags.dcn_gbps)
        for topology in options.flags.topology
        for slices in options.flags.slices
    ]
    for where in wanted:  # errors come before anything is compiled
        meshes.choose(options.config, where.devices, where.slices)
    if options.flags.json:
        check_file(options.flags.json)
    plans = []
    for where in wanted:
        plans.append(
            plan.make(options.config, where, cache_folder() / "plans", options.flags.price)
        )
        say(plan.report(plans[-1]))
    say(plan.table(options.config_name, plans))
    if options.flags.json:
        numbers = {"config": options.config_name, "plans": [plan.to_json(p) for p in plans]}
        write_json(options.flags.json, numbers)


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="required", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
