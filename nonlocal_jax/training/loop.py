"""The training loop, from the first batch to the last checkpoint."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh

from nonlocal_jax.checkpoints import folder, run
from nonlocal_jax.checkpoints.run import RunCheckpoints
from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Config, Run
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import console, distributed, environment, lock, sharding, startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.preemption import Preemption
from nonlocal_jax.runtime.silence import Silence
from nonlocal_jax.training import starting_weights, workdir
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.goodput import Goodput
from nonlocal_jax.training.optimizers.optimizer import remarks
from nonlocal_jax.training.precise_norm import PreciseNorm
from nonlocal_jax.training.run_log import RunLog
from nonlocal_jax.training.running import Running
from nonlocal_jax.training.step import Metrics, TrainState
from nonlocal_jax.training.step_metrics import StepMetrics
from nonlocal_jax.training.tasks import task as tasks
from nonlocal_jax.training.tasks.task import Inputs, Scores
from nonlocal_jax.training.writers import writer as writers
from nonlocal_jax.training.writers.writer import Place

CHECKPOINTS = "checkpoints"


class Start(NamedTuple):
    """Where a run starts or resumes.

    Attributes:
      step: the last finished step; 0 for a new run.
      evaluated: whether the scores of that step are known.
      recent: metrics that are not in the log yet.
    """

    step: int
    evaluated: bool
    recent: Mapping[str, Any] | None


def train(config: Run, directory: pathlib.Path, preemption: Preemption | None = None) -> Scores:
    """Trains `config` in the folder `directory`, or resumes the run that is there.

    Args:
      config: the config of the run.
      directory: the folder for its checkpoints and log. All processes see the same one.
      preemption: says when to stop; by default it listens for signals from now on.

    Returns the scores of the last evaluation.

    Raises:
      UserError: something is missing or does not match, or the folder belongs to another run.
      SystemExit: once everything is saved, with 75 after a SIGTERM, with 130 after Ctrl-C.
    """
    preemption = preemption or Preemption()
    task, mesh = tasks.of(config), sharding.make_mesh(config.mesh)
    check(config, task.inputs, mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(preemption.leave_with_others())
        distributed.by_first(lambda: stack.enter_context(lock.held(directory)))
        start = Start(*distributed.by_first(functools.partial(_claim, config, directory)))
        goodput = stack.enter_context(_goodput(directory, start.step < config.total_steps))
        program = TrainProgram.of(config, mesh)
        evaluation = task.evaluation(program.network, mesh)
        checkpoints = RunCheckpoints(directory / CHECKPOINTS, keep=config.keep_checkpoints)
        saved = stack.enter_context(checkpoints)
        state = _first_state(config, task.inputs, program, saved, start.step)
        log = stack.enter_context(_open_log(config, directory, start))
        batches = functools.partial(_batches, config, task.inputs, mesh)
        running = Running(
            config=config,
            task=task,
            evaluation=evaluation,
            learning_rate=program.optimizer.schedule,
            preemption=preemption,
            saved=saved,
            log=log,
            recent=StepMetrics(
                config.skip_nonfinite_steps, task.inputs.describe_batch, start.recent
            ),
            goodput=goodput,
            rate=console.Rate(config.total_steps, config.batch_size),
            silence=stack.enter_context(contextlib.closing(Silence())),
        )
        return _steps(running, program, batches, start, state)


def _steps(
    running: Running,
    program: TrainProgram,
    batches_after: Callable[[int], Iterator[Any]],
    start: Start,
    state: TrainState,
) -> Scores:
    """The steps of a run from the one after `start` on. Returns the scores of the last one."""
    config, goodput = running.config, running.goodput
    batches = batches_after(start.step)
    with goodput.inside("compiling"):
        train_step = _compile(program)
        running.saved.rehearse(state.variables, state.optimizer, state.average)
    with_precise_norm = PreciseNorm(program, batches_after, config.precise_norm_batches)
    scores = None
    if start.step and running.is_due(start.step) and not start.evaluated:
        scores = running.evaluate(start.step, state)
        if scores is None:
            running.leave(start.step)
    running.begin(start.step)
    for step in range(start.step + 1, config.total_steps + 1):
        # The device computes the last step while the host prepares the next batch.
        with running.silence.pause(), running.kept(step - 1, state):
            batch = sharding.put_batch(next(batches), program.mesh)
        goodput.got_batch()
        state, metrics = train_step(state, batch)
        goodput.started(step, metrics["loss"])
        running.recent.add(step, metrics)
        running.saved.check()
        if step % config.log_every == 0 or step == config.total_steps:
            running.write(step, state)
        due, told_to_stop = running.is_due(step), running.preemption.told()
        planned = due or step % config.checkpoint_every == 0
        if planned:
            with running.aside("evaluating"):
                state = with_precise_norm(step, state)
        if planned or told_to_stop:
            # Save before evaluating, which may fail.
            running.save(step, state)
        if due and not told_to_stop:
            scores = running.evaluate(step, state)
            told_to_stop = scores is None
        if told_to_stop:
            running.leave(step)
    if start.step < config.total_steps:
        running.conclude(config.total_steps)
    assert scores is not None  # the last step is always evaluated
    return scores


def check(config: Run, inputs: Inputs, mesh: Mesh) -> None:
    """Checks the data, weights, log writers and batch size before anything is compiled.

    Raises:
      UserError: with everything that is missing, and how to get it.
    """
    problems = []
    for is_there in (
        functools.partial(_check_kernel, config),
        inputs.check,
        functools.partial(starting_weights.check, config.init_from),
        functools.partial(writers.check, config.log_to),
    ):
        try:
            is_there()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n\n".join(problems))
    sharding.check_batch_size(
        mesh,
        config.batch_size // config.accumulate_steps,
        "config.batch_size / config.accumulate_steps",
    )


def _check_kernel(config: Run) -> None:
    if isinstance(config, Config):
        startup.check_kernel(config.model)


def _claim(config: Run, directory: pathlib.Path) -> Start:
    """Makes the folder this run's. One process calls this.

    Raises:
      UserError: the folder is another config's, is damaged, or can't be written.
    """
    workdir.claim(directory, config, environment.describe())
    step = run.prepare(directory / CHECKPOINTS)
    if step is None:
        return Start(0, False, None)
    newest = directory / CHECKPOINTS / str(step)
    metadata = folder.read_metadata(newest)
    workdir.check_checkpoint(newest, metadata, config)
    # A finished run is evaluated once more, to print its scores.
    evaluated = step < config.total_steps and folder.is_scored(newest)
    return Start(step, evaluated, metadata.recent)


def _first_state(
    config: Run, inputs: Inputs, program: TrainProgram, saved: RunCheckpoints, start: int
) -> TrainState:
    """The state of the checkpoint of step `start`, or the one at step 0."""
    if start == 0:
        names = inputs.dataset.class_names
        variables = starting_weights.initial_variables(config, program.network, names)
        count = parameter_overview.count_parameters(variables)
        say(f"The network has {count / 1e6:.2f} million parameters and statistics.")
        for remark in remarks(config.optimizer, config.total_steps):
            say(remark)
        return program.first_state(variables)
    abstract = program.abstract_state()
    restored, optimizer_state = saved.restore(start, abstract.variables, abstract.optimizer)
    average = saved.restore_average(start, abstract.average) if abstract.average else {}
    say(f"Going on from step {start} of {saved.directory}.")
    return abstract._replace(
        step=jax.device_put(np.int32(start), sharding.replicated(program.mesh)),
        parameters={name: restored[name] for name in abstract.parameters},
        statistics={name: restored[name] for name in abstract.statistics},
        optimizer=optimizer_state,
        average=average,
    )


def _compile(
    program: TrainProgram,
) -> Callable[[TrainState, sharding.Batch], tuple[TrainState, Metrics]]:
    device = jax.devices()[0].device_kind
    with console.working(f"Compiling the train step for {jax.device_count()} x {device}"):
        return program.compile()


@contextlib.contextmanager
def _open_log(config: Run, directory: pathlib.Path, start: Start) -> Iterator[RunLog]:
    """The log of the run, with what else gets its entries, in the first process only."""
    with RunLog(directory, start.step, evaluated=start.evaluated) as log:
        place = Place(directory, files.flatten(files.to_tree(config)), start.step)
        # Last, so that whatever fails before begins no run on a server.
        distributed.by_first(lambda: log.writers.extend(writers.build(config.log_to, place)))
        yield log


def _batches(config: Run, inputs: Inputs, mesh: Mesh, step: int) -> Iterator[Any]:
    """The training batches after a step, this process's rows of each."""
    rows = sharding.local_rows(mesh, config.batch_size)
    return inputs.train_batches(start_step=step, rows=rows)


def _goodput(directory: pathlib.Path, unfinished: bool) -> contextlib.closing[Goodput]:
    """Counts the time of an unfinished run. A finished one that is started again is not counted."""
    return contextlib.closing(Goodput(directory if unfinished else None))
