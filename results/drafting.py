"""What it is worth that views draft on from what others drafted (evaluate.decode): the test tasks' drafts with it and without, side by side.

    python results/drafting.py config/in_weights.py --views=32     # after training with it; any knobs of it
"""
import dataclasses
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))
import config as knobs                                         # noqa: E402
import evaluate                                                # noqa: E402
import train                                                   # noqa: E402
from data.score import same                                    # noqa: E402
from model import from_checkpoint                              # noqa: E402


def main(argv, rounds=3):
    config, _ = knobs.load(argv)
    device, why = train.pick_device(config)
    model, found = from_checkpoint(f"{config.out_dir}/ckpt.pt", device)
    tasks = train.load_data(dataclasses.replace(config, eval_only=True))["test"]
    rows, real, drafts, seconds = train.rows_of(found["task_ids"], tasks), evaluate.guessed, {}, {"alone": [], "told": []}
    for _ in range(rounds):
        for name in seconds:                                   # in turn, so that other work on the machine meets both
            evaluate.guessed = real if name == "told" else lambda tasks, asked, _, *rest: real(tasks, asked, {}, *rest)
            begun = time.perf_counter()
            drafts[name], *_ = evaluate.draft(model, tasks, config, rows, device)
            seconds[name].append(time.perf_counter() - begun)
    evaluate.guessed = real
    alone, told = (min(seconds[name]) for name in seconds)
    differ = sum(not (a.grid is b.grid or a.grid is not None and same(b.grid, a.grid)) for a, b in zip(drafts["alone"], drafts["told"]))
    print(f"{device.type} ({why}); {len(drafts['told'])} drafts of {len(tasks)} tasks under up to {config.views} views, the best of {rounds}: "
          f"each alone {alone:.1f} s, told of others {told:.1f} s, {told / alone:.2f} of it; {differ} differ")
    return alone, told, differ


if __name__ == "__main__":
    main(sys.argv[1:])
