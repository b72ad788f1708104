"""The training loop, from the first batch to the last checkpoint."""

import contextlib
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh

from nonlocal_jax.checkpoints import folder, run
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.run import RunCheckpoints
from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Config, Run
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import console, distributed, environment, lock, sharding, startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.preemption import Preempted, Preemption
from nonlocal_jax.runtime.silence import Silence
from nonlocal_jax.training import starting_weights, workdir
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.goodput import Goodput
from nonlocal_jax.training.optimizers.optimizer import remarks
from nonlocal_jax.training.precise_norm import PreciseNorm
from nonlocal_jax.training.run_log import RunLog
from nonlocal_jax.training.step import Metrics, TrainState
from nonlocal_jax.training.step_metrics import StepMetrics
from nonlocal_jax.training.tasks import task as tasks
from nonlocal_jax.training.tasks.task import Evaluation, Inputs, Scores, Task
from nonlocal_jax.training.writers import writer as writers
from nonlocal_jax.training.writers.writer import Place, Writer

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
        batches_after = functools.partial(_batches, config, task.inputs, mesh)
        batches = batches_after(start.step)
        with goodput.inside("compiling"):
            train_step = _compile(program)
        with_precise_norm = PreciseNorm(program, batches_after, config.precise_norm_batches)
        recent = StepMetrics(config.skip_nonfinite_steps, task.inputs.describe_batch, start.recent)
        learning_rate = program.optimizer.schedule
        rate = console.Rate(config.total_steps, config.batch_size)
        silence = stack.enter_context(contextlib.closing(Silence()))
        aside = functools.partial(_aside, rate, silence, goodput)
        save = functools.partial(_save, config, task, recent, saved, goodput)
        kept = functools.partial(_kept, save, saved)
        evaluate = functools.partial(_evaluate, evaluation, saved, log, preemption, aside)
        scores = None
        if start.step and _is_due(config, start.step) and not start.evaluated:
            scores = evaluate(start.step, state)
            if scores is None:
                _leave(saved, goodput, start.step, preemption.exit_code)
        rate.restart(start.step)
        goodput.begin(start.step)
        say(f"Training from step {start.step} to {config.total_steps}.")
        preemption.begin()
        for step in range(start.step + 1, config.total_steps + 1):
            # The device computes the last step while the host prepares the next batch.
            with silence.pause(), kept(step - 1, state):
                batch = sharding.put_batch(next(batches), mesh)
            goodput.got_batch()
            state, metrics = train_step(state, batch)
            goodput.started(step, metrics["loss"])
            recent.add(step, metrics)
            saved.check()
            if step % config.log_every == 0 or step == config.total_steps:
                scalars = recent.means() | {"learning_rate": float(learning_rate(step - 1))}
                with kept(step, state):
                    _log(config, task, log, rate, goodput, step, scalars)
            due, told_to_stop = _is_due(config, step), preemption.told()
            planned = due or step % config.checkpoint_every == 0
            if planned:
                with aside("evaluating"):
                    state = with_precise_norm(step, state)
            if planned or told_to_stop:
                # Save before evaluating, which may fail.
                save(step, state)
            if due and not told_to_stop:
                scores = evaluate(step, state)
                told_to_stop = scores is None
            if told_to_stop:
                _leave(saved, goodput, step, preemption.exit_code)
        if start.step < config.total_steps:
            _conclude(saved, goodput, config.total_steps)
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
    evaluated = step < config.total_steps and run.is_scored(newest)
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


def _evaluate(
    evaluation: Evaluation,
    saved: RunCheckpoints,
    log: RunLog,
    preemption: Preemption,
    aside: Callable[[str], contextlib.AbstractContextManager[None]],
    step: int,
    state: TrainState,
) -> Scores | None:
    """Evaluates a saved step, and stores and logs its scores.

    Returns None if the process is told to stop meanwhile. The resumed run evaluates again.
    """
    with aside("evaluating"):
        try:
            scores = evaluation.run(state.evaluated, between_batches=preemption.give_up_if_told)
        except Preempted:
            return None
        # The score comes last: without it, a run that is killed here evaluates again.
        log.keep(step, scores.record())
        log.write(step, {**scores.to_dict(), **scores.by_class()})
        saved.score(step, scores.best_by, scores.best_metric)
    say(f"Step {step}:\n{scores.table()}")
    return scores


def _open_log(config: Run, directory: pathlib.Path, start: Start) -> RunLog:
    """The log of the run, with what else gets its entries, in the first process only."""
    place = Place(directory, files.flatten(files.to_tree(config)), start.step)
    made: list[Writer] = []
    distributed.by_first(lambda: made.extend(writers.build(config.log_to, place)))
    return RunLog(directory, start.step, evaluated=start.evaluated, writers=made)


def _batches(config: Run, inputs: Inputs, mesh: Mesh, step: int) -> Iterator[Any]:
    """The training batches after a step, this process's rows of each."""
    rows = sharding.local_rows(mesh, config.batch_size)
    return inputs.train_batches(start_step=step, rows=rows)


def _goodput(directory: pathlib.Path, unfinished: bool) -> contextlib.closing[Goodput]:
    """The time of the run. What a finished run does when it is started again is no part of it."""
    return contextlib.closing(Goodput(directory if unfinished else None))


@contextlib.contextmanager
def _aside(rate: console.Rate, silence: Silence, goodput: Goodput, what: str) -> Iterator[None]:
    """The time inside is that of a bucket of goodput, and none of the steps' rate."""
    with rate.pause(), silence.pause(), goodput.inside(what):
        yield


def _conclude(saved: RunCheckpoints, goodput: Goodput, step: int) -> None:
    """Waits until everything is saved, and says what the time was spent on."""
    with goodput.inside("saving"):
        saved.wait()
    goodput.note(step)
    say(goodput.table())


def _save(
    config: Run,
    task: Task,
    recent: StepMetrics,
    saved: RunCheckpoints,
    goodput: Goodput,
    step: int,
    state: TrainState,
) -> None:
    metadata = Metadata(kind="training", config=config, meta=task.meta(), recent=recent.state())
    with goodput.inside("saving"):
        saved.save(step, state.variables, state.optimizer, metadata, state.average)
    goodput.note(step)


@contextlib.contextmanager
def _kept(
    save: Callable[[int, TrainState], None], saved: RunCheckpoints, step: int, state: TrainState
) -> Iterator[None]:
    """Saves a finished step if what is inside fails: the input, or the log.

    Of several processes, the others wait in the next step then, and can't save this one.
    """
    try:
        yield
    except UserError:
        if jax.process_count() == 1 and step > saved.newest:
            with contextlib.suppress(UserError):  # on a full disk, say; the first error is told
                save(step, state)
                saved.wait()
                say(f"Saved step {step}, after which the run fails.")
        raise


def _leave(saved: RunCheckpoints, goodput: Goodput, step: int, code: int) -> NoReturn:
    _conclude(saved, goodput, step)
    say(f"Told to stop: saved step {step}. The same command resumes from there.")
    sys.exit(code)


def _is_due(config: Run, step: int) -> bool:
    """Whether a step is followed by an evaluation."""
    return step % config.eval_every == 0 or step == config.total_steps


def _log(
    config: Run,
    task: Task,
    log: RunLog,
    rate: console.Rate,
    goodput: Goodput,
    step: int,
    scalars: dict[str, float],
) -> None:
    """Adds the speed to the scalars of a step, and writes and says them."""
    scalars[f"{task.unit}_per_second"], eta = rate.read(step)
    scalars["goodput"] = goodput.note(step)
    _say_progress(step, config.total_steps, scalars, task.unit, eta)
    log.write(step, scalars)


def _say_progress(step: int, total: int, scalars: dict[str, float], unit: str, eta: str) -> None:
    formats = {"loss": ".4f", "accuracy": ".3f"}  # unless no pixel had a label, or all were skipped
    told = [f"{name} {scalars[name]:{form}}  " for name, form in formats.items() if name in scalars]
    rate = scalars[f"{unit}_per_second"]
    say(
        f"step {step}/{total}  {''.join(told)}"
        f"lr {scalars['learning_rate']:.2e}  {rate:.1f} {unit}/s  ETA {eta}  "
        f"goodput {scalars['goodput']:.0%}"
    )
