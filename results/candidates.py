"""Which grids a finished network finds, by greedy views and by samples, and which it ranks first.

    python results/candidates.py config/arc1_best.py --samples=32 --views=32

After train.py with the same knobs; the answers of its test tasks must be known. All grids are
judged under rerank_views views. --snapshots=12000,16000 adds the greedy answers of snapshots
(keep_every). --out=FILE.json.gz writes a row for each grid: [is it right; in how many of the first
8, 16 and of all views it is the greedy answer; the same of samples; in how many views a snapshot
answers it; mean negative log-likelihood in nats under 4 views, and under all].
"""
import dataclasses
import gzip
import json
import sys
import time
from collections import Counter, defaultdict

import numpy as np

from runs import read_command                  # first: it finds the project
from arc.score import by_query, grid_key, same
from arc.sources import load_data
from config import load_config
from engine.checkpoints import load_checkpoint, rebuild, snapshot_name, task_rows
from engine.devices import pick_device
from engine.predict import Predictor, make_queries


def rows_of(tasks, sources, judged):
    """Returns {"task/test": [row of each grid]}.

    sources: {name: Predictions}; judged: {(task id, test): {grid key: nats under each view}}.
    """
    grouped, found = {name: by_query(p) for name, p in sources.items()}, {}
    for task in tasks:
        for i, (_, answer) in enumerate(task.test):
            key, views = (task.id, i), defaultdict(lambda: defaultdict(list))
            grids = {}
            for source, predictions in grouped.items():
                for p in predictions[key]:
                    if p.grid is not None:
                        grids[grid_key(p.grid)] = p.grid
                        views[grid_key(p.grid)][source].append(p.view)
            found[f"{task.id}/{i}"] = rows = []
            for name, grid in grids.items():
                own, counts = views[name], []
                for source in ("greedy", "samples"):
                    counts += [sum(view < n for view in own[source]) for n in (8, 16, np.inf)]
                more = [len(own[source]) for source in [*sources][2:]]      # snapshots
                nats = judged[key].get(name)
                means = [None, None] if nats is None else [np.mean(nats[:4]), np.mean(nats)]
                rows.append([int(same(grid, answer)), *counts, *more, *means])
    return found


def judge(predictor, tasks, sources):
    """Returns {(task id, test): {grid key: nats under each of rerank_views views}} of all grids."""
    grids = defaultdict(dict)
    for predictions in sources.values():
        for p in predictions:
            if p.grid is not None and predictor.fits(p.grid):
                grids[p.key].setdefault(grid_key(p.grid), p.grid)
    queries = [query._replace(proposal=grid)
               for query in make_queries(tasks, predictor.config.rerank_views, predictor.config)
               for grid in grids[query.key].values()]
    judged = defaultdict(lambda: defaultdict(list))
    if queries:
        scores = predictor.judge(queries)
        for query, nats, tokens in zip(queries, scores["nll"], scores["tokens"]):
            if tokens:                         # none: it does not fit under this view
                judged[query.key][grid_key(query.proposal)].append(nats)
    return judged


def pass2(rows, chosen):
    """Returns (pass@2, oracle) of the candidates for which chosen(row), likeliest first."""
    scores = defaultdict(list)
    for key, candidates in rows.items():
        kept = sorted((row for row in candidates if chosen(row)),
                      key=lambda row: np.inf if row[-1] is None else row[-1])
        right = [row[0] for row in kept]
        scores[key.rpartition("/")[0]].append((any(right[:2]), any(right)))
    return np.mean([np.mean(found, 0) for found in scores.values()], 0)


def main(argv):
    _, own, options = read_command(argv, dict(snapshots="", out=""))
    config, _ = load_config([*argv[:1], *options])
    device, _ = pick_device(config)
    checkpoint = load_checkpoint(f"{config.out_dir}/ckpt.pt")
    tasks = load_data(dataclasses.replace(config, eval_only=True)).test
    row_of = task_rows(checkpoint["task_ids"], tasks)
    predictor = Predictor(rebuild(checkpoint, device), config, row_of, device)
    sources, seconds, started = {}, Counter(), time.time()

    def add(name, predictions):
        nonlocal started
        sources[name] = predictions
        seconds[name], started = round(time.time() - started, 1), time.time()
    add("greedy", predictor.predict(tasks, config.views))
    add("samples", predictor.sample(tasks))
    for step in filter(None, own["snapshots"].split(",")):
        snapshot = load_checkpoint(f"{config.out_dir}/{snapshot_name(int(step))}")
        drafter = Predictor(rebuild(snapshot, device), config, row_of, device)
        queries = make_queries(tasks, config.views, config)
        proposed = drafter.propose(queries, sources["greedy"])
        add(f"step {step}", drafter.predict_queries(proposed))
    rows = rows_of(tasks, sources, judge(predictor, tasks, sources))
    print("| candidates | pass@2 | some is right |\n| --- | --- | --- |")
    arms = {"greedy, 16 views": lambda row: row[2], "greedy, all views": lambda row: row[3],
            "samples alone": lambda row: row[6], "greedy and samples": lambda row: row[3] or row[6],
            "all": lambda row: True}
    for name, chosen in arms.items():
        print(f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in pass2(rows, chosen))
              + " |")
    print("seconds:", dict(seconds))
    if own["out"]:
        with gzip.open(own["out"], "wt") as file:
            json.dump(dict(sources=[*sources], seconds=seconds, queries=rows), file, default=float)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
