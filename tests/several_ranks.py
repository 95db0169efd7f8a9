"""Runs for test_ranks.py: `python tests/several_ranks.py FOLDER`, or the same under torchrun."""
import shutil
import sys
from pathlib import Path

from conftest import TINY, flags

import refine
import train
from config import UserError
from engine import ranks
from engine.optim import OPTIMIZERS
from engine.runs import Run

KNOBS = {**TINY, "max_steps": 30, "eval_every": 15, "log_every": 1, "batch_tokens": 1280,
         "oned_eval": 4, "dropout": 0.0, "keep_every": 12, "learning_rate": 2e-3}


def keep_the_half(save):
    """Returns Run.save that also leaves the checkpoint of step 15 in the folder `half`."""
    def saving(run, name, training=True):
        save(run, name, training)
        if run.step == 15 and name == "ckpt.pt" and run.log.writes:
            half = Path(run.config.out_dir) / "half"
            half.mkdir(exist_ok=True)
            shutil.copy(half.parent / name, half)
    return saving


def main(folder):
    Run.save = keep_the_half(Run.save)
    for optimizer in OPTIMIZERS:
        train.main(flags(**{**KNOBS, "optimizer": optimizer, "out_dir": folder / optimizer}))
    tasks = dict(train="oned#20", task_embed=True, view_embed=True, rerank_views=2, symmetries=True)
    train.main(flags(**{**KNOBS, **tasks, "out_dir": folder / "tasks"}))
    # mistakes after which the ranks are still together
    knobs = {**KNOBS, "out_dir": folder / "muon_schedulefree"}
    for wrong in (dict(resume=True, seed=9), dict(encoding="ropy", overwrite=True), {}):
        try:
            train.main(flags(**{**knobs, **wrong}))
            raise AssertionError("no error")
        except UserError:
            pass
    train.main(flags(**{**knobs, "eval_only": True, "views": 3}))
    # rates at which Muon's bfloat16 would make much of another order of sums
    knobs.update(optimizer="schedulefree", learning_rate=1e-2, out_dir=folder / "base")
    train.main(flags(**knobs))
    refine.main(flags(**{**knobs, "refine_tasks": 40, "refine_steps": 20}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    ranks.leave()
