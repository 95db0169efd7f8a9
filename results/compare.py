"""Optimizers and encodings side by side, on generated tasks: the README's two tables and its figure.

    python results/compare.py minutes                 # time a step of every arm on this machine, alone: results/minutes.json
    python results/compare.py encodings               # config/quadtree.py with each encoding in turn
    python results/compare.py optimizers              # and with each optimizer
    python results/compare.py encodings optimizers --jobs=12     # that many runs at once; other --key=value go to train.py

Every arm gets the same learning rates at a third of the steps, seed 0, judged on `val`; the best then runs in full on
seeds 1, 2, 3 and is scored on `test`, one view. Several GPUs take turns. Writes results/NAME.json (every number), NAME.md (the table), NAME.svg (the
curves; needs matplotlib).
"""
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))
import torch                                                   # noqa: E402

import config as knobs                                         # noqa: E402
import model as network                                        # noqa: E402
import train                                                   # noqa: E402
from runs import run_script                                    # noqa: E402

ARMS = {
    "optimizers": ("optimizer", ["schedulefree", "muon_schedulefree", "adamw", "muon"], [0.001, 0.003, 0.01, 0.03]),
    "encodings": ("encoding", ["none", "learned", "onehot", "quadtree", "sinusoidal", "rope", "rope2d", "rope3d"],
                  [0.003, 0.01, 0.03]),
}
SEEDS = [1, 2, 3]
TURN = count()


def run(args, jobs, extra):
    """One training run in a process of its own -> the lines of its metrics.jsonl."""
    folder = Path("out") / "compare" / "_".join(f"{value}" for value in args.values() if value != "")
    command = ["train.py", "config/quadtree.py", f"--out_dir={folder}", "--overwrite", "--views=1",
               *(f"--{key}={value}" for key, value in args.items()), *extra]
    env = {**os.environ, "OMP_NUM_THREADS": str(max(1, os.cpu_count() // jobs))}
    if torch.cuda.device_count() > 1:
        env["CUDA_VISIBLE_DEVICES"] = str(next(TURN) % torch.cuda.device_count())
    return run_script(command, folder, env)


def spread(values, form="{:.1%}"):
    """mean (min .. max)"""
    return f"{form.format(sum(values) / len(values))} ({form.format(min(values))} .. {form.format(max(values))})"


def compare(name, submit, steps):
    """All runs of one table. submit(key=value, ...) -> a future of the lines of that run's metrics.jsonl."""
    key, arms, rates = ARMS[name]
    picks = {arm: {rate: submit(**{key: arm}, learning_rate=rate, seed=0, max_steps=steps // 3, test="") for rate in rates}
             for arm in arms}
    out = {}
    for arm in arms:
        val = {rate: [m for m in job.result() if m["kind"] == "val"][-1] for rate, job in picks[arm].items()}
        best = max(rates, key=lambda rate: (val[rate]["exact"], -val[rate]["loss"]))
        out[arm] = dict(rate=best, rates={str(rate): dict(exact=m["exact"], loss=m["loss"]) for rate, m in val.items()},
                        runs=[submit(**{key: arm}, learning_rate=best, seed=seed, max_steps=steps) for seed in SEEDS])
    for found in out.values():
        lines = [job.result() for job in found.pop("runs")]
        found.update(test=[next(m for m in run if m["kind"] == "test") for run in lines],
                     val=[[m for m in run if m["kind"] == "val"] for run in lines])
    return out


def time_steps():
    """Milliseconds of a step of every arm on this machine, alone: three rounds in turn, the median, so that a slow spell of the
    machine does not fall on one arm."""
    times = {arm: [] for _, arms, _ in ARMS.values() for arm in arms}
    for _ in range(3):
        for key, arms, _ in ARMS.values():
            for arm in arms:
                lines = run({key: arm, "max_steps": 40, "log_every": 10, "val": "", "test": ""}, 1, [])
                times[arm] += [m["ms"] for m in lines if m["kind"] == "train" and m["step"] > 10]
    return {arm: sorted(values)[len(values) // 2] for arm, values in times.items()}


def width(encoding):
    """How many numbers an encoding gives the network for a token, at the default shape."""
    config = knobs.load([f"--encoding={encoding}"])[0]
    module = network.build(train.shape_for(config, 32, 0))
    return module.dim or ("table" if list(module.parameters()) else "angles" if module.angles(torch.zeros(1, 4)) is not None else 0)


def table(name, arms, steps, ms):
    lines = [f"| {ARMS[name][0]} | {'dim | ' if name == 'encodings' else ''}learning rate | exact | exact 1D | exact 2D | cells | loss | "
             "minutes |", "|" + " --- |" * (9 if name == "encodings" else 8)]
    for arm, found in sorted(arms.items(), key=lambda item: -sum(m["exact"] for m in item[1]["test"])):
        of = lambda key: [m[key] for m in found["test"]]
        dim = f"{width(arm)} | " if name == "encodings" else ""
        lines.append(f"| {arm} | {dim}{found['rate']} | {spread(of('exact'))} | {spread(of('exact_1d')) if 'exact_1d' in found['test'][0] else '-'} | {spread(of('exact_2d')) if 'exact_2d' in found['test'][0] else '-'} | "
                     f"{spread(of('cells'))} | {spread(of('loss'), '{:.3f}')} | "
                     + (f"{ms[arm] * steps / 60000:.1f} |" if arm in ms else "not timed |"))
    return "\n".join(lines) + "\n"


def figure(name, arms, ms):
    """Validation loss of each arm against minutes (steps where they were not timed): mean of the seeds, and their range."""
    try:
        import matplotlib
    except ImportError:
        print("no figure: it needs matplotlib (pip install matplotlib)")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.figure(figsize=(6.4, 3.8))
    for arm, found in arms.items():
        curves = [[m["loss"] for m in curve] for curve in found["val"]]
        x = [m["step"] * (ms[arm] / 60000 if ms else 1) for m in found["val"][0]]
        plt.plot(x, [sum(c) / len(c) for c in zip(*curves)], label=arm)
        plt.fill_between(x, *([f(c) for c in zip(*curves)] for f in (min, max)), alpha=0.2)
    plt.yscale("log")
    plt.xlabel("minutes on 2 CPU cores" if ms else "steps")
    plt.ylabel("validation loss, nats a token")
    plt.legend()
    plt.tight_layout()
    plt.savefig(HERE / f"{name}.svg")
    plt.close()


def write(name):
    """The table and the figure, from results/NAME.json and results/minutes.json."""
    found = json.loads((HERE / f"{name}.json").read_text())
    ms = json.loads((HERE / "minutes.json").read_text())["ms"] if (HERE / "minutes.json").exists() else {}
    text = table(name, found["arms"], found["steps"], ms)
    (HERE / f"{name}.md").write_text(text)
    figure(name, found["arms"], ms)
    print(text)


def main(argv):
    names = [a for a in argv if not a.startswith("--")]
    jobs = int(next((a.partition("=")[2] for a in argv if a.startswith("--jobs=")), 1))
    extra = [a for a in argv if a.startswith("--") and not a.startswith("--jobs=")]
    if not names or not set(names) <= {*ARMS, "minutes"}:
        sys.exit(__doc__)
    about = dict(command="python " + " ".join(sys.argv), versions=train.versions())
    if "minutes" in names:
        (HERE / "minutes.json").write_text(json.dumps(dict(ms=time_steps(), cores=os.cpu_count(), **about)))
        names.remove("minutes")
    default, begun, cache = knobs.load(["config/quadtree.py", *extra])[0], time.time(), {}
    steps = default.max_steps
    with ThreadPoolExecutor(jobs) as pool, ThreadPoolExecutor(max(1, len(names))) as tables:
        def submit(**args):
            key = json.dumps({name: value for name, value in args.items() if value != getattr(default, name)}, sort_keys=True)
            if key not in cache:                               # quadtree with the default optimizer stands in both tables
                cache[key] = pool.submit(run, args, jobs, extra)
            return cache[key]
        found = dict(zip(names, tables.map(lambda name: compare(name, submit, steps), names)))
    for name in names:
        (HERE / f"{name}.json").write_text(json.dumps(dict(arms=found[name], steps=steps, seeds=SEEDS, jobs=jobs,
                                                           minutes=(time.time() - begun) / 60, **about)))
        write(name)
    for name in [] if names else ARMS:
        if (HERE / f"{name}.json").exists():
            write(name)


if __name__ == "__main__":
    main(sys.argv[1:])
