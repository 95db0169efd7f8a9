"""Curves of several runs: the mean, the least and the most at each step, as a table and a figure.

    python results/curves.py RUN [RUN ...] [--out=curves.svg]

RUN is the folder of a run, or a metrics.jsonl. Runs whose config.json differ by the seed alone make
one curve. The figure needs matplotlib.
"""
import json
import sys
from dataclasses import fields
from pathlib import Path

from runs import (command_line, draw_range, import_pyplot, read_command, read_json, read_lines,
                  spread, with_todays_names)
from config import Config, UserError

SEED = {"seed", "out_dir", "overwrite", "resume"}    # in these the runs of one curve may differ


def read_run(name):
    """Returns (the records of a run, a text that runs of one curve share)."""
    path = Path(name, "metrics.jsonl") if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the folders of runs, or their metrics.jsonl")
    records, damaged = read_lines(path)
    if damaged:
        print(f"{path}: damaged lines left out: {damaged}")
    config = with_todays_names(read_json(path.with_name("config.json"), {}))
    knobs = {f.name: config.get(f.name) for f in fields(Config) if f.name not in SEED}
    return with_todays_names(records), json.dumps(knobs) if config else str(path)


def group(names):
    """Returns {label: the records of each of its runs}."""
    found, label_of = {}, {}
    for name in names:
        records, shared = read_run(name)
        found.setdefault(label_of.setdefault(shared, name), []).append(records)
    return {f"{label}, runs: {len(runs)}": runs for label, runs in found.items()}


def by_step(runs, kind, key):
    """Returns {step: the values of the runs that have one}."""
    found = {}
    for i, records in enumerate(runs):
        for record in records:                 # of a step that was recorded twice the last counts
            if record["kind"] == kind and key in record and "step" in record:
                found.setdefault(record["step"], {})[i] = record[key]
    return {step: list(values.values()) for step, values in sorted(found.items())}


def table(runs):
    """Returns val at each step as a table in Markdown, and the scores of test below it."""
    lines = ["| step | runs | exact on val | loss on val |", "| --- | --- | --- | --- |"]
    losses = by_step(runs, "val", "loss")
    for step, exact in by_step(runs, "val", "exact").items():
        loss = spread(losses[step], "{:.3f}")
        lines.append(f"| {step} | {len(exact)} | {spread(exact)} | {loss} |")
    lines.append("")
    for key in ("exact", "pass1", "pass2", "pass2_before", "pass2_after"):
        for step, scores in by_step(runs, "test", key).items():
            lines.append(f"- test at step {step}, {key}: {spread(scores)}")
    return "\n".join(lines)


def draw(groups, path):
    plt = import_pyplot()
    for axes, key in zip(plt.subplots(1, 2, figsize=(9, 3.8))[1], ("loss", "exact")):
        for label, runs in groups.items():
            values = by_step(runs, "val", key)
            draw_range(axes, label, list(values), list(values.values()))
        axes.set(xlabel="steps", ylabel=f"{key} on val")
    axes.legend(fontsize=6)
    plt.tight_layout()
    plt.savefig(path)


def main(argv):
    names, own, others = read_command(argv, dict(out="curves.svg"))
    if not names or others:
        sys.exit(__doc__)
    groups = group(names)
    for label, runs in groups.items():
        print(f"\n{label}\n\n{table(runs)}")
    draw(groups, own["out"])


if __name__ == "__main__":
    command_line(main)
