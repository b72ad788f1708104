"""Training: the one loop, from the first batch to the last checkpoint."""

import contextlib
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from nonlocal_jax import initialize, programs, run_log, sharding, workdir
from nonlocal_jax.checkpoints import TrainingCheckpoints
from nonlocal_jax.distributed import EXIT_PREEMPTED
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluate import evaluate
from nonlocal_jax.inputs import loader
from nonlocal_jax.metrics import Scores
from nonlocal_jax.models.build import Network
from nonlocal_jax.preemption import Preemption
from nonlocal_jax.run_log import say
from nonlocal_jax.train_step import Metrics, TrainState, initial_state

STEPS_IN_FLIGHT = 2  # how far the host may run ahead of the device


def train(config: ConfigDict, directory: pathlib.Path) -> Scores:
    """Trains `config` in the folder `directory`, or goes on with what is there.

    Returns the scores of the last evaluation.

    Raises:
      UserError: something is missing, does not fit, or belongs to another run.
      SystemExit: with EXIT_PREEMPTED, once everything is saved, after a SIGTERM.
    """
    check(config)
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch_size(
        mesh,
        config.batch_size // config.accumulate_steps,
        "config.batch_size / config.accumulate_steps",
    )
    if jax.process_index() == 0:
        workdir.claim(directory, config, run_log.environment())
    network = programs.network_on(config, mesh)
    schedule, optimizer = programs.learning_rate_schedule(config), programs.make_optimizer(config)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            TrainingCheckpoints(directory / "checkpoints", keep=config.keep_checkpoints)
        )
        state = _first_state(config, network, optimizer, checkpoints, mesh)
        start = int(state.step)
        log = stack.enter_context(run_log.RunLog(directory, start))
        batches = loader.train_batches(
            config,
            start_step=start,
            rows=sharding.local_rows(mesh, config.batch_size),
        )
        train_step = _compile_step(config, network, optimizer, mesh)
        metadata = _metadata(config)
        preemption = Preemption()
        rate = run_log.Rate(config.total_steps, config.batch_size)
        rate.restart(start)
        pending: list[Metrics] = []
        scores = None
        say(f"Training from step {start} to {config.total_steps}.")

        for step in range(start + 1, config.total_steps + 1):
            # The device works on the last step while the host brings the next batch.
            batch = sharding.put_batch(next(batches), mesh)
            state, metrics = train_step(state, batch)
            pending.append(metrics)
            jax.block_until_ready(pending[-STEPS_IN_FLIGHT:][0])

            last = step == config.total_steps
            if step % config.log_every == 0 or last:
                scalars = _summarize(pending, step)
                scalars["learning_rate"] = float(schedule(step - 1))
                scalars["images_per_second"], eta = rate.read(step)
                _say_progress(step, config.total_steps, scalars, eta)
                log.write(step, scalars)
                pending = []
            miou = None
            if step % config.eval_every == 0 or last:
                with rate.pause():
                    scores = evaluate(network, state.variables, config, mesh=mesh)
                miou = scores.miou
                say(f"Step {step}:\n{scores.table()}")
                log.write(step, scores.to_dict())
            told_to_stop = preemption.reached(step)
            if miou is not None or told_to_stop or step % config.checkpoint_every == 0:
                if pending:  # a step that was not finite is never saved unseen
                    _summarize(pending, step)
                checkpoints.save(step, state.variables, state.optimizer, metadata, miou=miou)
            if told_to_stop and not last:
                say(f"Told to stop: saved step {step}. The same command goes on from there.")
                sys.exit(EXIT_PREEMPTED)

        if scores is None:  # the run had finished before
            scores = evaluate(network, state.variables, config, mesh=mesh)
    return scores


def check(config: ConfigDict) -> None:
    """Raises one UserError with everything that keeps `config` from running, and the remedies.

    Data and initial weights are looked for before anything is compiled.
    """
    problems = []
    for is_there in (loader.check, initialize.check):
        try:
            is_there(config)
        except UserError as error:
            problems.append(str(error))
    if config.batch_size % max(config.accumulate_steps, 1) or config.accumulate_steps < 1:
        problems.append(
            f"config.accumulate_steps is {config.accumulate_steps}; it must divide "
            f"config.batch_size, {config.batch_size}."
        )
    for key in ("total_steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints"):
        if config[key] < 1:
            problems.append(f"config.{key} is {config[key]}; it must be at least 1.")
    for key in ("scale_from_batch_size", "warmup_steps"):
        if config.optimizer[key] < 0:
            problems.append(f"config.optimizer.{key} is {config.optimizer[key]}; 0 is none.")
    if problems:
        raise UserError("\n\n".join(problems))


def _metadata(config: ConfigDict) -> dict[str, object]:
    """What a checkpoint says of itself; `meta` is what an exported PyTorch file will hold."""
    dataset = loader.dataset(config)
    meta = {"CLASSES": list(dataset.class_names), "PALETTE": dataset.palette.tolist()}
    return {"kind": "training", "model": config.model.to_dict(), "meta": meta}


def _first_state(
    config: ConfigDict,
    network: Network,
    optimizer: optax.GradientTransformation,
    checkpoints: TrainingCheckpoints,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """The state of the newest checkpoint, or the one at step 0."""
    abstract = programs.abstract_state(network, optimizer, mesh)
    restored = checkpoints.restore(abstract.variables, abstract.optimizer)
    if restored is None:
        variables = initialize.initial_variables(config, network)
        variables = sharding.place_variables(jax.device_get(variables), mesh)
        start = jax.jit(
            lambda variables: initial_state(network, variables, optimizer),
            out_shardings=sharding.variable_shardings(mesh, abstract),
        )
        return start(variables)
    step, saved, optimizer_state = restored
    say(f"Going on from step {step} of {checkpoints.directory}.")
    return abstract._replace(
        step=jax.device_put(np.int32(step), sharding.replicated(mesh)),
        parameters={name: saved[name] for name in abstract.parameters},
        statistics={name: saved[name] for name in abstract.statistics},
        optimizer=optimizer_state,
    )


def _compile_step(
    config: ConfigDict,
    network: Network,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> Callable[[TrainState, sharding.Batch], tuple[TrainState, Metrics]]:
    device = jax.devices()[0].device_kind
    with run_log.working(f"Compiling the train step for {jax.device_count()} x {device}"):
        return programs.lower_train_step(config, network, optimizer, mesh).compile()


def _summarize(metrics: list[Metrics], step: int) -> dict[str, float]:
    """Means over the last steps, of which `step` is the newest.

    Raises:
      UserError: a step's loss or gradients were not finite.
    """
    fetched = jax.device_get(metrics)
    for offset, values in enumerate(reversed(fetched)):
        if not values["finite"]:
            raise UserError(
                f"The loss or a gradient of step {step - offset} is not finite. The last "
                "checkpoint is from before it; a lower config.optimizer.learning_rate may help."
            )
    names = (name for name in fetched[0] if name != "finite")
    return {name: float(np.mean([values[name] for values in fetched])) for name in names}


def _say_progress(step: int, total: int, scalars: dict[str, float], eta: str) -> None:
    say(
        f"step {step}/{total}  loss {scalars['loss']:.4f}  accuracy {scalars['accuracy']:.3f}  "
        f"lr {scalars['learning_rate']:.2e}  {scalars['images_per_second']:.1f} images/s  ETA {eta}"
    )
