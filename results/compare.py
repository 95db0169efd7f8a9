"""Optimizers and encodings side by side, on generated tasks: the README's two tables and the figure.

    python results/compare.py encodings               # config/quadtree.py with each encoding in turn
    python results/compare.py optimizers
    python results/compare.py encodings --jobs=12     # that many runs at once; further --key=value go to train.py

Every arm gets the same three learning rates at a third of the steps, seed 0, judged on `val`; the best then runs in full on
seeds 1, 2, 3 and is scored on `test`. Writes results/NAME.json (every number), NAME.md (the table) and, where matplotlib
is installed, optimizers.svg.
"""
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ARMS = {
    "optimizers": ("optimizer", ["schedulefree", "muon_schedulefree", "adamw", "muon"]),
    "encodings": ("encoding", ["none", "learned", "onehot", "quadtree", "sinusoidal", "rope", "rope2d", "rope3d"]),
}
RATES = [0.003, 0.006, 0.012]
SEEDS = [1, 2, 3]


def run(name, extra, jobs):
    """One training run in a process of its own -> the lines of its metrics.jsonl."""
    folder = Path("out") / "compare" / name
    command = [sys.executable, "train.py", "config/quadtree.py", f"--out_dir={folder}", "--overwrite", "--views=1", *extra]
    threads = str(max(1, os.cpu_count() // jobs))
    done = subprocess.run(command, cwd=HERE.parent, text=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": threads})
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return [json.loads(line) for line in open(HERE.parent / folder / "metrics.jsonl")]


def spread(values, form="{:.1%}"):
    """mean (min .. max)"""
    return f"{form.format(sum(values) / len(values))} ({form.format(min(values))} .. {form.format(max(values))})"


def compare(name, jobs, extra):
    key, arms = ARMS[name]
    sys.path.insert(0, str(HERE.parent))
    import config as knobs
    steps = knobs.load(["config/quadtree.py", *extra])[0].max_steps
    begun = time.time()
    with ThreadPoolExecutor(jobs) as pool:
        def submit(arm, rate, seed, steps, *more):
            args = [f"--{key}={arm}", f"--learning_rate={rate}", f"--seed={seed}", f"--max_steps={steps}", *extra, *more]
            return pool.submit(run, f"{name}_{arm}_{rate}_{seed}_{steps}", args, jobs)
        picks = {arm: {rate: submit(arm, rate, 0, steps // 3, "--test=") for rate in RATES} for arm in arms}
        finals, picked = {}, {}
        for arm in arms:
            picked[arm] = {rate: [m for m in job.result() if m["kind"] == "val"][-1] for rate, job in picks[arm].items()}
            best = max(RATES, key=lambda rate: (picked[arm][rate]["exact"], -picked[arm][rate]["loss"]))
            finals[arm] = best, [submit(arm, best, seed, steps) for seed in SEEDS]
            print(f"{arm}: " + ", ".join(f"{rate}: {m['exact']:.1%}" for rate, m in picked[arm].items()), flush=True)
        finals = {arm: (best, [job.result() for job in jobs]) for arm, (best, jobs) in finals.items()}
    out = dict(command=" ".join(sys.argv), steps=steps, seeds=SEEDS, minutes=(time.time() - begun) / 60, arms={})
    for arm, (best, runs) in finals.items():
        out["arms"][arm] = dict(rate=best, rates={str(r): dict(exact=m["exact"], loss=m["loss"]) for r, m in picked[arm].items()},
                                test=[next(m for m in lines if m["kind"] == "test") for lines in runs],
                                val=[[m for m in lines if m["kind"] == "val"] for lines in runs],
                                minutes=[max(m["seconds"] for m in lines if m["kind"] == "train") / 60 for lines in runs])
    for run_ in (json.loads((HERE.parent / "out/compare").joinpath(p, "config.json").read_text())
                 for p in os.listdir(HERE.parent / "out/compare") if p.startswith(name)):
        out["versions"] = run_["versions"]
        break
    return out


def table(name, out):
    lines = [f"| {ARMS[name][0]} | learning rate | exact | exact 1D | exact 2D | cells | loss |", "|" + " --- |" * 7]
    for arm, found in sorted(out["arms"].items(), key=lambda item: -sum(m["exact"] for m in item[1]["test"])):
        of = lambda key: [m[key] for m in found["test"]]
        lines.append(f"| {arm} | {found['rate']} | " + " | ".join(
            [spread(of("exact")), spread(of("exact_1d")), spread(of("exact_2d")), f"{sum(of('cells')) / len(SEEDS):.2%}",
             f"{sum(of('loss')) / len(SEEDS):.4f}"]) + " |")
    return "\n".join(lines) + "\n"


def figure(name, out, minutes_a_step=None):
    """Validation loss of each arm: the mean of the seeds, and their range."""
    try:
        import matplotlib
    except ImportError:
        print("no figure: it needs matplotlib (pip install matplotlib)")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.figure(figsize=(6, 3.6))
    for arm, found in out["arms"].items():
        curves = [[m["loss"] for m in curve] for curve in found["val"]]
        steps = [m["step"] for m in found["val"][0]]
        x = [s * (minutes_a_step or {}).get(arm, 1) for s in steps]
        mean = [sum(c) / len(c) for c in zip(*curves)]
        plt.plot(x, mean, label=arm)
        plt.fill_between(x, [min(c) for c in zip(*curves)], [max(c) for c in zip(*curves)], alpha=0.2)
    plt.yscale("log")
    plt.xlabel("minutes on 2 CPU cores" if minutes_a_step else "steps")
    plt.ylabel("validation loss (nats a token)")
    plt.legend()
    plt.tight_layout()
    plt.savefig(HERE / f"{name}.svg")


def main(argv):
    jobs = [int(a.split("=")[1]) for a in argv if a.startswith("--jobs=")]
    extra = [a for a in argv[1:] if not a.startswith("--jobs=")]
    if not argv or argv[0] not in ARMS:
        sys.exit(__doc__)
    out = compare(argv[0], jobs[0] if jobs else 1, extra)
    (HERE / f"{argv[0]}.json").write_text(json.dumps(out))
    (HERE / f"{argv[0]}.md").write_text(table(argv[0], out))
    figure(argv[0], out)
    print(table(argv[0], out) + f"{out['minutes']:.1f} minutes in all")


if __name__ == "__main__":
    main(sys.argv[1:])
