"""Several networks together: each proposes grids, all judge the candidates of all.

    python train.py config/arc1_human.py --max_steps=42000 --out_dir=out/one
    python train.py config/arc1_human.py --max_steps=42000 --encoding=quadtree --out_dir=out/two
    python results/together.py out/one/ckpt.pt out/two/ckpt.pt      # -> out/together/

Candidates are the 16 grids with most votes, of all networks together, and what was sampled. Their
log-likelihoods under all networks are added. The tasks are `test` of the runs, or --tasks=FILE;
--views and so on as with --eval_only of train.py. At the end each network is scored by itself, from
the same predictions.
"""
import shlex
import sys
import time
from pathlib import Path

from runs import command_line, read_command    # first: it finds the project
from arc.leaks import pair_keys
from arc.score import attempts_by_votes, score, submission
from arc.sources import load_data
from config import UserError
from engine.checkpoints import (as_trained, check_same_network, check_trained_on, check_views,
                                load_checkpoint, model_config, rebuild, task_rows)
from engine.predict import TOP_K, Predictor, likeliest_first, with_sampled
from engine.runs import (Log, check_folder, checkpoint_lines, clock, set_up, take_folder,
                         write_config)


def rank_together(predictors, tasks, predictions, sampled):
    """Returns the attempts {(task id, test): grids}, by the sum of all networks' log-likelihoods.

    predictions, sampled: those of all networks. Without rerank_views, in the order of their votes.
    """
    attempts = with_sampled(attempts_by_votes(predictions), sampled)
    best = TOP_K + sum(predictor.config.samples for predictor in predictors)
    of_each = [predictor.nll_of_attempts(tasks, attempts, best) for predictor in predictors]
    judged_by_all = set.intersection(*map(set, of_each))
    return likeliest_first(attempts, {key: sum(nlls[key] for nlls in of_each)
                                      for key in judged_by_all})


def load_predictors(paths, config, given, device, log):
    """Returns (a Predictor for each checkpoint, tasks, what is to be said of them).

    UserError where their tests differ.
    """
    predictors, keys, lines = [], None, []
    for path in paths:
        checkpoint = load_checkpoint(path)
        own = as_trained(config, given, checkpoint)
        data = load_data(own)
        if not data.test:
            raise UserError(f"{path}: nothing to solve: name tasks with --tasks=")
        found = [(task.id, pair_keys([task])) for task in data.test]
        keys = keys or found
        if found != keys:                      # two generators may differ under one name
            raise UserError(f"{path} was to solve other tasks (test = {own.test!r}) than "
                            f"{paths[0]}: name a file with --tasks=")
        rows = task_rows(checkpoint["task_ids"], data.test)
        check_trained_on(own, data.test, rows)
        model = rebuild(checkpoint, device)
        wanted = model_config(own, model.config.canvas, model.config.n_tasks)
        check_same_network(checkpoint, wanted, "; give no knob of the network")
        check_views(checkpoint, own)
        lines.append(f"{path}: encoding {own.encoding}, seed {own.seed}, step {checkpoint['step']}")
        lines += checkpoint_lines(model.config, data.test, checkpoint)
        predictors.append(Predictor(model, own, rows, device, log))
    if len({bool(predictor.config.rerank_views) for predictor in predictors}) > 1:
        raise UserError("some of these networks rerank their answers and some do not: give "
                        "--rerank_views=8, or 0")
    return predictors, data.test, lines


def describe(metrics):
    return ", ".join(f"{name} {metrics[key]:.1%}" for name, key in
                     (("pass@1", "pass1"), ("pass@2", "pass2"), ("oracle", "oracle")))


def main(argv):
    paths, own, options = read_command(argv, dict(out_dir="out/together"))
    if len(paths) < 2 or any(path.endswith(".py") for path in paths):
        sys.exit(__doc__)
    started = time.time()
    if any(Path(path).parent == Path(own["out_dir"]) for path in paths):
        raise UserError(f"out_dir {own['out_dir']} holds one of these runs; name another")
    options += [f"--out_dir={own['out_dir']}", "--eval_only=True"]
    config, given, device, machine = set_up(options)
    check_folder(config)
    log = Log(config.out_dir)
    predictors, tasks, lines = load_predictors(paths, config, given, device, log)
    take_folder(config)                        # set-up succeeded: only now files change
    for line in [f"device: {machine}", *lines]:
        log(line)
    write_config(log, predictors[0].config, given, machine, argv, networks=paths,
                 command=shlex.join(["results/together.py", *argv]))
    predictions, sampled = [], []
    for predictor in predictors:
        predictions.append(predictor.predict(tasks, predictor.config.views))
        sampled.append(predictor.sample(tasks))
    everything = sum(predictions, [])
    # the votes are saved at once, as in train.py
    log.write_json("submission.json", submission(tasks, attempts_by_votes(everything)))
    attempts = rank_together(predictors, tasks, everything, sum(sampled, []))
    log.write_json("submission.json", submission(tasks, attempts))
    metrics = score(tasks, everything, attempts)
    seconds = time.time() - started
    if not metrics["tasks"]:
        log(f"no answer of these tasks is known, so there is no score; {clock(seconds)}")
        return
    test = predictors[0].config.test
    log.record(kind="test", **metrics, networks=paths, seconds=seconds, source=test,
               times_scored=log.times_scored(test))
    log(f"together: {describe(metrics)} of {metrics['tasks']} tasks; {clock(seconds)}")
    for path, predictor, found, more in zip(paths, predictors, predictions, sampled):
        metrics, _ = predictor.rank_and_score(tasks, found, more)
        log.record(kind="alone", network=path, **metrics)
        log(f"{path} alone: {describe(metrics)}")


if __name__ == "__main__":
    command_line(main)
