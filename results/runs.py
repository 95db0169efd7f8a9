"""What the scripts of this folder share: a run of a script, and today's names for old records.

A script imports this module first: it makes the project's own modules importable.
"""
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from config import UserError, split_names    # noqa: E402

# Names in stored records, which keep those that they were written with: knobs, then metrics.
OLD_NAMES = {
    "draft_tokens": "predict_tokens",
    "focus": "oversample",
    "fold": "holdout",
    "frame": "canvas",
    "rate_views": "rerank_views",
    "short": "downweight_above",
    "draft_cells": "prediction_cells",
    "failed_drafts": "failed_predictions",
    "focus4": "oversample4",
    "pass1_counted": "pass1_by_votes",
    "pass2_counted": "pass2_by_votes",
    "pass1_counted_before": "pass1_by_votes_before",
    "pass2_counted_before": "pass2_by_votes_before",
    "pass1_counted_after": "pass1_by_votes_after",
    "pass2_counted_after": "pass2_by_votes_after",
    "re_arc_focus4": "re_arc_oversample4",
}


def with_todays_names(value):
    """Returns a stored record, or a dict or list of them, with today's names as keys."""
    if isinstance(value, list):
        return [with_todays_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {}
    for key, item in value.items():
        renamed[OLD_NAMES.get(key, key)] = with_todays_names(item)
    return renamed


def read_json(path, default=None):
    """Returns what a JSON file holds, or the default where there is no such file."""
    path = Path(path)
    if default is not None and not path.exists():
        return default
    return json.loads(path.read_text())


def read_lines(path):
    """Returns (the records of a metrics.jsonl, how many of its lines are damaged and left out)."""
    records, damaged = [], 0
    for line in Path(path).read_bytes().splitlines():
        try:
            record = json.loads(line)
            records.append({**record, "kind": record["kind"]})
        except (ValueError, TypeError, KeyError):
            damaged += 1
    return records, damaged


def run_script(command, folder, env=None):
    """Runs `python COMMAND` in a process of its own. Returns the records of folder/metrics.jsonl.

    The process runs at the top of the project. Where it fails: SystemExit with what it printed.
    """
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, text=True,
                          capture_output=True)
    if done.returncode:
        printed = done.stdout[-2000:] + done.stderr[-3000:]
        raise SystemExit(f"python {' '.join(command)}\n{printed}")
    return read_lines(folder / "metrics.jsonl")[0]


def as_options(knobs):
    """Returns knobs as arguments of a command line."""
    return [f"--{key}={value}" for key, value in knobs.items()]


def read_command(argv, own):
    """Splits the arguments of a script. Returns (names, values of its own options, other options).

    own: {name of an option: its default}.
    """
    names, found, others = [], dict(own), []
    for arg in argv:
        key, _, value = arg[2:].partition("=")
        if not arg.startswith("--"):
            names.append(arg)
        elif key in own:
            found[key] = value
        else:
            others.append(arg)
    return names, found, others


def read_numbers(key, text, least):
    """Returns the numbers of an option, "1,2,3"."""
    names = split_names(text)
    if not names or not all(name.isdecimal() and int(name) >= least for name in names):
        raise UserError(f"--{key}={text}: whole numbers from {least} on, such as --{key}=1,2")
    return list(map(int, names))


def mean(values):
    return sum(values) / len(values)


def spread(values, form="{:.1%}"):
    """Returns values as text: mean (lowest .. highest)."""
    middle, low, high = (form.format(f(values)) for f in (mean, min, max))
    return f"{middle} ({low} .. {high})"


def import_pyplot():
    """Returns matplotlib.pyplot, which draws into files. UserError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("no figure: it needs matplotlib (pip install matplotlib)") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    return plt


def draw_range(axes, label, x, values):
    """Draws the mean of several runs and their range. values: at each x, those of the runs."""
    axes.plot(x, list(map(mean, values)), label=label)
    axes.fill_between(x, list(map(min, values)), list(map(max, values)), alpha=0.2)


def command_line(main):
    """Runs a script; one line for what its user can mend."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
