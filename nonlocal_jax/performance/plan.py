"""Plans of a config for a TPU slice: memory, operations, and a lower bound of the time."""

import dataclasses
import pathlib
from typing import NamedTuple

from nonlocal_jax.config.schema import Run
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets import describe
from nonlocal_jax.inputs.video.dataset import describe as describe_videos
from nonlocal_jax.performance import chips, compiler, meshes, roofline
from nonlocal_jax.performance.chips import GIB, Slice
from nonlocal_jax.performance.compiler import Compiled
from nonlocal_jax.performance.meshes import Layout
from nonlocal_jax.performance.roofline import Roofline
from nonlocal_jax.runtime.console import working
from nonlocal_jax.training.tasks import task as tasks

RESERVED = 0.25 * GIB  # of a chip's memory, for the system
MEGA = 1e6


class Plan(NamedTuple):
    """The plan of a config for a slice.

    Attributes:
      config: of the run.
      where: the slice.
      layout: of the batch on its chips.
      train: the compiled train step.
      evaluation: the compiled eval step, with its batch size.
      images: of the validation split, or views of its videos; 0 where that is unknown.
    """

    config: Run
    where: Slice
    layout: Layout
    train: Compiled
    evaluation: tuple[Compiled, int]
    images: int

    @property
    def bound(self) -> Roofline:
        """The roofline of the train step."""
        return roofline.roofline(self.train, self.where.chip)

    @property
    def hours(self) -> float:
        """Hours of training by the roofline."""
        return self.config.total_steps * self.bound.step / 3600

    @property
    def eval_hours(self) -> float:
        """Hours of all evaluations by the roofline; 0 if the size of the data set is unknown."""
        compiled, batch_size = self.evaluation
        runs = -(-self.config.total_steps // self.config.eval_every)
        steps = runs * -(-self.images // batch_size)
        return steps * roofline.roofline(compiled, self.where.chip).step / 3600

    @property
    def fits(self) -> bool:
        """Whether both steps fit."""
        room = self.where.chip.hbm - RESERVED
        steps = (self.train, self.evaluation[0])
        return all(step.fits and step.needed <= room for step in steps)


def make(config: Run, topology: str, cache: pathlib.Path) -> Plan:
    """Compiles a config's steps for a slice.

    Args:
      config: of the run.
      topology: the slice's name.
      cache: folder of what was compiled before.

    Raises:
      UserError: there is no such slice, its compiler is missing, or the mesh does not fit it.
    """
    where = chips.parse(topology)
    layout = meshes.choose(config, where.chips)
    groups = layout.sizes["data"] * layout.sizes["fsdp"]
    compiled = {}
    for step in compiler.STEPS:
        with working(f"Compiling the {step} step for {topology}"):
            compiled[step] = compiler.compile_step(config, where, layout.sizes, step, cache)
    eval_batch = -(-config.eval.batch_size // groups) * groups
    evaluation = compiled["eval"], eval_batch
    return Plan(config, where, layout, compiled["train"], evaluation, _validation_images(config))


def report(plan: Plan) -> str:
    """A plan as text."""
    chip, train, where = plan.where.chip, plan.train, plan.where
    unit = tasks.of(plan.config).unit
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.layout.sizes.items())
    lines = [
        f"{where.name}: {where.chips} chips, mesh {mesh}, {plan.config.batch_size} {unit} a step",
        *([f"  {plan.layout.note}"] if plan.layout.note else []),
        f"  memory of a chip: {_memory(train, chip.hbm)}",
        *(f"    {part:<14}{size / GIB:8.3f} GiB" for part, size in train.parts.items()),
    ]
    evaluation, eval_batch = plan.evaluation
    lines += [f"  eval step of {eval_batch} {unit}: {_memory(evaluation, chip.hbm)}"]
    if not (train.fits and evaluation.fits):
        return "\n".join([*lines, "  DOES NOT FIT: take more chips, or accumulate_steps."])
    lines += [
        f"  a step on a chip: {train.flops / 1e12:.3f} TFLOP, {train.traffic / 1e9:.2f} GB of "
        "memory traffic",
        *(
            f"    {c.kind}: {c.count}, {c.bytes / MEGA:.2f} MB, the largest {c.largest / MEGA:.2f}"
            for c in train.collectives
        ),
        f"  roofline (a bound, no measurement): compute {_ms(plan.bound.compute)}, memory "
        f"{_ms(plan.bound.memory)}, network {_ms(plan.bound.network)}",
        f"    step {_ms(plan.bound.step)}, {_images_per_second(plan):.0f} {unit}/s",
        f"    {plan.config.total_steps} steps: {plan.hours:.2f} h, "
        f"{plan.hours * where.chips:.1f} chip hours",
    ]
    if plan.eval_hours:
        lines.append(
            f"    evaluations: {plan.eval_hours:.2f} h, {plan.eval_hours * where.chips:.1f} chip "
            "hours"
        )
    return "\n".join(lines)


def table(name: str, plans: list[Plan]) -> str:
    """Plans of one config as a Markdown table with a line for each slice."""
    lines = [
        "| config | slice | data x fsdp x spatial | GiB of a chip | TFLOP | GB | collectives MB "
        "| step ms | images/s | hours | chip hours |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for plan in plans:
        train, where = plan.train, plan.where
        mesh = "x".join(str(size) for size in plan.layout.sizes.values())
        cells = [name, where.name, mesh, f"{train.needed / GIB:.2f} of {where.chip.hbm // GIB}"]
        if plan.fits:
            moved = sum(c.bytes for c in train.collectives) / MEGA
            cells += [f"{train.flops / 1e12:.3f}", f"{train.traffic / 1e9:.2f}", f"{moved:.1f}"]
            cells += [f"{plan.bound.step * 1e3:.2f}", f"{_images_per_second(plan):.0f}"]
            cells += [f"{plan.hours:.2f}", f"{plan.hours * where.chips:.1f}"]
        else:
            cells += ["does not fit", *[""] * 6]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def to_json(plan: Plan) -> dict[str, object]:
    """All of a plan's numbers: bytes, operations and seconds."""
    evaluation, eval_batch = plan.evaluation
    return {
        "topology": plan.where.name,
        "chips": plan.where.chips,
        "mesh": plan.layout.sizes,
        "note": plan.layout.note,
        "fits": plan.fits,
        "hbm_bytes": plan.where.chip.hbm,
        "batch_size": plan.config.batch_size,
        "total_steps": plan.config.total_steps,
        "train": dataclasses.asdict(plan.train),
        "eval": {**dataclasses.asdict(evaluation), "batch_size": eval_batch},
        "roofline_seconds": {
            **dataclasses.asdict(plan.bound),
            "step": plan.bound.step,
            "bound": plan.bound.bound,
        },
        "images_per_second": _images_per_second(plan),
        "hours": plan.hours,
        "chip_hours": plan.hours * plan.where.chips,
        "eval_hours": plan.eval_hours,
    }


def _images_per_second(plan: Plan) -> float:
    return plan.config.batch_size / plan.bound.step if plan.train.fits else 0.0


def _memory(compiled: Compiled, hbm: int) -> str:
    verdict = "fits" if compiled.fits and compiled.needed <= hbm - RESERVED else "DOES NOT FIT"
    return f"{compiled.needed / GIB:.2f} of {hbm / GIB:.0f} GiB, {verdict}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _validation_images(config: Run) -> int:
    """The published number; 0 for other data sets, which may not be on this machine."""
    try:
        if isinstance(config, VideoConfig):
            counts = describe_videos(config.data, config.data_dir).counts
            return counts.get("val", 0) * config.eval.training_clips
        return describe(config.data, config.data_dir).counts.get("val", 0)
    except UserError:
        return 0
