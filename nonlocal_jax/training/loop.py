"""Training: the one loop, from the first batch to the last checkpoint."""

import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from nonlocal_jax.checkpoints import training
from nonlocal_jax.checkpoints.training import TrainingCheckpoints
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluate import evaluate
from nonlocal_jax.evaluation.metrics import Scores
from nonlocal_jax.inputs import loader
from nonlocal_jax.models.network import Network
from nonlocal_jax.runtime import distributed, sharding
from nonlocal_jax.runtime.preemption import EXIT_PREEMPTED, Preempted, Preemption
from nonlocal_jax.training import compiled_step, run_log, starting_weights, workdir
from nonlocal_jax.training.run_log import say
from nonlocal_jax.training.step import Metrics, TrainState, initial_state
from nonlocal_jax.training.step_metrics import StepMetrics

CHECKPOINTS = "checkpoints"
LEAST = {
    **dict.fromkeys(("total_steps", "log_every", "eval_every", "checkpoint_every"), 1),
    **{"keep_checkpoints": 1, "skip_nonfinite_steps": 0},
}


def train(
    config: ConfigDict, directory: pathlib.Path, preemption: Preemption | None = None
) -> Scores:
    """Trains `config` in the folder `directory`, or goes on with what is there.

    Args:
      config: of the run.
      directory: its checkpoints and logs; all processes see the same one.
      preemption: tells when to stop; by default it listens from now on.

    Returns the scores of the last evaluation.

    Raises:
      UserError: something is missing, does not fit, or belongs to another run.
      SystemExit: with EXIT_PREEMPTED, once everything is saved, after a SIGTERM.
    """
    preemption = preemption or Preemption()
    check(config)
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch_size(
        mesh,
        config.batch_size // config.accumulate_steps,
        "config.batch_size / config.accumulate_steps",
    )
    start, evaluated, logged = distributed.by_first(functools.partial(_claim, config, directory))
    network = compiled_step.network_on(config, mesh)
    schedule, optimizer = (
        compiled_step.learning_rate_schedule(config),
        compiled_step.make_optimizer(config),
    )
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(
            TrainingCheckpoints(directory / CHECKPOINTS, keep=config.keep_checkpoints)
        )
        state = _first_state(config, network, optimizer, saved, start, mesh)
        log = stack.enter_context(run_log.RunLog(directory, start, evaluated=evaluated))
        batches = loader.train_batches(
            config,
            start_step=start,
            rows=sharding.local_rows(mesh, config.batch_size),
        )
        train_step = _compile_step(config, network, optimizer, mesh)
        evaluation = functools.partial(_evaluate, config, network, mesh, log, preemption)
        metadata = _metadata(config)
        describe = functools.partial(loader.describe_batch, config)
        recent = StepMetrics(config.skip_nonfinite_steps, describe, logged)
        rate = run_log.Rate(config.total_steps, config.batch_size)
        scores = None
        if start and _is_due(config, start) and not evaluated:
            scores = evaluation(start, state)
            if scores is None:
                _leave(saved, start)
            saved.score(start, scores.miou)
        rate.restart(start)
        say(f"Training from step {start} to {config.total_steps}.")

        preemption.begin()
        for step in range(start + 1, config.total_steps + 1):
            # The device works on the last step while the host brings the next batch.
            batch = sharding.put_batch(next(batches), mesh)
            state, metrics = train_step(state, batch)
            recent.add(step, metrics)
            saved.check()

            last = step == config.total_steps
            if step % config.log_every == 0 or last:
                scalars = recent.means()
                scalars["learning_rate"] = float(schedule(step - 1))
                scalars["images_per_second"], eta = rate.read(step)
                _say_progress(step, config.total_steps, scalars, eta)
                log.write(step, scalars)
            miou = None
            if _is_due(config, step):
                with rate.pause():
                    scores = evaluation(step, state)
                miou = scores.miou if scores else None
            told_to_stop = preemption.told()
            if _is_due(config, step) or told_to_stop or step % config.checkpoint_every == 0:
                # A step that was not finite is never saved unseen.
                about = {**metadata, "recent": recent.state()}
                saved.save(step, state.variables, state.optimizer, about, miou=miou)
            if told_to_stop and (not last or scores is None):
                _leave(saved, step)
    assert scores is not None  # the last step is evaluated
    return scores


def _claim(config: ConfigDict, directory: pathlib.Path) -> tuple[int, bool, dict[str, Any] | None]:
    """Makes the folder this run's; to be called by one process alone.

    Returns:
      The step to go on from, whether its evaluation has been made, and what its log lacks.

    Raises:
      UserError: the folder is another config's, is damaged, or can't be written.
    """
    workdir.claim(directory, config, run_log.environment())
    step = training.prepare(directory / CHECKPOINTS)
    if step is None:
        return 0, False, None
    folder = directory / CHECKPOINTS / str(step)
    metadata = training.read_metadata(folder)
    workdir.check_checkpoint(folder, metadata, config)
    # A run that has finished is evaluated once more, to tell its scores.
    evaluated = step < config.total_steps and training.is_scored(folder)
    return step, evaluated, metadata.get("recent")


def check(config: ConfigDict) -> None:
    """Raises one UserError with everything that keeps `config` from running, and the remedies.

    Data and initial weights are looked for before anything is compiled.
    """
    problems = []
    for is_there in (loader.check, starting_weights.check):
        try:
            is_there(config)
        except UserError as error:
            problems.append(str(error))
    if config.batch_size % max(config.accumulate_steps, 1) or config.accumulate_steps < 1:
        problems.append(
            f"config.accumulate_steps is {config.accumulate_steps}; it must divide "
            f"config.batch_size, {config.batch_size}."
        )
    for key, least in LEAST.items():
        if config[key] < least:
            problems.append(f"config.{key} is {config[key]}; it must be at least {least}.")
    for key in ("scale_from_batch_size", "warmup_steps"):
        if config.optimizer[key] < 0:
            problems.append(f"config.optimizer.{key} is {config.optimizer[key]}; 0 is none.")
    if problems:
        raise UserError("\n\n".join(problems))


def _metadata(config: ConfigDict) -> dict[str, object]:
    """What a checkpoint says of itself; `meta` is what an exported PyTorch file will hold."""
    dataset = loader.dataset(config)
    meta = {"CLASSES": list(dataset.class_names), "PALETTE": dataset.palette.tolist()}
    return {
        "kind": "training",
        "config": json.loads(config.to_json_best_effort()),
        "model": config.model.to_dict(),
        "meta": meta,
    }


def _first_state(
    config: ConfigDict,
    network: Network,
    optimizer: optax.GradientTransformation,
    saved: TrainingCheckpoints,
    start: int,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """The state of the checkpoint of step `start`, or the one at step 0."""
    abstract = compiled_step.abstract_state(network, optimizer, mesh)
    if start == 0:
        variables = starting_weights.initial_variables(config, network)
        variables = sharding.place_variables(jax.device_get(variables), mesh)
        first = jax.jit(
            lambda variables: initial_state(network, variables, optimizer),
            out_shardings=sharding.variable_shardings(mesh, abstract),
        )
        return first(variables)
    restored, optimizer_state = saved.restore(start, abstract.variables, abstract.optimizer)
    say(f"Going on from step {start} of {saved.directory}.")
    return abstract._replace(
        step=jax.device_put(np.int32(start), sharding.replicated(mesh)),
        parameters={name: restored[name] for name in abstract.parameters},
        statistics={name: restored[name] for name in abstract.statistics},
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
        return compiled_step.compile_train_step(config, network, optimizer, mesh)


def _evaluate(
    config: ConfigDict,
    network: Network,
    mesh: jax.sharding.Mesh,
    log: run_log.RunLog,
    preemption: Preemption,
    step: int,
    state: TrainState,
) -> Scores | None:
    """The scores of a step, which are logged; None if the process is told to stop meanwhile.

    The evaluation that is given up is made again by the run that goes on.
    """
    try:
        scores = evaluate(
            network,
            state.variables,
            config,
            mesh=mesh,
            between_batches=preemption.give_up_if_told,
        )
    except Preempted:
        return None
    say(f"Step {step}:\n{scores.table()}")
    log.write(step, scores.to_dict())
    return scores


def _leave(saved: TrainingCheckpoints, step: int) -> NoReturn:
    saved.wait()
    say(f"Told to stop: saved step {step}. The same command goes on from there.")
    sys.exit(EXIT_PREEMPTED)


def _is_due(config: ConfigDict, step: int) -> bool:
    """Whether a step is followed by an evaluation."""
    return step % config.eval_every == 0 or step == config.total_steps


def _say_progress(step: int, total: int, scalars: dict[str, float], eta: str) -> None:
    say(
        f"step {step}/{total}  loss {scalars['loss']:.4f}  accuracy {scalars['accuracy']:.3f}  "
        f"lr {scalars['learning_rate']:.2e}  {scalars['images_per_second']:.1f} images/s  ETA {eta}"
    )
