"""Plans of a config for TPU slices: memory, operations, and a lower bound of the time."""

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
    """The plan of a config for a slice, or several.

    Attributes:
      config: of the run.
      where: the slices.
      layout: of the batch on their devices.
      train: the compiled train step.
      evaluation: the compiled eval step, with its batch size.
      images: of the validation split, or views of its videos; 0 where that is unknown.
      price: of a chip hour, in any currency; 0 where it is not given.
    """

    config: Run
    where: Slice
    layout: Layout
    train: Compiled
    evaluation: tuple[Compiled, int]
    images: int
    price: float = 0.0

    @property
    def bound(self) -> Roofline:
        """The roofline of the train step."""
        return roofline.roofline(self.train, self.where)

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
        return steps * roofline.roofline(compiled, self.where).step / 3600

    @property
    def fits(self) -> bool:
        """Whether both steps fit."""
        room = self.where.chip.device.hbm - RESERVED
        steps = (self.train, self.evaluation[0])
        return all(step.fits and step.needed <= room for step in steps)

    @property
    def chip_hours(self) -> float:
        """Chip hours of training, over all slices."""
        return self.hours * self.where.chips

    @property
    def eval_chip_hours(self) -> float:
        """Chip hours of all evaluations."""
        return self.eval_hours * self.where.chips

    @property
    def cost(self) -> float:
        """The price of both; 0 where that of a chip hour is not given."""
        return (self.chip_hours + self.eval_chip_hours) * self.price


def make(config: Run, where: Slice, cache: pathlib.Path, price: float = 0.0) -> Plan:
    """Compiles a config's steps for a slice, or several.

    Args:
      config: of the run.
      where: the slices.
      cache: folder of what was compiled before.
      price: of a chip hour; 0 where it is unknown.

    Raises:
      UserError: the compiler is missing or does not know the slice, or the mesh does not fit it.
    """
    layout = meshes.choose(config, where.devices, where.slices)
    groups = layout.sizes["data"] * layout.sizes["fsdp"]
    compiled = {}
    for step in compiler.STEPS:
        with working(f"Compiling the {step} step for {where}"):
            compiled[step] = compiler.compile_step(config, where, layout.sizes, step, cache)
    eval_batch = -(-config.eval.batch_size // groups) * groups
    evaluation = compiled["eval"], eval_batch
    images = _validation_images(config)
    return Plan(config, where, layout, compiled["train"], evaluation, images, price)


def report(plan: Plan) -> str:
    """A plan as text."""
    train, where = plan.train, plan.where
    hbm, device = where.chip.device.hbm, _device(where)
    unit = tasks.of(plan.config).unit
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.layout.sizes.items())
    lines = [
        f"{where}: {where.chips} chips, mesh {mesh}, {plan.config.batch_size} {unit} a step",
        f"  settings of launch/: {where.settings}",
        *([f"  {plan.layout.note}"] if plan.layout.note else []),
        f"  memory of {device}: {_memory(train, hbm)}",
        *(f"    {part:<14}{size / GIB:8.3f} GiB" for part, size in train.parts.items()),
    ]
    evaluation, eval_batch = plan.evaluation
    lines += [f"  eval step of {eval_batch} {unit}: {_memory(evaluation, hbm)}"]
    if not (train.fits and evaluation.fits):
        return "\n".join([*lines, "  DOES NOT FIT: take more chips, or accumulate_steps."])
    lines += [
        f"  a step on {device}: {train.flops / 1e12:.3f} TFLOP, {train.traffic / 1e9:.2f} GB of "
        "memory traffic",
        *(
            f"    {c.kind}: {c.count}, {c.bytes / MEGA:.2f} MB, the largest {c.largest / MEGA:.2f}"
            for c in train.collectives
        ),
        *_between_slices(plan),
        f"  roofline (a bound, no measurement): compute {_ms(plan.bound.compute)}, memory "
        f"{_ms(plan.bound.memory)}, network {_ms(plan.bound.network)}"
        + (f", other slices {_ms(plan.bound.between_slices)}" if where.slices > 1 else ""),
        f"    step {_ms(plan.bound.step)}, {_images_per_second(plan):.0f} {unit}/s",
        f"    {plan.config.total_steps} steps: {plan.hours:.2f} h, "
        f"{plan.chip_hours:.1f} chip hours",
    ]
    if plan.eval_hours:
        lines.append(
            f"    evaluations: {plan.eval_hours:.2f} h, {plan.eval_chip_hours:.1f} chip hours"
        )
    if plan.price:
        lines.append(f"    at {plan.price:g} a chip hour: at least {plan.cost:.2f}")
    return "\n".join(lines)


def _between_slices(plan: Plan) -> list[str]:
    """What a step sends from slice to slice; nothing if there is one slice."""
    train, where = plan.train, plan.where
    if where.slices == 1:
        return []
    each = where.devices // where.slices
    sent = roofline.bytes_between_slices(train, where.slices)
    gbps = (where.chip.dcn_bandwidth or 0.0) / chips.GBIT
    return [
        *(
            f"    {t.kind} over slices: {t.count}, {t.bytes * each / MEGA:.2f} MB of a slice, "
            f"{t.bytes / MEGA:.2f} of {_device(where)}"
            for t in train.transfers
        ),
        f"    a slice sends {sent * each / MEGA:.2f} MB to the others, which takes "
        f"{_ms(plan.bound.between_slices)} at {gbps:g} Gbit/s of a chip",
    ]


def _device(where: Slice) -> str:
    """What JAX sees as a device."""
    return "a chip" if where.chip.devices == 1 else "half a chip"


def table(name: str, plans: list[Plan]) -> str:
    """Plans of one config as a Markdown table with a line for each slice.

    Memory, operations, traffic and collectives are those of a device: on tpu7x, of half a chip.
    """
    device = " or ".join(dict.fromkeys(_device(plan.where) for plan in plans))
    lines = [
        f"| config | slice | data x fsdp x spatial | GiB of {device} | TFLOP | GB | collectives MB "
        "| step ms | images/s | hours | chip hours |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for plan in plans:
        train, where = plan.train, plan.where
        mesh = "x".join(str(size) for size in plan.layout.sizes.values())
        hbm = where.chip.device.hbm
        cells = [name, str(where), mesh, f"{train.needed / GIB:.2f} of {hbm // GIB}"]
        if plan.fits:
            moved = sum(c.bytes for c in train.collectives) / MEGA
            cells += [f"{train.flops / 1e12:.3f}", f"{train.traffic / 1e9:.2f}", f"{moved:.1f}"]
            cells += [f"{plan.bound.step * 1e3:.2f}", f"{_images_per_second(plan):.0f}"]
            cells += [f"{plan.hours:.2f}", f"{plan.chip_hours:.1f}"]
        else:
            cells += ["does not fit", *[""] * 6]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def to_json(plan: Plan) -> dict[str, object]:
    """All of a plan's numbers: bytes, operations and seconds."""
    evaluation, eval_batch = plan.evaluation
    return {
        "topology": plan.where.name,
        "slices": plan.where.slices,
        "chips": plan.where.chips,
        "devices": plan.where.devices,
        "settings": plan.where.settings,
        "mesh": plan.layout.sizes,
        "note": plan.layout.note,
        "fits": plan.fits,
        "hbm_bytes": plan.where.chip.device.hbm,
        "dcn_bytes_per_second": plan.where.chip.dcn_bandwidth,
        "bytes_between_slices": roofline.bytes_between_slices(plan.train, plan.where.slices),
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
        "chip_hours": plan.chip_hours,
        "eval_hours": plan.eval_hours,
        "eval_chip_hours": plan.eval_chip_hours,
        "cost": plan.cost or None,
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
