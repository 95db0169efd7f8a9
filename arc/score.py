"""Predictions -> votes -> score -> submission.json.

    python -m arc.score SUBMISSION TASKS       # scores a submission.json or .json.gz again

A test input is predicted once under each view. Predictions are turned back into the task's own
orientation and colors, and vote. The score is pass@k: the share of a task's test inputs that one of
k attempts answers exactly (partial credit), averaged over tasks.
"""
import os
import sys
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from arc.sources import check_grid, check_ids, first_of, load_tasks, plain, read_json
from arc.tokens import decode_grid
from arc.views import unview_grid
from config import UserError


class Prediction(NamedTuple):
    """What the network answered to one query, in the task's own orientation and colors."""
    task: str                                  # id
    test: int                                  # number of the test input
    view: int                                  # 0 is the task as it is
    grid: object                               # (H, W) uint8; None: no grid came of it
    logprob: float                             # mean log-probability of its tokens, nats

    @property
    def key(self):
        """As a Query's."""
        return self.task, self.test


def to_prediction(query, answer):
    """Returns the Prediction of a query from an Answer of model.generate, or from None."""
    grid, logprob = None, -np.inf
    if answer is not None:
        logprob = float(np.mean(answer.logprobs))
        grid = decode_grid(answer.tokens)
    if grid is not None:
        grid = unview_grid(grid, query.symmetry, query.colors)
    return Prediction(query.task.id, query.test, query.view, grid, logprob)


def grid_key(grid):
    """Returns what two grids share if and only if they are the same."""
    return grid.shape, grid.tobytes()


def same(grid, target):
    """Returns whether a grid, or None, equals the target."""
    return np.array_equal(grid, target)


def vote(predictions):
    """Returns the different grids among the predictions of one query, best first.

    Order: the number of predictions, then their mean log-probability, then the earliest view.
    Predictions that are no grid do not vote.
    """
    groups = defaultdict(list)
    for prediction in predictions:
        if prediction.grid is not None:
            groups[grid_key(prediction.grid)].append(prediction)

    def rank(group):
        logprob = np.mean([p.logprob for p in group])
        return -len(group), -logprob, min(p.view for p in group)
    return [group[0].grid for group in sorted(groups.values(), key=rank)]


def by_query(predictions):
    """Returns {(task id, test number): predictions of that query}."""
    groups = defaultdict(list)
    for prediction in predictions:
        groups[prediction.key].append(prediction)
    return groups


def attempts_by_votes(predictions):
    """Returns the attempts {(task id, test number): grids in the order of `vote`}."""
    return {key: vote(group) for key, group in by_query(predictions).items()}


def score(tasks, predictions, attempts):
    """Returns the metrics of predictions and attempts over the test inputs whose answer is known.

    Each task counts once. pass1_single: the plain view; pass1_view: a view on average; pass1 and
    pass2: attempts; oracle: some attempt; prediction_cells: cell accuracy of the plain view, 0 for
    a wrong shape; failed_predictions: share that is no grid; tasks: how many were scored.
    """
    predicted, means = by_query(predictions), []
    for task in tasks:
        rows = []
        for i, (_, target) in enumerate(task.test):
            if target is not None:
                key = task.id, i
                rows.append(score_query(target, predicted[key], attempts.get(key, [])))
        if rows:
            means.append(mean_of(rows))
    failed = [p.grid is None for p in predictions] or [False]
    return {**mean_of(means), "failed_predictions": float(np.mean(failed)), "tasks": len(means)}


def mean_of(rows):
    """Returns the mean of each metric over rows {metric: value}; nothing where there are none."""
    names = rows[0] if rows else ()
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def score_query(target, predictions, grids):
    """Returns the metrics of one query: its predictions in all views, its attempts best first."""
    in_plain_view = next((p.grid for p in predictions if p.view == 0), None)
    in_views = [same(p.grid, target) for p in predictions]
    attempted = [same(grid, target) for grid in grids]
    comparable = np.shape(in_plain_view) == target.shape
    return {
        "pass1_single": same(in_plain_view, target),
        "pass1_view": np.mean(in_views or [False]),
        "pass1": any(attempted[:1]),
        "pass2": any(attempted[:2]),
        "oracle": any(attempted),
        "prediction_cells": (in_plain_view == target).mean() if comparable else 0.0,
    }


def submission(tasks, attempts):
    """Returns Kaggle's form: {task id: [{"attempt_1": grid, "attempt_2": grid} per test input]}.

    A missing second attempt repeats the first; without any attempt both are [[0]].
    """
    out = {}
    for task in tasks:
        out[task.id] = []
        for i in range(len(task.test)):
            grids = [grid.tolist() for grid in attempts.get((task.id, i), [])[:2]] or [[[0]]]
            out[task.id].append({"attempt_1": grids[0], "attempt_2": grids[-1]})
    return out


# ------------------------------------------------------------------------------------------------
# A submission that was written before


def is_empty(grids):
    """Returns whether a row of `read_submission` is no attempt; `submission` then writes [[0]]."""
    return all(grid is None or grid.tolist() == [[0]] for grid in grids)


def read_submission(path):
    """Returns {task id: [[grid, grid] of each test input]}; None where there is no attempt."""
    raw, where, found = read_json(path), plain(path), {}
    try:
        for name, rows in raw.items():
            found[name] = [[row.get(key) for key in ("attempt_1", "attempt_2")] for row in rows]
            if not all({"attempt_1", "attempt_2"} & row.keys() for row in rows):
                raise TypeError
    except (AttributeError, TypeError):
        raise UserError(f"{where}: expected {{task id: [{{'attempt_1': grid, 'attempt_2': grid}} "
                        "of each test input]}") from None
    for name, rows in found.items():
        for i, grids in enumerate(rows):
            place = f"{where}, task {plain(name)}, test input {i}, attempt_"
            rows[i] = [check_grid(grid, f"{place}{k}") if grid else None
                       for k, grid in enumerate(grids, 1)]
    return found


def main(argv=None):
    """Scores a submission over all tasks that a source asks. Returns the metrics."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv:
        print(__doc__)
        return None
    if len(argv) != 2:
        raise UserError("it takes two arguments: python -m arc.score SUBMISSION TASKS")
    if not os.path.lexists(argv[0]):
        raise UserError(f"{plain(argv[0])}: no such submission; train.py writes submission.json "
                        "into its out_dir")
    found, lines = read_submission(argv[0]), []
    tasks = load_tasks(argv[1], lines=lines)
    check_ids(tasks, argv[1])
    attempts = {(name, i): grids for name, rows in found.items() for i, grids in enumerate(rows)}
    metrics = score(tasks, [], attempts)
    asked = {task.id: len(task.test) for task in tasks}
    if found and not asked.keys() & found.keys():
        raise UserError(f"{argv[0]} answers none of the tasks of {argv[1]}: another file?")
    empty = [is_empty(attempts.get((name, i), []))
             for name, count in asked.items() for i in range(count)]
    not_asked = [plain(name) for name, rows in found.items() if len(rows) > asked.get(name, -1)]
    lines += [f"{name}: {metrics[name]:.4f}" for name in ("pass1", "pass2") if name in metrics]
    lines += [f"scored: {metrics['tasks']} of {len(tasks)} tasks, those whose answers are known",
              f"without an attempt, or [[0]]: {sum(empty)} of {len(empty)} queries",
              f"not asked for: {len(not_asked)} ids {first_of(not_asked)}".rstrip()]
    print("\n".join(lines))
    return metrics


if __name__ == "__main__":
    try:
        main()
    except (OSError, UserError) as error:
        sys.exit(f"error: {error}")
