"""A run trains and evaluates while its checkpoints are written."""

import threading

from runs import log_lines, make_data, tiny

from nonlocal_jax.checkpoints import folder, manager
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.models.backbones import resnet
from nonlocal_jax.training import loop, run_log

PATIENCE = 60.0  # seconds after which a save fails instead of hanging


def test_neither_steps_nor_an_evaluation_wait_for_a_checkpoint(tmp_path, monkeypatch):
    """Step 2 is written once the batch of step 4 is taken, step 6 once it is evaluated."""
    monkeypatch.setitem(resnet.BLOCKS_PER_STAGE, 18, (1, 1, 1, 1))
    begins = {step: threading.Event() for step in (2, 4, 6)}
    begins[4].set()
    save, batches, keep = manager.Manager.save, Inputs.train_batches, run_log.RunLog.keep

    def slow_save(self, step, **options):
        if not begins[step].wait(PATIENCE):
            raise OSError("the run waits for this save")
        return save(self, step, **options)

    def watched_batches(*arguments, **options):
        for step, batch in enumerate(batches(*arguments, **options), 1):
            if step == 4:
                begins[2].set()
            yield batch

    def keep_scores(self, step, record):
        keep(self, step, record)
        begins[step].set()

    monkeypatch.setattr(manager.Manager, "save", slow_save)
    monkeypatch.setattr(Inputs, "train_batches", watched_batches)
    monkeypatch.setattr(run_log.RunLog, "keep", keep_scores)
    often = {"batch_size": 8, "total_steps": 6, "checkpoint_every": 2, "eval_every": 6}
    make_data(tmp_path / "data")
    small = {"data.crop_size": (32, 32), "eval.scale": (32, 32), "model.num_classes": 3}
    own = {"data.name": "folder", "data_dir": str(tmp_path / "data"), "init_from": "", **small}
    loop.train(tiny(**often, **own, log_every=2), tmp_path / "run")
    assert [line["step"] for line in log_lines(tmp_path / "run") if "loss" in line] == [2, 4, 6]
    steps = tmp_path / "run" / "checkpoints"
    assert folder.steps(steps)[0] == 6
    assert all(folder.damage(steps / str(step)) is None for step in folder.steps(steps))
    assert folder.is_scored(steps / "6")
