"""ARC-1: what a lever or an encoding is worth. Runs are alike but for it, and have equal steps.

    python results/arc1.py levers base downweight_above oversample --data=DIR
    python results/arc1.py levers both re_arc --held=100 --data=DIR
    python results/arc1.py encodings --data=DIR --steps=6000

DIR holds arc1-training.json, arc1-evaluation.json, arc2-training.json, conceptarc.json, and
re-arc.json where an arm asks for it: each {id: task}.

Held out are the test outputs of all 400 ARC-1 training tasks, or of --held=N of them. (A hundred
tell levers apart only where they are worth 8 points. re-ARC holds the rule of every one of these
tasks, so it takes --held, and only the others' pairs are used.) Trained on are the demonstrations
of these and of the evaluation tasks, and all else there is, without ARC-2's copies of the
evaluation tasks.

levers: each arm is config/arc1.py but for its knobs. The held-out tasks are predicted and voted on.
encodings: the held-out tasks are answered once, in one view (val). The evaluation tasks are
predicted and voted on.

--jobs=N runs go at once (default 6) and share the GPU; under CUDA's MPS daemon they really do.
Other --key=value go to train.py. Each run is added to results/arc1/WHAT.json as it ends, beside
those that are there, and all are printed as a table. times_scored counts the runs of an arm.
"""
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from runs import (HERE, OLD_NAMES, ROOT, as_options, read_command, read_json, run_script,
                  with_todays_names)
from arc.files import write_json
from engine.runs import versions
from positions.index import ENCODINGS

WIDE = dict(n_embd=512, n_head=8, n_kv_head=8, n_mlp=2048)     # the network of config/arc1_rearc.py
NEITHER = dict(oversample=1.0, downweight_above=0)
LEVERS = {                                     # name: what differs from config/arc1.py
    "base": NEITHER,
    "heads3": dict(NEITHER, n_head=3, n_kv_head=3),
    "downweight_above": dict(NEITHER, downweight_above=400),
    "oversample": dict(NEITHER, oversample=2.0),
    "rate7": dict(NEITHER, learning_rate=7e-3),
    "both": {},
    "oversample4": dict(oversample=4.0),
    "rate25": dict(learning_rate=2.5e-3),
    "shared_keys": dict(n_kv_head=2),
    "wide": WIDE,
    "wide_shared_keys": dict(WIDE, n_kv_head=2),
    "wide_dropout2": dict(WIDE, dropout=0.2),
    "re_arc": {},
    "re_arc_oversample4": dict(oversample=4.0),
}
WITH_RE_ARC = {"re_arc", "re_arc_oversample4"}     # 16 more pairs of each ARC-1 training task
ARMS = {
    "levers": LEVERS,
    "encodings": {name: dict(encoding=name) for name in [*ENCODINGS, "quadtree+rope3d"]},
}
COLUMNS = {                                    # of the tables: title -> metric
    "levers": {
        "a view on average": "pass1_view",
        "voted by count": "pass2_by_votes",
        "reranked by likelihood": "pass2",
        "oracle": "oracle",
    },
    "encodings": {
        "held out, one view": "val_exact",
        "evaluation, one view": "pass1_single",
        "voted by count": "pass2_by_votes",
        "pass@2": "pass2",
        "oracle": "oracle",
    },
}
FILES = ["arc1-training", "arc1-evaluation", "conceptarc", "arc2-training"]
RUNS = ROOT / "out" / "arc1_arms"              # where the runs leave their files


def write_other_tasks(data):
    """Writes what levers train on beside ARC-1's training tasks. Returns the path.

    Of the tasks that are held out the leak guard leaves the demonstrations alone.
    """
    evaluation = read_json(data / "arc1-evaluation.json")
    tasks = read_json(data / "conceptarc.json")
    for name, task in read_json(data / "arc2-training.json").items():
        if name not in evaluation:
            tasks[name] = task
    for name, task in evaluation.items():
        tasks[name] = dict(train=task["train"], test=[])
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / "other_tasks.json"
    write_json(path, tasks)
    return path


def train(folder, sources, options, knobs):
    """Returns the scores of one training run."""
    command = ["train.py", "config/arc1.py", f"--out_dir={folder}", "--overwrite",
               "--eval_every=1000000", f"--train={'+'.join(map(str, sources))}", *options,
               *as_options(knobs)]
    records = run_script(command, folder, {"OMP_NUM_THREADS": "2", **os.environ})
    last = {record["kind"]: record for record in records}
    scores = {key: value for key, value in last["test"].items() if key != "families"}
    scores["train_seconds"] = last["train"]["seconds"]
    scores["source"] = Path(scores["source"]).name     # not where its user keeps it
    if "val" in last:
        for key in ("exact", "cells", "loss", "n"):
            scores[f"val_{key}"] = last["val"][key]
    return scores


def table(runs, columns):
    """Returns the scores of runs, {arm: scores}, as a table in Markdown."""
    lines = [f"| arm | {' | '.join(columns)} |", "|" + " --- |" * (len(columns) + 1)]
    for name, scores in runs.items():
        cells = []
        for key in columns.values():
            cells.append(f"{100 * scores[key]:.1f}" if key in scores else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def find_files(data, arms, held):
    """Returns {name: path} of the task files. SystemExit where one is missing."""
    needs_re_arc = bool(WITH_RE_ARC & set(arms))
    if needs_re_arc and not held:
        sys.exit("with all of ARC-1's training tasks held out nothing of re-ARC is left: name "
                 "--held=100")
    files = {name: data / f"{name}.json" for name in FILES + ["re-arc"] * needs_re_arc}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        sys.exit(f"no such file: {', '.join(missing)}")
    return files


def plan(what, files, data, held, steps):
    """Returns (sources to train on, options) that all arms of a table share."""
    held_out = f"{files['arc1-training']}#{held}" if held else files["arc1-training"]
    if what == "levers":
        sources = [write_other_tasks(data), files["arc1-training"]]
        options = [f"--test={held_out}", "--views=8"]
    else:
        sources = [files[name] for name in ("arc1-training", "conceptarc", "arc2-training")]
        options = [f"--val={held_out}", f"--test={files['arc1-evaluation']}", "--views=16"]
    warmup = 540 / max(steps, 540)
    options += [f"--max_steps={steps}", f"--warmup={warmup}", "--predict_tokens=200000"]
    return sources, options


def main(argv, out=HERE / "arc1"):
    own = dict(data="", jobs="6", steps="4500", held="")
    names, own, others = read_command(argv, own)
    what, *names = names or [""]
    names = [OLD_NAMES.get(name, name) for name in names]
    if what not in ARMS or not set(names) <= set(ARMS[what]) or not own["data"]:
        sys.exit(__doc__)
    arms = {name: ARMS[what][name] for name in names or ARMS[what]}
    data, held = Path(own["data"]).resolve(), own["held"]
    jobs, steps = int(own["jobs"]), int(own["steps"])
    files = find_files(data, arms, held)
    sources, options = plan(what, files, data, held, steps)
    table_name = f"{what}_held{held}_{steps}" if held else f"{what}_{steps}"
    path = out / f"{table_name}.json"
    kept = read_json(path, dict(runs={}))
    earlier = with_todays_names(kept["runs"])
    command = " ".join("--data=DIR" if arg.startswith("--data=") else arg for arg in argv)
    with ThreadPoolExecutor(jobs) as pool:
        arm_of = {}
        for name, knobs in arms.items():
            more = [data / "re-arc.json"] if name in WITH_RE_ARC else []
            folder = RUNS / table_name / name
            job = pool.submit(train, folder, sources + more, options + others, knobs)
            arm_of[job] = name
        for job in as_completed(arm_of):
            name = arm_of[job]
            if isinstance(job.exception(), SystemExit):        # the others go on
                print(f"{name} failed: {job.exception()}", file=sys.stderr)
                continue
            scores = job.result()
            scores["times_scored"] += earlier.get(name, {}).get("times_scored", 0)
            kept["runs"][name] = dict(scores, knobs=arms[name], jobs=jobs, versions=versions(),
                                      command=f"python results/arc1.py {command}")
            write_json(path, kept)
    print(table(with_todays_names(kept["runs"]), COLUMNS[what]))
    return kept["runs"]


if __name__ == "__main__":
    main(sys.argv[1:])
