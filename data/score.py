"""Drafts -> votes -> score -> submission.json.

A test input is drafted once under each view; drafts are turned back and vote. Score: the share of a task's test inputs
answered exactly by one of k attempts (partial credit), averaged over tasks: pass@k.
"""
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.arc import decode_grid, grid_key, mended, untransform, unview


class Draft(NamedTuple):
    task: str
    test: int                      # number of the test input
    view: int                      # 0 is the task as it is
    grid: object                   # (H, W) in the task's own orientation and colours; None: failed
    logp: float                    # mean log-probability of its tokens
    sure: object = None            # (H, W) log-probability of each cell
    weight: float = 1.0            # of its vote
    share: object = None           # (H, W) vote share of each cell, see shares


def as_draft(task, test, view, symmetry, table, answer, mend=False):
    """An Answer of model.generate, turned back from its view. mend: a broken rectangle is repaired (arc.mended)."""
    if answer is None:
        return Draft(task, test, view, None, -np.inf)
    tokens, sure = answer.tokens, answer.logps[:-1]
    grid = decode_grid(tokens) if len(tokens) else None
    if grid is None and mend and len(tokens):
        tokens, sure = mended(tokens, sure)
        grid = decode_grid(tokens)
    if grid is None:
        return Draft(task, test, view, None, float(np.mean(answer.logps)))
    sure = sure.reshape(len(grid), -1)[:, :-1]
    return Draft(task, test, view, unview(grid, symmetry, table), float(np.mean(answer.logps)),
                 untransform(sure, symmetry))


def vote(drafts):
    """Different grids, best first: by the weights of the views that drafted it (1 each, if nothing rated them), then the mean
    log-probability of those drafts, then the earliest view. Drafts that are no grid do not vote."""
    votes = defaultdict(list)
    for draft in drafts:
        if draft.grid is not None:
            votes[grid_key(draft.grid)].append(draft)
    ranked = sorted(votes.values(), key=lambda v: (-sum(d.weight for d in v), -np.mean([d.logp for d in v]), min(d.view for d in v)))
    return [group[0].grid for group in ranked]


def shares(drafts, asked):
    """The drafts with their vote shares: of each cell, the share of the query's views that drafted a grid of the same shape and this colour there. A
    draft stands for its own view, so it counts itself, and with one view the share is 1. Of few views to learn from and of many in use it means
    the same. asked: of each draft (task number, query number, view, ...); of several drafts of one view the first votes on other views'."""
    votes, out = defaultdict(dict), []
    for draft, (t, i, view, *_) in zip(drafts, asked):
        votes[t, i].setdefault(view, draft.grid)
    for draft, (t, i, view, *_) in zip(drafts, asked):
        if (found := draft.grid) is not None:
            grids = {**votes[t, i], view: found}.values()      # a view that drafted no grid is a view too
            draft = draft._replace(share=sum(g == found for g in grids if g is not None and g.shape == found.shape) / len(grids))
        out.append(draft)
    return out


def same(grid, answer):
    return grid is not None and grid.shape == answer.shape and bool((grid == answer).all())


def score(tasks, drafts, attempts=None):
    """-> (metrics, {(task id, test number): grids as voted, or `attempts`, where they were ranked otherwise}). Metrics are over the test
    inputs whose answer is known, each task counting once: pass@1 of the plain view and of a view on average, pass@1 and pass@2 voted, the
    oracle (some view drafted it), cell accuracy of the plain view (0 where the shape is wrong), share of drafts that are no grid; tasks: how
    many."""
    by_input, results = defaultdict(list), defaultdict(list)
    for draft in drafts:
        by_input[draft.task, draft.test].append(draft)
    attempts = attempts or {key: vote(group) for key, group in by_input.items()}
    for task in tasks:
        rows = []
        for i, (_, answer) in enumerate(task.test):
            if answer is None:
                continue
            group, ranked = by_input[task.id, i], attempts.get((task.id, i), [])
            plain = next((d.grid for d in group if d.view == 0), None)
            right, voted = [same(d.grid, answer) for d in group], [same(g, answer) for g in ranked]
            rows.append((same(plain, answer), np.mean(right or [False]), any(voted[:1]), any(voted[:2]), any(voted),
                         float((plain == answer).mean()) if plain is not None and plain.shape == answer.shape else 0.0))
        if rows:
            for name, value in zip(("pass1_single", "pass1_view", "pass1", "pass2", "oracle", "draft_cells"), np.mean(rows, axis=0)):
                results[name].append(float(value))
    metrics = {name: float(np.mean(values)) for name, values in results.items()}
    metrics["failed_drafts"] = float(np.mean([d.grid is None for d in drafts])) if drafts else 0.0
    return {**metrics, "tasks": len(results["pass1"])}, attempts


def submission(tasks, attempts):
    """Kaggle's form: {task: [{"attempt_1": grid, "attempt_2": grid} for each test input]}. An attempt that is missing repeats the
    first, or is [[0]]."""
    out = {}
    for task in tasks:
        out[task.id] = []
        for i in range(len(task.test)):
            found = [grid.tolist() for grid in attempts.get((task.id, i), [])[:2]] or [[[0]]]
            out[task.id].append({"attempt_1": found[0], "attempt_2": found[-1]})
    return out


def write_text(path, text):
    """The whole file or nothing: what was there stays until all is written."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text, "utf-8", "replace")             # a task id of JSON may hold half a character
    temporary.replace(path)


def write_json(path, what):
    write_text(path, json.dumps(what))
