"""Optimizers and encodings side by side, on generated tasks: tables and figures.

    python results/compare.py encodings --arms=quadtree,mine --seeds=1,2    # these two, two seeds
    python results/compare.py encodings                        # config/quadtree.py, each encoding
    python results/compare.py optimizers                       # the same with each optimizer
    python results/compare.py encodings optimizers --jobs=12   # that many runs at once
    python results/compare.py minutes                          # time a step of every arm, alone

Every arm gets the same learning rates at a third of the steps, seed 0, judged on `val`. The best
rate then runs in full on seeds 1, 2, 3 (--seeds=) and is scored on `test`, one view. Other
--key=value go to train.py; with --learning_rate= no rate is picked. Several GPUs take turns.

--out=FOLDER (out/compare) gets NAME.json (every number), NAME.md (the table), NAME.svg (the curves;
needs matplotlib), and the runs. Runs that are finished there are used again, and those that were
cut off go on; where their encoding, or a file that decides how a network learns, changed since,
they run again, as all do with --overwrite. `minutes` writes minutes.json, and the tables and
figures of that folder anew. --out=results replaces what is published.
"""
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Lock

from runs import (HERE, ROOT, as_options, command_line, draw_range, import_pyplot, read_command,
                  read_json, read_lines, read_numbers, run_script, spread)
# before torch: it says how torch takes memory
from config import UserError, load_config, split_names
import torch

from engine.optim import OPTIMIZERS
from engine.checkpoints import differing, load_checkpoint, model_config
from engine.runs import clock, code_hash, versions
from positions.index import ENCODINGS, build

CONFIG = "config/quadtree.py"
ARMS = {                                       # name of a table: (knob, its values, learning rates)
    "optimizers": ("optimizer", list(OPTIMIZERS), [0.001, 0.003, 0.01, 0.03]),
    "encodings": ("encoding", list(ENCODINGS), [0.003, 0.01, 0.03]),
}
ROUNDS = 3                                     # of `minutes`
OWN = dict(arms="", seeds="1,2,3", jobs="1", out=str(ROOT / "out" / "compare"))


class Runner:
    """Runs train.py in processes of their own, `jobs` at once. Each run that ends gets a line."""

    def __init__(self, out, jobs, options):
        self.default, self.given = load_config([CONFIG, *options])
        self.jobs, self.options = jobs, [o for o in options if not o.startswith("--overwrite")]
        # beside the published tables there is no room for runs
        self.folder = ROOT / "out" / "compare" if out == HERE else out
        self.pool, self.lock, self.turn = ThreadPoolExecutor(jobs), Lock(), count()
        self.started, self.futures, self.failure = time.time(), {}, None
        self.n_done = self.n_planned = 0       # runs
        self.steps_left = self.steps_run = 0   # of training

    def plan(self, runs, steps):
        """Counts runs of so many steps that are to come; for the line of a run."""
        self.n_planned += runs
        self.steps_left += runs * steps

    def submit(self, **knobs):
        """Starts a run. Returns a future of its records. What two tables share runs once."""
        changed = {key: v for key, v in knobs.items() if v != getattr(self.default, key)}
        key = json.dumps(changed, sort_keys=True)
        if key in self.futures:
            self.plan(-1, knobs["max_steps"])
        else:
            self.futures[key] = self.pool.submit(self.run_unless_failed, knobs)
        return self.futures[key]

    def run_unless_failed(self, knobs):
        """After a failure no other run is started: all that wait fail in the same way."""
        if self.failure is None:
            try:
                return self.run_or_reuse(knobs)
            except (SystemExit, UserError) as error:
                self.failure = error
        raise self.failure

    def command(self, knobs):
        """Returns (the folder of a run, the arguments of Python)."""
        folder = self.folder / "_".join(str(value) for value in knobs.values() if value != "")
        return folder, ["train.py", CONFIG, f"--out_dir={folder}", "--views=1", *self.options,
                        *as_options(knobs)]

    def run_or_reuse(self, knobs):
        folder, command = self.command(knobs)
        started, records, how = time.time(), None, "--overwrite"
        if not self.default.overwrite:
            records, how = look_into(folder, load_config(command[1:])[0])
        reused, took = records is not None, "reused (--overwrite runs it again)"
        if not reused:
            records = self.run(folder, [*command, how])
            took = f"{(time.time() - started) / 60:.1f} minutes"
        exact = [record["exact"] for record in records if "exact" in record][-1]
        self.report(knobs, reused, f"exact {exact:.1%}, {took}")
        return records

    def run(self, folder, command):
        env = {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // self.jobs)), **os.environ}
        if torch.cuda.device_count() > 1:
            env["CUDA_VISIBLE_DEVICES"] = str(next(self.turn) % torch.cuda.device_count())
        return run_script(command, folder, env)

    def report(self, knobs, reused, result):
        name = next(iter(knobs.values()))
        with self.lock:
            self.n_done += 1
            self.steps_left -= knobs["max_steps"]
            self.steps_run += 0 if reused else knobs["max_steps"]
            elapsed, eta = time.time() - self.started, "unknown"
            if self.steps_run:
                eta = clock(elapsed * self.steps_left / self.steps_run)
            rate = knobs["learning_rate"]
            print(f"{name}, seed {knobs['seed']}, learning rate {rate}: {result}; {self.n_done} of "
                  f"{self.n_planned} runs, ETA {eta}", flush=True)


def look_into(folder, config, may_change=("out_dir", "overwrite", "resume")):
    """Returns (the records of a finished run, or None; how train.py gets it finished)."""
    found = read_json(folder / "config.json", {})
    if not found:
        return None, "--overwrite"
    found["canvas"] = found["given"].get("canvas", 0)    # the file holds the side that was chosen
    differences = differing(found, config, may_change)
    if differences:
        raise UserError(f"{folder} holds another run: {differences}. Name another folder with "
                        "--out=, or replace it with --overwrite")
    code = code_hash(config)
    if found["versions"].get("code") != code:
        print(f"{folder}: its code changed since (engine/runs.py: CODE), so it is run again")
        return None, "--overwrite"
    metrics, last = folder / "metrics.jsonl", "test" if config.test else "val"
    records = read_lines(metrics)[0] if metrics.exists() else []
    if any(record["step"] == config.max_steps for record in of_kind(records, last)):
        return records, ""
    if not (folder / "ckpt.pt").exists():
        return None, "--overwrite"
    try:                                       # it may be older than config.json
        made_by = load_checkpoint(folder / "ckpt.pt")["versions"].get("code")
    except UserError as error:                 # say, a network of other sizes
        print(f"{error}; so it is run again")
        return None, "--overwrite"
    return None, "--resume" if made_by == code else "--overwrite"


def of_kind(records, kind):
    return [record for record in records if record["kind"] == kind]


def compare(tables, seeds, runner):
    """Returns {table: {arm: its rates, best rate, records of test and val}}.

    tables: {name: its arms}.
    """
    steps, given, picks, jobs = runner.default.max_steps, runner.given, {}, {}
    found = {name: {} for name in tables}
    rates = {name: ARMS[name][2] for name in tables}
    if "learning_rate" in given:
        rates = {name: [given["learning_rate"]] for name in tables}
    arms = [(name, arm) for name in tables for arm in tables[name]]
    to_pick = [(name, arm, rate) for name, arm in arms for rate in rates[name]
               if len(rates[name]) > 1]
    runner.plan(len(to_pick), steps // 3)
    runner.plan(len(arms) * len(seeds), steps)
    for name, arm, rate in to_pick:
        picks[name, arm, rate] = runner.submit(**{ARMS[name][0]: arm}, learning_rate=rate, seed=0,
                                               max_steps=steps // 3, test="")
    for name, arm in arms:
        val = {rate: of_kind(picks[name, arm, rate].result(), "val")[-1]
               for rate in rates[name] if (name, arm, rate) in picks}
        best = rates[name][0]
        if val:
            best = max(val, key=lambda rate: (val[rate]["exact"], -val[rate]["loss"]))
        tried = {str(rate): dict(exact=m["exact"], loss=m["loss"]) for rate, m in val.items()}
        found[name][arm] = dict(rate=best, rates=tried)
        jobs[name, arm] = [runner.submit(**{ARMS[name][0]: arm}, learning_rate=best, seed=seed,
                                         max_steps=steps) for seed in seeds]
    for name, arm in arms:
        records = [job.result() for job in jobs[name, arm]]
        found[name][arm]["test"] = [of_kind(lines, "test")[0] for lines in records]
        found[name][arm]["val"] = [of_kind(lines, "val") for lines in records]
    return found


def run_tables(tables, seeds, runner, out):
    """Runs tables, {name: its arms}. Writes out/NAME.json."""
    try:
        found = compare(tables, seeds, runner)
    finally:                                   # after Ctrl-C nothing more is started
        runner.pool.shutdown(cancel_futures=True)
    minutes = (time.time() - runner.started) / 60
    for name, arms in found.items():
        stored = dict(arms=arms, steps=runner.default.max_steps, seeds=seeds, jobs=runner.jobs,
                      minutes=minutes, **about())
        (out / f"{name}.json").write_text(json.dumps(stored))


def time_steps(tables, runner):
    """Returns {arm: milliseconds of a step} on this machine, one run at a time.

    It is the median of rounds in turn, so that a slow spell of the machine does not meet one arm.
    """
    times = {}
    for _ in range(ROUNDS):
        for name, arms in tables.items():
            for arm in arms:
                folder, command = runner.command({ARMS[name][0]: arm, "max_steps": 40})
                command += ["--log_every=10", "--val=", "--test=", "--overwrite"]
                records = of_kind(runner.run(folder, command), "train")
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


def figure(path, arms, ms):
    """Draws the validation loss of each arm against minutes: mean of the seeds, and their range.

    Against steps where not every arm was timed.
    """
    plt = import_pyplot()
    timed = set(arms) <= set(ms)
    plt.figure(figsize=(6.4, 3.8))
    for arm, found in arms.items():
        unit = ms[arm] / 60000 if timed else 1
        x = [record["step"] * unit for record in found["val"][0]]
        losses = [[record["loss"] for record in curve] for curve in found["val"]]
        draw_range(plt.gca(), arm, x, list(zip(*losses)))
    plt.yscale("log")
    plt.xlabel("minutes on 2 CPU cores" if timed else "steps")
    plt.ylabel("validation loss, nats a token")
    plt.legend()
    plt.tight_layout()
    plt.savefig(path)
    plt.close()


def write(name, out):
    """Writes the table and the figure, from NAME.json and minutes.json of a folder."""
    found = read_json(out / f"{name}.json")
    ms = read_json(out / "minutes.json", dict(ms={}))["ms"]
    text = table(name, found["arms"], found["steps"], ms)
    (out / f"{name}.md").write_text(text)
    print(f"\n{text}\n{out}/{name}.md, beside it every number and the curves")
    try:
        figure(out / f"{name}.svg", found["arms"], ms)
    except UserError as error:
        print(error)


# ------------------------------------------------------------------------------------------------
# The command line


def choose_arms(names, wanted):
    """Returns {table: its arms} of the tables that are named; all arms where none is wanted."""
    if wanted and len(names) != 1:
        raise UserError(f"--arms={','.join(wanted)} belongs to one table: name it, "
                        f"{' or '.join(ARMS)}")
    tables = {name: wanted or ARMS[name][1] for name in names}
    for arm in tables.get("encodings", ()):
        describe_width(arm)                    # an encoding that cannot be built says why
    unknown = [arm for arm in tables.get("optimizers", ()) if arm not in OPTIMIZERS]
    if unknown:
        raise UserError(f"no optimizer {unknown[0]!r}; there are {', '.join(OPTIMIZERS)}")
    return tables


def main(argv):
    names, own, options = read_command(argv, OWN)
    if not names:
        sys.exit(__doc__)
    unknown = set(names) - {*ARMS, "minutes"}
    if unknown:
        raise UserError(f"no table {min(unknown)!r}; there are {', '.join(ARMS)} and minutes")
    tables = choose_arms([name for name in names if name != "minutes"], split_names(own["arms"]))
    taken = {option[2:].partition("=")[0] for option in options} & {
        "out_dir", "resume", "seed", *(ARMS[name][0] for name in tables)}
    if taken:
        raise UserError(f"--{min(taken)} is set for each run here; there are --arms=, --seeds= and "
                        "--out=")
    seeds, jobs = (read_numbers(key, own[key], least) for key, least in (("seeds", 0), ("jobs", 1)))
    out = Path(own["out"]).resolve()
    runner = Runner(out, jobs[0], options)
    out.mkdir(parents=True, exist_ok=True)
    if "minutes" in names:
        every = {name: arms for name, (_, arms, _) in ARMS.items()}
        ms = time_steps(tables or every, Runner(out, 1, options))
        stored = dict(ms=ms, cores=os.cpu_count(), **about())
        (out / "minutes.json").write_text(json.dumps(stored))
    if tables:
        run_tables(tables, seeds, runner, out)
    for name in tables or ARMS:
        if (out / f"{name}.json").exists():
            write(name, out)


if __name__ == "__main__":
    command_line(main)
