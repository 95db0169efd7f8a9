"""Train the network further on its own mistakes: it reads a draft of the answer, then answers.

    python train.py config/quadtree.py && python refine.py config/quadtree.py    # before and after
    python refine.py config/quadtree.py --eval_only --tasks=FILE                 # solve a task file

The refinement network is the network of train.py, going on from its checkpoint, on documents that
may hold a draft between the query's input and its answer: demonstrations, input, draft, answer.
(Input, draft) is a pair of its own, and the answer's pair has no input. Drafts are answers of the
network before refinement, to tasks that it never saw. (With refine_snapshots they are answers of
its early snapshots, to pairs that it learned later.) Most are wrong; a share of refine_right are
right, and it learns to keep those. Every second step has no draft: it goes on learning what
train.py teaches.
"""
import signal

if __name__ == "__main__":                     # Ctrl-C while torch is imported: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import dataclasses
import hashlib
import time
from functools import partial
from pathlib import Path

from config import UserError      # before torch, as in train.py
import numpy as np
import torch

from arc import show
from arc.leaks import allowed_colors, guard, is_banned, shows
from arc.report import NEAR, write_report
from arc.score import attempts_by_votes, same, submission
from arc.sources import canvas_lines, check_grid, drawer, fingerprint, load_data, load_tasks
from arc.task import Query, Task, known_pairs
from arc.views import IDENTITY, SYMMETRIES, fixed_colors
from engine.batches import Generated, TrainingStep, split_pairs, training_stream
from engine.checkpoints import (MAY_CHANGE, as_trained, check_trained_on, differing,
                                keys_trained_on, load_checkpoint, rebuild, snapshot_name, task_rows)
from engine.optim import Optimizer, averaged
from engine.predict import Predictor, known_queries, make_queries
from engine.runs import (Log, Run, announce, check_folder, clock, command_line, set_up,
                         solving_folder, take_folder, write_config)
from model import GPT, ModelConfig
from train import fit

DRAFTS = 4                                     # grids of a query that are read as drafts


def main(argv=None):
    """Runs with the arguments of a command line. Returns the metrics."""
    # ---- set-up, as in train.py; `base` is the checkpoint that training goes on from
    started = time.time()
    config, given, device, machine = set_up(argv)
    config, base = load_base(config, given)
    config, checkpoint = load_refined(config, given, base)
    config = solving_folder(config, base["config"])
    check_folder(config)
    log = Log(config.out_dir, config.tensorboard)

    # ---- data
    data = load_data(config)
    data.lines.extend(canvas_lines(data.val + data.test, base["model_config"]["canvas"]))
    row_of = task_rows(base["task_ids"], data.train + data.val + data.test)
    check_trained_on(config, data.val + data.test, row_of)
    tasks = [] if config.eval_only else tasks_to_draft(config, data, base)
    stored = stored_drafts(checkpoint, tasks) if config.resume else None

    # ---- model, optimizer, resume
    run = build_run(base, checkpoint, config, device, log, fingerprint(data, tasks))
    drafter = Predictor(rebuild(base, device), config, row_of, device, log)
    refiner = Predictor(run.model, config, row_of, device, log)
    drafters = {} if config.eval_only or stored else drafting_networks(drafter, base)
    fresh = None if config.eval_only else training_stream(config, data, row_of, device)
    take_folder(config)                        # set-up succeeded
    announce(data, run.model, log, machine, base, checkpoint)
    log(f"base network: {base['path']}, step {base['step']}; {config.refine_steps} steps more, of "
        f"{config.batch_tokens} tokens, {config.optimizer}, learning rate {config.learning_rate}, "
        f"seed {config.seed}" + (f"; resumed at step {run.step}" if config.resume else ""))

    # ---- fit, on drafts and without in turn
    metrics, attempts, base_attempts = {}, {}, {}
    write_config(log, config, given, machine, argv, canvas=refiner.canvas, dropped=data.dropped,
                 data=run.data)
    if not config.eval_only:
        run.extra["drafts"] = stored or make_drafts(drafters, tasks, config, log)
        # snapshots draft demonstrations of val and test, too, which train.py's own stream shows
        banned = fresh.banned if config.refine_snapshots else data.banned
        drafts = Drafts(run.extra["drafts"], tasks, banned, drafter)
        run.trained_keys = keys_trained_on([*fresh.pairs, *drafts.pairs], base)
        queries = known_queries(data.val, config)
        queries = with_drafts(queries, drafter.predict_queries(queries))
        fit(run, partial(alternate, fresh, drafts),
            partial(validate, refiner, queries) if queries else None)
        metrics["train_minutes"] = run.seconds / 60

    # ---- predict and score, with the averaged weights (--eval_only has loaded nothing else)
    if data.test:
        with averaged(run.model, run.optimizer):
            scores, attempts, base_attempts = predict_and_score(drafter, refiner, data.test,
                                                                run.step)
        metrics.update(scores)

    # ---- summary
    log.summarize(metrics, started, "compare in refine.py, and arc/score.py")
    write_report(log, config, metrics, data.test, attempts, base_attempts)
    return metrics


class Refiner(GPT):
    """The network of train.py with one pair index more, for the answer that follows a draft.

    A class of its own, as checkpoints hold its name: train.py and refine.py refuse each other's.
    """


def add_draft_pair(model, optimizer):
    """Adds a pair index to the network and to the optimizer's state: a copy of the last one.

    Without a draft the network answers as before.
    """
    table = model.segment.weight

    def grow(rows):
        return torch.cat([rows, rows[-2:]])    # the last pair's two segments: input and output
    for part in optimizer.parts:
        state = part.state.get(table, {})
        for key, value in state.items():       # what has a row for each segment; no counters
            if isinstance(value, torch.Tensor) and value.shape[:1] == table.shape[:1]:
                state[key] = grow(value)
    table.data = grow(table.data)
    model.segment.num_embeddings += 2
    model.config = dataclasses.replace(model.config, n_pairs=model.config.n_pairs + 1)


def build_run(base, checkpoint, config, device, log, data):
    """Returns the Run that goes on from the base network, or from a refinement checkpoint."""
    model = Refiner(ModelConfig(**base["model_config"])).to(device)
    optimizer = Optimizer(model, config)
    if not config.eval_only:
        model.load_state_dict(base["training"])
        optimizer.restore(base)
    add_draft_pair(model, optimizer)
    run = Run(config, model, optimizer, base["task_ids"], log, data)
    run.first_step = run.step = base["step"]
    run.extra = dict(base=base["hash"])
    if config.resume:
        run.resume(checkpoint)
    elif checkpoint:
        model.load_state_dict(checkpoint["model"])
        run.step = checkpoint["step"]
    return run


# ------------------------------------------------------------------------------------------------
# Drafts to learn from


def tasks_to_draft(config, data, base):
    """Returns tasks whose test inputs are drafted; their answers are known, their ids unique.

    With `refine_snapshots` early snapshots draft pairs that the base network learned later. Else
    the base network itself drafts, and it may not have trained on one of them.
    """
    if config.refine_snapshots:
        return trained_tasks(config, data)
    return unseen_tasks(config, data, base)[:config.refine_tasks]


def unseen_tasks(config, data, base):
    """Returns tasks whose test pairs neither val nor test holds, nor what the base network learned.

    With `holdout` these are the pairs that train.py kept out; else tasks of refine_train. UserError
    where a pair was trained on, cell for cell: its draft would be the answer, and teach to copy.
    Recolored or turned ones may come, without holdout.
    """
    path, seen = base["path"], {*data.banned, *map(bytes.fromhex, base["trained_keys"])}
    if config.holdout:
        tasks = []
        for task in data.train:
            trained, kept_out = split_pairs(task, config, data)
            tasks.append(task._replace(train=trained, test=kept_out))
    elif not config.demos:
        raise UserError("demos = 0: this network knows the tasks it was trained on and no other, "
                        "and all their pairs. Train it with --keep_every=N, and name early "
                        "snapshots by --refine_snapshots=N; or train it with --holdout=0/8, and "
                        "refine it with the same: the pairs held out are drafted")
    elif config.refine_train == "oned":
        stream = Generated(config, data.families, seen, "refine")
        # task n is the first document of step n of this stream, so it follows from (seed, n)
        documents = (next(stream.documents(n))[0] for n in range(config.refine_tasks))
        tasks = [Task(f"oned/refine-{n}", pairs[:-1], pairs[-1:])
                 for n, pairs in enumerate(documents)]
    else:
        draw = drawer(config, f"refine/{config.seed}", data.families)
        tasks = load_tasks(config.refine_train, draw, data.lines)
        tasks, _, _ = guard(tasks, data.val + data.test + data.train)
    usable = []
    for task in tasks:
        known = [pair for pair in task.test if pair[1] is not None]
        if known and task.train:               # without demonstrations the rule is unknown
            usable.append(task._replace(test=known))
        if any(is_banned(pair, seen) for pair in known):
            raise UserError(f"{path}: task {task.id} has a query that this network trained on, or "
                            "that val or test holds; its draft would leak the answer. Draft other "
                            "tasks: --refine_train=; or train it with --holdout")
    if not usable:
        raise UserError(f"{path}: nothing to draft for: no task of refine_train has demonstrations "
                        "and a known answer")
    return usable


def trained_tasks(config, data):
    """Returns tasks whose queries are pairs that the base network was trained on.

    Demonstrations of val and test come first; no more tasks once there are refine_tasks pairs.
    """
    if config.demos:
        raise UserError("refine_snapshots is for rules in the weights (demos = 0): leave it empty, "
                        "and new tasks are drafted")
    tasks, count = [], 0
    for task in sorted(data.train, key=lambda task: task.id not in data.protected):
        pairs, _ = split_pairs(task, config, data)
        if pairs and count < config.refine_tasks:
            tasks.append(task._replace(train=pairs, test=pairs))
            count += len(pairs)
    return tasks


def drafting_networks(drafter, base):
    """Returns {path: Predictor}: of the base network, or of early snapshots of its run."""
    config, found = drafter.config, {}
    if not config.refine_snapshots:
        return {base["path"]: drafter}
    for step in config.refine_snapshots.split(","):
        if not step.strip().isdecimal():
            raise UserError(f"refine_snapshots = {config.refine_snapshots!r}: name steps, joined "
                            "by commas, such as 300,600")
        path = base["path"].parent / snapshot_name(int(step))
        snapshot = load_checkpoint(path, cure="name steps of which train.py kept a snapshot: "
                                              "--keep_every=N makes it")
        if snapshot["task_ids"] != base["task_ids"]:
            raise UserError(f"{path}: of another run than {base['path']}: it knows other tasks")
        found[path] = Predictor(rebuild(snapshot, drafter.device), config, drafter.row_of,
                                drafter.device, drafter.log)
    return found


def make_drafts(drafters, tasks, config, log):
    """Returns drafts [(number of the task, of its test input, grid as lists)], most of them wrong.

    drafters: {path: Predictor}.
    """
    drafts = []
    for path, drafter in drafters.items():
        drafts += answers_to(tasks, drafter, path)
    wrong = sum(not same(grid, tasks[n].test[i][1]) for n, i, grid in drafts)
    names = ", ".join(map(str, drafters))
    if not drafts:
        raise UserError(f"{names}: no answer to {len(tasks)} tasks is a grid, so there is nothing "
                        "to correct; run train.py for more steps first (--max_steps=)")
    if not wrong:
        raise UserError(f"{names}: of {len(tasks)} tasks none is answered "
                        "with a wrong grid, so there is nothing to learn from. More: "
                        f"--refine_tasks (now {config.refine_tasks}), or hold out more, such as "
                        "--holdout=0/2; or earlier networks: --refine_from=, --refine_snapshots=")
    log(f"drafts to learn from: {wrong} wrong, {len(drafts) - wrong} right")
    return drafts


def answers_to(tasks, drafter, path):
    """Returns a network's answers as drafts, see `make_drafts`.

    It decodes the tasks that it fails in the plain view, and as many others.
    """
    started, config, log = time.time(), drafter.config, drafter.log
    queries = known_queries(tasks, config)
    _, exact = drafter.judge_targets(queries)
    failed = {query.task.id for query, right in zip(queries, exact) if not right}
    hard = [task for task in tasks if task.id in failed]
    easy = [task for task in tasks if task.id not in failed]
    chosen = hard + easy[:max(len(hard), config.refine_tasks // 10)]
    attempts = attempts_by_votes(drafter.predict(chosen, config.refine_views))
    log(f"{path}: fails {len(hard)} of {len(tasks)} tasks; {clock(time.time() - started)}")
    found = []
    for n, task in enumerate(tasks):
        for i in range(len(task.test)):
            grids = filter(drafter.fits, attempts.get((task.id, i), []))
            found += [(n, i, grid.tolist()) for grid in grids]
    return found


def stored_drafts(checkpoint, tasks):
    """Returns the drafts of a refinement checkpoint, as `make_drafts` does."""
    try:
        for n, i, grid in checkpoint["drafts"]:
            check_grid(grid, "a draft")
            tasks[n].test[i]
        if not checkpoint["drafts"]:
            raise ValueError("there is none")
    except Exception as error:
        raise UserError(f"{checkpoint['path']}: its drafts are damaged, or of other tasks "
                        f"({error}); train it anew with --overwrite") from None
    return checkpoint["drafts"]


class Drafts:
    """The documents that hold a draft, encoded once; a training step draws from them."""

    def __init__(self, drafts, tasks, banned, drafter):
        """banned: keys of the pairs that no document may show, recolored either."""
        self.config, self.banned = drafter.config, banned
        c = self.config
        drafted = {n for n, _, _ in drafts}
        self.pairs = [pair for n in sorted(drafted) for pair in known_pairs(tasks[n])]
        queries = []
        for n, i, grid in drafts:
            target, grid = tasks[n].test[i][1], np.array(grid, np.uint8)
            shown = tuple(range(len(tasks[n].train)))[:c.demos]
            for symmetry in range(SYMMETRIES if c.symmetries else 1):
                query = Query(tasks[n], i, 0, symmetry, IDENTITY, shown, target, grid)
                if not shows(banned, shown_pairs(query), symmetry, IDENTITY):
                    queries.append(query)
        self.set = drafter.query_set(queries)
        self.queries = [queries[q] for q in self.set.fitting]
        self.lengths = self.set.documents.lengths()
        # refine_right of the chances go to right drafts, the rest to wrong ones
        right = np.array([same(query.draft, query.target) for query in self.queries], bool)
        share = np.where(right, c.refine_right, 1 - c.refine_right)
        share = share / np.where(right, right.sum(), (~right).sum())
        if not share.any():
            raise UserError(f"no draft can be shown: refine_right = {c.refine_right} of them are "
                            f"right, and max_answer = {c.max_answer} is kept free of max_len = "
                            f"{c.max_len}; raise --max_len, or change --refine_right")
        self.chances = share / share.sum()     # of each document

    def step(self, step):
        """Returns the TrainingStep of step i, which follows from (seed, i)."""
        c = self.config
        rng = np.random.default_rng([c.seed, 3, step])
        most = min(np.count_nonzero(self.chances), 1 + c.batch_tokens // self.lengths.min())
        drawn = rng.choice(len(self.queries), most, replace=False, p=self.chances)
        drawn = drawn[np.cumsum(self.lengths[drawn]) <= c.batch_tokens]
        colors = np.array([self.recolor(self.queries[d], rng) for d in drawn])
        documents = self.set.documents.take(drawn)._replace(colors=colors)
        return TrainingStep(step, self.set.pairs, documents)

    def recolor(self, query, rng):
        """Returns a color table under which the document shows no pair of val or test."""
        fixed = fixed_colors(query.task, self.config.demos > 0)
        if not self.config.colors:
            return IDENTITY
        return allowed_colors(rng, fixed, self.banned, shown_pairs(query), query.symmetry)


def shown_pairs(query):
    """Returns the pairs that a document with a draft shows: demonstrations, input and target."""
    return [query.task.train[k] for k in query.demos] + [query.task.test[query.test]]


def alternate(fresh, drafts, start, workers):
    """Yields steps of train.py's own stream and steps with drafts in turn."""
    for step, without in enumerate(fresh.steps(start, workers), start):
        yield drafts.step(step) if step % 2 else without


# ------------------------------------------------------------------------------------------------
# Using it


def with_drafts(queries, predictions):
    """Returns queries of the plain view, each with what was predicted there as its draft."""
    grids = {p.key: p.grid for p in predictions if p.view == 0}
    return [query._replace(draft=grids[query.key]) for query in queries]


def read_drafts(refiner, queries):
    """Returns the Predictions of the queries that have a draft, after they have read it.

    The draft is also proposed: where the network keeps it, one forward pass verifies it. A draft
    that is too long is not read.
    """
    return refiner.predict_queries([query._replace(proposal=query.draft) for query in queries
                                    if query.draft is not None and refiner.fits(query.draft)])


def correct(refiner, queries):
    """Returns each query's grid after its draft was read; the draft where no grid came of it."""
    grids = {p.key: p.grid for p in read_drafts(refiner, queries) if p.grid is not None}
    return [grids.get(query.key, query.draft) for query in queries]


def wrong_cells(grid, target):
    """Returns how many cells differ; -1 for another shape, or no grid."""
    return int((grid != target).sum()) if np.shape(grid) == target.shape else -1


def compare(queries, corrected):
    """Returns what became of the queries' drafts. corrected: their grids, see `correct`.

    Exact grids and cells, before and after; fixed; broken; near misses.
    """
    size = np.array([query.target.size for query in queries])
    before = np.array([wrong_cells(query.draft, query.target) for query in queries])
    after = np.array([wrong_cells(grid, query.target) for query, grid in zip(queries, corrected)])
    metrics = {}
    for name, wrong in (("before", before), ("after", after)):
        metrics[f"single_{name}"] = float((wrong == 0).mean())
        metrics[f"cells_{name}"] = float(np.where(wrong < 0, 0, 1 - wrong / size).mean())
    near = (before > 0) & (before <= NEAR)
    counts = dict(fixed=(before != 0) & (after == 0), broken=(before == 0) & (after != 0),
                  near_misses=near, near_misses_fixed=near & (after == 0), wrong_shapes=before < 0)
    return {**metrics, **{name: int(mask.sum()) for name, mask in counts.items()}}


def validate(refiner, queries):
    """Corrects the drafts of val's queries. Returns metrics."""
    m = compare(queries, correct(refiner, queries))
    refiner.log(f"  val: exact {m['single_before']:.1%} -> {m['single_after']:.1%}  cells of "
                f"grids {m['cells_before']:.1%} -> {m['cells_after']:.1%}  fixed {m['fixed']}  "
                f"broken {m['broken']}  near misses {m['near_misses']}, of them fixed "
                f"{m['near_misses_fixed']}")
    judged, _ = refiner.judge_targets(queries)
    return {**m, "exact": m["single_after"], "loss": judged["loss"]}


def predict_and_score(drafter, refiner, tasks, step):
    """Predicts, reads the best grids as drafts, predicts again, votes, and writes submission.json.

    Returns (metrics, empty where no answer is known; attempts; those of the base network).
    """
    started, config, log = time.time(), refiner.config, refiner.log
    queries, base_attempts = known_queries(tasks, config), None
    if queries:                                # else nobody asks how good it was before
        base_predictions = drafter.predict(tasks, config.views)
        base_scores, base_attempts = drafter.rank_and_score(tasks, base_predictions,
                                                            drafter.sample(tasks))

    # answers without a draft, then answers to the best of these; both vote
    first = refiner.predict(tasks, config.views)
    sampled = refiner.sample(tasks)
    without, attempts = refiner.rank_and_score(tasks, first, sampled)
    log.write_json("submission.json", submission(tasks, attempts))
    votes = attempts_by_votes(first)
    reading = [query._replace(draft=grid) for query in make_queries(tasks, config.views, config)
               for grid in votes[query.key][:DRAFTS]]
    predictions = first + read_drafts(refiner, reading)
    scores, attempts = refiner.rank_and_score(tasks, predictions, sampled)
    log.write_json("submission.json", submission(tasks, attempts))
    log(f"predictions: {len(predictions)}, {len(predictions) - len(first)} of them after a draft, "
        f"in {clock(time.time() - started)}; attempts are in "
        f"{log.folder / 'submission.json'}")
    refiner.log_unanswered(attempts)
    if not queries:
        log("no answer of these tasks is known, so there is no score")
        return {}, attempts, base_attempts

    # what one draft became: the base network's answer in the plain view, corrected
    queries = with_drafts(queries, base_predictions)
    corrected = correct(refiner, queries)
    changed = [(query, grid) for query, grid in zip(queries, corrected)
               if not same(grid, query.draft)]
    for query, grid in changed[:3]:
        log(show.picture(query.task, query.test, grid, "refined"))
    metrics = compare(queries, corrected)
    parts = dict(before=base_scores, without_draft=without, after=scores)
    for name, part in parts.items():
        for key in ("pass1", "pass2", "oracle", "pass1_by_votes", "pass2_by_votes"):
            if key in part:
                metrics[f"{key}_{name}"] = part[key]
    metrics["tasks"] = scores["tasks"]
    refiner.record_test(metrics, step, started)
    return metrics, attempts, base_attempts


# ------------------------------------------------------------------------------------------------
# The checkpoints of main


def load_base(config, given):
    """Returns the config, and the checkpoint that drafts, with the `hash` of its weights in it.

    UserError where it is not of this config. --eval_only takes over every knob that is not given.
    """
    path = Path(config.refine_from or f"{config.out_dir}/ckpt.pt")
    if config.init_from and config.eval_only and not config.refine_from:
        path = Path(config.init_from).absolute().parent.parent / "ckpt.pt"    # out_dir/refine/...
    base = load_checkpoint(path, cure="run `python train.py` with the same config first, or name a "
                                      "checkpoint by --refine_from=")
    if config.eval_only:
        config = as_trained(config, given, base)
    may_change = MAY_CHANGE | {"dtype"}
    may_change |= {name for name in vars(config) if name.startswith("refine_")}
    if config.eval_only:                       # else the base network may have trained on them
        may_change.add("test")
    differences = differing(base["config"], config, may_change)
    if differences:
        raise UserError(f"{path}: trained with another config: {differences}. Give the same knobs "
                        "as to train.py, or another checkpoint by --refine_from=")
    if not config.eval_only and "training" not in base:
        raise UserError(f"{path}: holds weights only, so its training cannot go on; name a ckpt.pt "
                        "by --refine_from=")
    # of the weights that draft; nothing else in a checkpoint's file matters
    weights = b"".join(w.numpy().tobytes() for w in base["model"].values())
    return config, {**base, "hash": hashlib.sha256(weights).hexdigest()}


def load_refined(config, given, base):
    """Returns the config of the refinement, and its checkpoint; None to train a new one.

    --eval_only takes over the knobs of the refinement that are not given.
    """
    end = base["step"] + config.refine_steps
    # `decay` is a share of all steps, the base network's too: this one is exactly refine_steps
    config = dataclasses.replace(config, out_dir=f"{config.out_dir}/refine", max_steps=end,
                                 warmup=0.0, decay=config.refine_steps / max(1, end))
    if config.init_from and not config.eval_only:
        raise UserError(f"init_from = {config.init_from!r}: the refiner starts from the network "
                        "that drafts, which --refine_from= names")
    if not (config.eval_only or config.resume):
        return config, None
    checkpoint = load_checkpoint(config.init_from or f"{config.out_dir}/ckpt.pt", "Refiner",
                                 "run refine.py without --eval_only or --resume first")
    if checkpoint.get("base") != base["hash"]:
        raise UserError(f"{checkpoint['path']}: learned to correct another network than "
                        f"{base['path']} holds now; train it anew with --overwrite")
    if config.eval_only:
        config = as_trained(config, given, checkpoint)
    return config, checkpoint


if __name__ == "__main__":
    command_line(main, "refines")
