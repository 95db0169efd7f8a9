"""ARC-1: what a lever or an encoding is worth, every run alike but for it. For one GPU, which the runs share; they are compared at equal steps.

    python results/arc1.py levers base short focus --data=DIR        # on tasks held out from training
    python results/arc1.py levers both re_arc --held=100 --data=DIR  # re-ARC holds the rule of every task held out: only the others' is used
    python results/arc1.py encodings --data=DIR --steps=6000         # config/arc1.py with each encoding; scored on the evaluation tasks too

DIR holds arc1-training.json, arc1-evaluation.json, arc2-training.json, conceptarc.json, and re-arc.json where it is asked for: {id: task}. Held
out are the test outputs of all 400 ARC-1 training tasks, or of --held=N (a hundred tell levers apart only where they are worth 8 points);
trained on are their demonstrations, those of the evaluation tasks, and what else there is, ARC-2's copies of the evaluation tasks left out. Levers are
drafted and voted on the tasks held out. Encodings have one answer to these, in one view (val), and are drafted and voted on the evaluation tasks. --jobs=N
runs go at once (default 6; under CUDA's MPS daemon they really share the chip); other --key=value go to train.py. Each run is added to
results/arc1/WHAT.json as it ends, beside those that are there, and all are printed as a table. times_scored counts the runs of an arm.
"""
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT, START = HERE.parent, Path.cwd()
os.chdir(ROOT)
sys.path[:0] = [str(ROOT), str(HERE)]

import train                                                   # noqa: E402
from data.score import write_json                              # noqa: E402
from runs import run_script                                    # noqa: E402

WIDE = dict(n_embd=512, n_head=8, n_kv_head=8, n_mlp=2048)     # config/arc1_rearc.py's network
LEVERS = {                                                     # name: what differs from config/arc1.py
    "base": dict(focus=1.0, short=0),
    "heads3": dict(focus=1.0, short=0, n_head=3, n_kv_head=3),
    "short": dict(focus=1.0, short=400),
    "focus": dict(focus=2.0, short=0),
    "rate7": dict(focus=1.0, short=0, learning_rate=7e-3),
    "both": {},
    "focus4": dict(focus=4.0),
    "rate25": dict(learning_rate=2.5e-3),
    "shared_keys": dict(n_kv_head=2),
    "wide": WIDE,
    "wide_shared_keys": dict(WIDE, n_kv_head=2),
    "wide_dropout2": dict(WIDE, dropout=0.2),
    "re_arc": dict(re_arc=True),                               # 16 generated pairs more for each ARC-1 training task
    "re_arc_focus4": dict(re_arc=True, focus=4.0),
}
ENCODINGS = {name: dict(encoding=name)
             for name in ("none", "learned", "onehot", "quadtree", "sinusoidal", "rope", "rope2d", "rope3d", "quadtree+rope3d")}
ARMS = {"levers": LEVERS, "encodings": ENCODINGS}
SCORES = {"levers": {"a view on average": "pass1_view", "voted by count": "pass2_counted", "by likelihood": "pass2", "oracle": "oracle"},
          "encodings": {"held out, one view": "val_exact", "evaluation, one view": "pass1_single", "voted by count": "pass2_counted", "pass@2": "pass2", "oracle": "oracle"}}


def others(folder):
    """Writes what to train on beside ARC-1's training tasks; of those that are held out the leak guard leaves the demonstrations alone. -> path."""
    read = lambda name: json.loads((folder / f"{name}.json").read_text())
    evaluation = read("arc1-evaluation")
    pool = {**read("conceptarc"), **{name: task for name, task in read("arc2-training").items() if name not in evaluation}}
    pool.update({name: dict(train=task["train"], test=[]) for name, task in evaluation.items()})
    path = ROOT / "out" / "arc1_pool.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, pool)
    return path


def run(folder, knobs, train_on, extra):
    """One training run -> its scores."""
    command = ["train.py", "config/arc1.py", f"--out_dir={folder}", "--overwrite", "--eval_every=1000000",
               f"--train={'+'.join(map(str, train_on))}", *extra, *(f"--{key}={value}" for key, value in knobs.items())]
    records = run_script(command, folder, {"OMP_NUM_THREADS": "2", **os.environ})
    last = {m["kind"]: m for m in records}
    found = {"train_seconds": last["train"]["seconds"], **{key: last["test"][key] for key in last["test"] if key != "families"}}
    found["source"] = Path(found["source"]).name               # not where its user keeps it
    return {**found, **{f"val_{key}": last["val"][key] for key in ("exact", "cells", "loss", "n") if "val" in last}}


def table(runs, columns):
    percent = lambda found, key: f"{100 * found[key]:.1f}" if key in found else "-"
    return "\n".join([f"| arm | {' | '.join(columns)} |", "|" + " --- |" * (len(columns) + 1),
                      *(f"| {name} | {' | '.join(percent(found, key) for key in columns.values())} |" for name, found in runs.items())])


def main(argv, out=HERE / "arc1"):
    names = [a for a in argv if not a.startswith("--")]
    given = dict(a[2:].partition("=")[::2] for a in argv if a.startswith("--"))
    if not names or names[0] not in ARMS or not set(names[1:]) <= set(ARMS[names[0]]) or "data" not in given:
        sys.exit(__doc__)
    data, jobs, steps = (START / given.pop("data")).resolve(), int(given.pop("jobs", 6)), int(given.pop("steps", 4500))
    held, levers = given.pop("held", ""), names[0] == "levers"
    arms = {name: ARMS[names[0]][name] for name in names[1:] or ARMS[names[0]]}
    more = [name for name, knobs in arms.items() if "re_arc" in knobs]
    if more and not held:
        sys.exit("with all of ARC-1's training tasks held out nothing of re-ARC is left: name --held=100")
    files = {name: data / f"{name}.json" for name in ("arc1-training", "arc1-evaluation", "conceptarc", "arc2-training", *["re-arc"] * bool(more))}
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        sys.exit(f"no such file: {', '.join(missing)}")

    what = f"{names[0]}{f'_held{held}' if held else ''}_{steps}"
    train_on = [others(data), files["arc1-training"]] if levers else [files[name] for name in ("arc1-training", "conceptarc", "arc2-training")]
    asked = f"{files['arc1-training']}{'#' + held if held else ''}"
    extra = [*([f"--test={asked}", "--views=8"] if levers else [f"--val={asked}", f"--test={files['arc1-evaluation']}", "--views=16"]),
             f"--max_steps={steps}", f"--warmup={540 / max(steps, 540)}", "--draft_tokens=200000", *(f"--{key}={value}" for key, value in given.items())]
    path = out / f"{what}.json"
    kept = json.loads(path.read_text()) if path.exists() else dict(runs={})
    with ThreadPoolExecutor(jobs) as pool:
        jobs_of = {pool.submit(run, Path("out") / "arc1_arms" / what / name, {k: v for k, v in knobs.items() if k != "re_arc"},
                               train_on + [data / "re-arc.json"] * ("re_arc" in knobs), extra): name for name, knobs in arms.items()}
        for job in as_completed(jobs_of):
            name = jobs_of[job]
            if isinstance(job.exception(), SystemExit):        # the others go on
                print(f"{name} failed: {job.exception()}", file=sys.stderr)
                continue
            found = job.result()
            found["times_scored"] += kept["runs"].get(name, {}).get("times_scored", 0)
            command = " ".join("--data=DIR" if arg.startswith("--data=") else arg for arg in argv)
            kept["runs"][name] = dict(found, knobs=arms[name], command=f"python results/arc1.py {command}", jobs=jobs,
                                      versions=train.versions())
            write_json(path, kept)
    print(table(kept["runs"], SCORES[names[0]]))
    return kept["runs"]


if __name__ == "__main__":
    main(sys.argv[1:])
