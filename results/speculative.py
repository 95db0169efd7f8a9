"""What it is worth that views verify what other views predicted (engine.predict.Predictor.predict).

    python results/speculative.py config/in_weights.py --views=32     # after training with it

The test tasks are predicted with proposals and without, in turn. All knobs of the run are taken.
"""
import dataclasses
import sys
import time

import runs                                    # noqa: F401  first: it finds the project
from config import load_config
from arc.score import same
from arc.sources import load_data
from engine.devices import pick_device
from engine.predict import Predictor
from engine.checkpoints import load_checkpoint, rebuild, task_rows


class AlonePredictor(Predictor):
    """Each view is decoded from its first token: nothing is proposed."""

    def propose(self, queries, predictions):
        return queries


def equal(one, other):
    """Returns whether two predictions are the same grid, or both are none."""
    if one.grid is None or other.grid is None:
        return one.grid is other.grid
    return same(one.grid, other.grid)


def main(argv, rounds=3):
    """Returns (seconds without proposals, seconds with them, number of predictions that differ)."""
    config, _ = load_config(argv)
    device, why = pick_device(config)
    checkpoint = load_checkpoint(f"{config.out_dir}/ckpt.pt")
    model = rebuild(checkpoint, device)
    tasks = load_data(dataclasses.replace(config, eval_only=True)).test
    rows = task_rows(checkpoint["task_ids"], tasks)
    predictors = {
        "alone": AlonePredictor(model, config, rows, device),
        "proposed": Predictor(model, config, rows, device),
    }
    predictions = {}
    seconds = {"alone": [], "proposed": []}
    for _ in range(rounds):
        for name, predictor in predictors.items():     # in turn: other work meets both
            started = time.perf_counter()
            predictions[name] = predictor.predict(tasks, config.views)
            seconds[name].append(time.perf_counter() - started)
    alone, proposed = (min(seconds[name]) for name in ("alone", "proposed"))
    pairs = list(zip(predictions["alone"], predictions["proposed"]))
    differ = sum(not equal(one, other) for one, other in pairs)
    print(f"{device.type} ({why}); {len(pairs)} predictions of {len(tasks)} tasks under up to "
          f"{config.views} views, the best of {rounds}: each alone {alone:.1f} s, with proposals "
          f"{proposed:.1f} s, {proposed / alone:.2f} of it; {differ} differ")
    return alone, proposed, differ


if __name__ == "__main__":
    main(sys.argv[1:])
