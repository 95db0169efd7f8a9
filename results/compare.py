"""Optimizers and encodings side by side, on generated tasks: two tables and two figures.

    python results/compare.py minutes                          # time a step of every arm, alone
    python results/compare.py encodings                        # config/quadtree.py, each encoding
    python results/compare.py optimizers                       # the same with each optimizer
    python results/compare.py encodings optimizers --jobs=12   # that many runs at once

Every arm gets the same learning rates at a third of the steps, seed 0, judged on `val`. The best
rate then runs in full on seeds 1, 2, 3 and is scored on `test`, one view. Other --key=value go to
train.py. Several GPUs take turns.

Writes results/NAME.json (every number), NAME.md (the table) and NAME.svg (the curves; needs
matplotlib). `minutes` writes results/minutes.json, and the tables and figures of stored runs anew.
"""
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from runs import HERE, ROOT, as_options, mean, read_command, read_json, run_script, spread
from config import load_config                 # before torch: it says how torch takes memory
import torch

from engine.optim import OPTIMIZERS
from engine.runs import model_config, versions
from positions.index import ENCODINGS, build

ARMS = {                                       # name of a table: (knob, its values, learning rates)
    "optimizers": ("optimizer", list(OPTIMIZERS), [0.001, 0.003, 0.01, 0.03]),
    "encodings": ("encoding", list(ENCODINGS), [0.003, 0.01, 0.03]),
}
SEEDS = [1, 2, 3]
ROUNDS = 3                                     # of `minutes`
TURN = count()                                 # whose turn it is, of several GPUs
RUNS = ROOT / "out" / "compare"                # where the runs leave their files


def run(knobs, jobs, options):
    """Runs train.py in a process of its own. Returns its records."""
    values = [str(value) for value in knobs.values() if value != ""]
    folder = RUNS / "_".join(values)
    command = ["train.py", "config/quadtree.py", f"--out_dir={folder}", "--overwrite", "--views=1",
               *options, *as_options(knobs)]
    env = {**os.environ, "OMP_NUM_THREADS": str(max(1, os.cpu_count() // jobs))}
    if torch.cuda.device_count() > 1:
        env["CUDA_VISIBLE_DEVICES"] = str(next(TURN) % torch.cuda.device_count())
    return run_script(command, folder, env)


def of_kind(records, kind):
    return [record for record in records if record["kind"] == kind]


def compare(name, submit, steps):
    """Returns {arm: its rates, best rate, records of test and val} of one table.

    submit(key=value, ...) starts a run. Returns a future of its records.
    """
    knob, arms, rates = ARMS[name]
    picks = {}
    for arm in arms:
        for rate in rates:
            picks[arm, rate] = submit(**{knob: arm}, learning_rate=rate, seed=0,
                                      max_steps=steps // 3, test="")
    found, jobs = {}, {}
    for arm in arms:
        val = {rate: of_kind(picks[arm, rate].result(), "val")[-1] for rate in rates}
        best = max(rates, key=lambda rate: (val[rate]["exact"], -val[rate]["loss"]))
        tried = {str(rate): dict(exact=m["exact"], loss=m["loss"]) for rate, m in val.items()}
        found[arm] = dict(rate=best, rates=tried)
        jobs[arm] = [submit(**{knob: arm}, learning_rate=best, seed=seed, max_steps=steps)
                     for seed in SEEDS]
    for arm in arms:
        records = [job.result() for job in jobs[arm]]
        found[arm]["test"] = [of_kind(lines, "test")[0] for lines in records]
        found[arm]["val"] = [of_kind(lines, "val") for lines in records]
    return found


def run_tables(names, jobs, options):
    """Runs the tables of these names. Writes what was found, tables and figures."""
    default, _ = load_config(["config/quadtree.py", *options])
    steps, started, futures = default.max_steps, time.time(), {}
    with ThreadPoolExecutor(jobs) as pool, ThreadPoolExecutor(len(names)) as tables:
        def submit(**knobs):
            # quadtree with the default optimizer stands in both tables, and runs once
            changed = {key: v for key, v in knobs.items() if v != getattr(default, key)}
            key = json.dumps(changed, sort_keys=True)
            if key not in futures:
                futures[key] = pool.submit(run, knobs, jobs, options)
            return futures[key]
        found = list(tables.map(lambda name: compare(name, submit, steps), names))
    minutes = (time.time() - started) / 60
    for name, arms in zip(names, found):
        stored = dict(arms=arms, steps=steps, seeds=SEEDS, jobs=jobs, minutes=minutes, **about())
        (HERE / f"{name}.json").write_text(json.dumps(stored))


def time_steps():
    """Returns {arm: milliseconds of a step} on this machine, one run at a time.

    It is the median of rounds in turn, so that a slow spell of the machine does not meet one arm.
    """
    times = {}
    for _ in range(ROUNDS):
        for knob, arms, _ in ARMS.values():
            for arm in arms:
                knobs = {knob: arm, "max_steps": 40, "log_every": 10, "val": "", "test": ""}
                records = of_kind(run(knobs, 1, []), "train")
                later = [record["ms"] for record in records if record["step"] > 10]
                times.setdefault(arm, []).extend(later)
    return {arm: sorted(values)[len(values) // 2] for arm, values in times.items()}


def about():
    return dict(command="python " + " ".join(sys.argv), versions=versions())


# ------------------------------------------------------------------------------------------------
# The tables and the figures


def describe_width(encoding):
    """Returns how many numbers an encoding gives for a token; "table", "angles" or 0 where none."""
    config, _ = load_config([f"--encoding={encoding}"])
    module = build(model_config(config, canvas=32, n_tasks=0))
    if module.dim:
        return module.dim
    if list(module.parameters()):
        return "table"
    origin = torch.zeros(1, 4, dtype=torch.long)
    return 0 if module.angles(origin) is None else "angles"


def table(name, arms, steps, ms):
    """Returns a table in Markdown, the best arm first. ms: {arm: milliseconds of a step}."""
    with_width = name == "encodings"
    titles = [ARMS[name][0]] + ["dim"] * with_width
    titles += ["learning rate", "exact", "exact 1D", "exact 2D", "cells", "loss", "minutes"]
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]

    def of(arm, key, form="{:.1%}"):
        values = [record.get(key) for record in arms[arm]["test"]]
        return "-" if None in values else spread(values, form)
    for arm in sorted(arms, key=lambda arm: -sum(record["exact"] for record in arms[arm]["test"])):
        cells = [arm]
        if with_width:
            cells.append(str(describe_width(arm)))
        cells.append(str(arms[arm]["rate"]))
        cells += [of(arm, key) for key in ("exact", "exact_1d", "exact_2d", "cells")]
        cells.append(of(arm, "loss", "{:.3f}"))
        cells.append(f"{ms[arm] * steps / 60000:.1f}" if arm in ms else "not timed")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(name, arms, ms):
    """Draws the validation loss of each arm against minutes: mean of the seeds, and their range.

    Against steps where not every arm was timed.
    """
    try:
        import matplotlib
    except ImportError:
        print("no figure: it needs matplotlib (pip install matplotlib)")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    timed = set(arms) <= set(ms)
    plt.figure(figsize=(6.4, 3.8))
    for arm, found in arms.items():
        curves = [[record["loss"] for record in curve] for curve in found["val"]]
        by_step = list(zip(*curves))
        unit = ms[arm] / 60000 if timed else 1
        x = [record["step"] * unit for record in found["val"][0]]
        plt.plot(x, [mean(losses) for losses in by_step], label=arm)
        lowest, highest = list(map(min, by_step)), list(map(max, by_step))
        plt.fill_between(x, lowest, highest, alpha=0.2)
    plt.yscale("log")
    plt.xlabel("minutes on 2 CPU cores" if timed else "steps")
    plt.ylabel("validation loss, nats a token")
    plt.legend()
    plt.tight_layout()
    plt.savefig(HERE / f"{name}.svg")
    plt.close()


def write(name):
    """Writes the table and the figure, from results/NAME.json and results/minutes.json."""
    found = read_json(HERE / f"{name}.json")
    ms = read_json(HERE / "minutes.json", dict(ms={}))["ms"]
    text = table(name, found["arms"], found["steps"], ms)
    (HERE / f"{name}.md").write_text(text)
    figure(name, found["arms"], ms)
    print(text)


def main(argv):
    names, own, options = read_command(argv, dict(jobs="1"))
    if not names or not set(names) <= {*ARMS, "minutes"}:
        sys.exit(__doc__)
    if "minutes" in names:
        stored = dict(ms=time_steps(), cores=os.cpu_count(), **about())
        (HERE / "minutes.json").write_text(json.dumps(stored))
    tables = [name for name in names if name != "minutes"]
    if tables:
        run_tables(tables, int(own["jobs"]), options)
    for name in tables or ARMS:
        if (HERE / f"{name}.json").exists():
            write(name)


if __name__ == "__main__":
    main(sys.argv[1:])
