"""Train a transformer on ARC tasks, predict, vote, score: the whole pipeline, story first.

    python train.py config/quadtree.py                              # no download, no GPU needed
    python train.py config/quadtree.py --learning_rate=1e-3         # any knob of config/__init__.py
    python train.py config/quadtree.py --eval_only --tasks=FILE     # solve a task file of yours

tasks -> documents -> loss -> steps -> predictions -> votes -> submission.json

The run's folder gets config.json, log.txt, metrics.jsonl, submission.json, report.html, ckpt.pt
(the last step, with which `test` is scored) and best.pt (the best on `val`, for --init_from).
"""
import signal

if __name__ == "__main__":                     # Ctrl-C while torch is imported: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import math
import time
from pathlib import Path

from config import UserError                   # before torch, which reads a variable set there
import torch
import torch.nn.functional as F

from arc import oned, show
from arc.leaks import task_key
from arc.report import write_report
from arc.score import attempts_by_votes, submission
from arc.sources import canvas_for, canvas_lines, check_canvas, fingerprint, load_data
from arc.task import known_pairs
from engine import ranks
from engine.batches import IGNORE, Batch, gather, pack, send, training_stream
from engine.checkpoints import (as_trained, check_same_network, check_trained_on, check_views,
                                keys_trained_on, load_checkpoint, model_config, rebuild,
                                snapshot_name, start_from, task_rows)
from engine.cuda_graphs import GraphedStep
from engine.devices import autocast, check_memory, is_compiled, n_workers
from engine.llama import check_llama, load_llama
from engine.optim import Optimizer, averaged, check_gradients, learning_rate
from engine.predict import Predictor, known_queries
from engine.runs import (Log, Progress, Run, announce, check_folder, clock, command_line,
                         interruptible, set_up, solving_folder, take_folder, write_config)
from model import GPT

EXPLAINED = "arc/score.py, and judge_targets in engine/predict.py"    # the names of metrics


def main(argv=None):
    """Runs with the arguments of a command line. Returns the metrics."""
    # ---- set-up: knobs, device, folder, and the checkpoint to start or go on from
    started = time.time()
    config, given, device, machine = set_up(argv)
    if config.eval_only:
        return solve(config, given, device, machine, argv)
    check_folder(config)
    log = Log(config.out_dir, config.tensorboard)
    start_path = f"{config.out_dir}/ckpt.pt" if config.resume else config.init_from
    checkpoint = open_checkpoint(config, start_path) if start_path else None

    # ---- data, after the leak guard. With task_embed each task owns a row, 0 is for unseen ones
    data = load_data(config)
    task_ids = [(task.id, task_key(task)) for task in data.train] if config.task_embed else []
    row_of = task_rows(task_ids, data.train + data.val + data.test)    # {task id: its row}
    canvas = choose_canvas(config, data, checkpoint)

    # ---- model and optimizer
    sizes = model_config(config, canvas, len(task_ids) + 1 if task_ids else 0)
    check_memory(sizes, device)
    torch.manual_seed(config.seed)             # decides the weights at the start
    model = GPT(sizes).to(device)
    optimizer = Optimizer(model, config)
    run = Run(config, model, optimizer, task_ids, log, fingerprint(data))

    # ---- resume: weights, optimizer, step; samples and dropout follow from the step
    if config.resume:
        run.resume(checkpoint)
    elif checkpoint:
        start_from(model, task_ids, checkpoint)
    elif start_path:                           # a Hugging Face folder, which is no checkpoint
        load_llama(model, start_path)

    # ---- fit
    stream = training_stream(config, data, row_of, device)     # step i follows from (seed, i)
    run.trained_keys = keys_trained_on(stream.pairs, checkpoint)      # so that later runs can tell
    predictor = Predictor(model, config, row_of, device, log)    # teacher forcing, decoding
    take_folder(config)                        # set-up succeeded: only now files change
    announce(data, model, log, machine, checkpoint)
    log(f"steps: {config.max_steps} of {config.batch_tokens} tokens, {config.optimizer}, learning "
        f"rate {config.learning_rate}, seed {config.seed}; results in {config.out_dir}/"
        + (f"; resumed at step {run.step}" if run.step else ""))
    write_config(log, config, given, machine, argv, canvas=canvas, dropped=data.dropped,
                 data=run.data)
    known = known_queries(data.val, config)    # val's test inputs whose answers are known
    fit(run, stream.steps, (lambda: validate(predictor, known, run.step)) if known else None)
    metrics = dict(train_minutes=run.seconds / 60, best_val_exact=run.best and run.best[0])

    # ---- predict and score, with the averaged weights
    attempts = {}
    if data.test:
        with averaged(model, optimizer):
            scores, attempts = predict_and_score(predictor, data.test, run.step)
        metrics.update(scores)

    # ---- summary
    log.summarize(metrics, started, EXPLAINED)
    write_report(log, config, metrics, data.test, attempts)
    return metrics


def fit(run, make_steps, validate=None):
    """Trains from run.step to max_steps; logs, validates and saves on the way. Also for refine.py.

    make_steps(step, workers) gives the TrainingSteps from a step on. validate() returns metrics
    with `exact` and `loss`. After a signal it saves and exits with 128 + its number.
    """
    config, model, optimizer, device = run.config, run.model, run.optimizer, run.device
    forward_backward = ForwardBackward(config, model, device)
    steps = make_steps(run.step, n_workers(config, device))
    micro_tokens = ranks.tokens_at_once(config)   # tokens at once; halved when memory runs out
    # the last step's loss over all outputs and over the queries' outputs, and its gradient norm;
    # they stay tensors, as reading a value would make the host wait for the device
    losses, grad_norm = torch.zeros(2), torch.zeros(())
    progress = Progress(run)
    run.log.forget_after(run.step)             # records that a resumed run will make again
    model.train()
    with interruptible() as get_signal:        # () -> number of the signal that came, or 0
        while True:
            # ---- log, validate, save: only here the host waits for the device
            stop = run.agree(get_signal())     # the same on all ranks
            finished = run.step == config.max_steps
            evaluate = finished or run.due(config.eval_every)
            keep = run.due(config.keep_every)
            save = evaluate or keep or stop
            if save or run.due(config.log_every) or progress.due():
                run.check_finite(losses.tolist(), float(grad_norm))
                progress.report(losses.tolist(), float(grad_norm))
                # saved first: whatever fails in the evaluation, no step is lost
                if save:
                    run.save("ckpt.pt")
                if keep:
                    run.save(snapshot_name(run.step), training=False)
                # schedule-free evaluates the average of the weights and trains other ones
                if evaluate and validate and not stop and run.step != run.validated_step:
                    with averaged(model, optimizer):
                        metrics = validate()
                    run.record_validation(metrics)
                progress.restart()             # evaluation does not count as training speed
            if finished or stop:
                break

            # ---- one step: documents, gradients, clip, update
            try:
                step = next(steps)
            except (RuntimeError, ConnectionError, EOFError) as error:    # a worker died
                # Ctrl-C may end a worker: then, on one rank, the top of the loop saves and stops
                if ranks.world() > 1 or not get_signal():
                    run.worker_died(error, losses.tolist(), float(grad_norm))
                continue
            # again with half as many tokens at once, where memory runs out
            losses, micro_tokens = run.halve_if_out_of_memory(
                lambda tokens: forward_backward(step, tokens), micro_tokens)
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(),
                                                       config.grad_clip or math.inf)
            optimizer.step(learning_rate(config, optimizer, run.step))
            run.step += 1
            progress.count(int(step.documents.lengths().sum()))
        stop = stop or (ranks.world() == 1 and get_signal())    # during the last validation
    if stop:
        run.exit_after_signal(stop)


class ForwardBackward:
    """Forward and backward of one training step.

    The loss is summed over all targets and divided by the targets of the whole step, so it does not
    matter how the step is split into micro-batches. With flash attention the network is compiled
    once, as every micro-batch is filled up to the same size, and recorded as a CUDA graph.
    """

    def __init__(self, config, model, device):
        self.config, self.model, self.device = config, model, device
        self.checked = False
        self.compiled = is_compiled(config, device)
        model.recompute = config.recompute     # activation checkpointing
        # eager: the network and the micro-batch as they are
        self.network, self.run_micro_batch = model, self.micro_batch
        if self.compiled:                      # only with flash attention on CUDA
            self.network = torch.compile(model, dynamic=False)
            self.run_micro_batch = GraphedStep(self.micro_batch, model.parameters())

    def __call__(self, step, micro_tokens):
        """Leaves gradients. Returns the mean loss over all outputs and over the queries', (2,)."""
        # dropout of step i follows from (seed, i), too, however often the step is tried
        seed = self.config.seed * 1_000_003 + step.number
        torch.manual_seed(seed + ranks.rank() * 2**40)
        pairs = step.pairs.to(self.device)     # from files: they are there already
        documents = step.documents.take(ranks.share(step.documents.lengths()))
        # target tokens of the whole step, on all ranks: of all outputs, of the queries' alone
        totals = [step.documents.count_targets(), step.documents.query_output_lengths().sum()]
        totals = send(torch.tensor(totals), self.device)
        # compiled, each micro-batch is filled up to one size
        capacity = micro_tokens if self.compiled else 0
        losses = torch.zeros(2, device=self.device)
        for which in pack(documents.lengths(), micro_tokens):           # documents of a micro-batch
            # T tokens of the chosen documents, laid end to end
            batch = gather(pairs, documents.take(which), capacity, self.config.max_len)
            losses = losses + self.run_micro_batch(*batch, totals)
            if not self.checked:               # once: all that trains is in use
                check_gradients(self.model)
                self.checked = True
        return ranks.sum_gradients(self.network.parameters(), losses)

    def micro_batch(self, *tensors):
        """Forward and backward. tensors: the fields of a Batch, then totals (2,).

        One by one, as a CUDA graph is recorded for the shapes of its input tensors.
        """
        *fields, totals = tensors
        batch = Batch(*fields)
        if self.compiled:                      # the number of documents varies without recompiling
            torch._dynamo.mark_dynamic(batch.cu_seqlens, 0)
        with autocast(self.config, self.device):
            logits = self.network(batch.tokens, batch.coords, batch.cu_seqlens, batch.task_view)
        # logits (T, V); nll (T,), 0 where there is no target
        nll = F.cross_entropy(logits.float(), batch.targets, ignore_index=IGNORE, reduction="none")
        loss = nll.sum() / totals[0]
        loss.backward()
        # what the log shows: the loss over the queries' outputs alone
        query_loss = (nll.detach() * batch.is_query).sum() / totals[1]
        return torch.stack([loss.detach(), query_loss])


def validate(predictor, queries, step):
    """Scores the network on val's known answers, logs one prediction. Returns metrics."""
    # in one pass: if every token is the likeliest given the truth, greedy decoding answers the same
    metrics, exact = predictor.judge_targets(queries)
    parts = [f"loss {metrics['loss']:.4f}", f"cells {metrics['cells']:.1%}",
             f"exact {metrics['exact']:.1%} of {metrics['n']}"]
    for kind in ("1d", "2d"):
        if f"exact_{kind}" in metrics:
            parts.append(f"{kind} {metrics[f'exact_{kind}']:.1%}")
    predictor.log(f"  val: {'  '.join(parts)}")
    # a query that it fails, mostly another one than before
    wrong = [query for query, right in zip(queries, exact) if not right] or queries
    query = wrong[7 * (step // predictor.config.eval_every) % len(wrong)]
    (prediction,) = predictor.predict_queries([query])
    predictor.log(show.picture(query.task, query.test, prediction.grid, "prediction") + "\n")
    return metrics


def predict_and_score(predictor, tasks, step):
    """Predicts every test input, votes, scores, and writes submission.json.

    Returns (metrics, empty where no answer is known; attempts {(task id, test): grids}).
    """
    started, config, log = time.time(), predictor.config, predictor.log
    # predict under all views. The votes are saved at once: whatever happens, this much is kept
    predictions = predictor.predict(tasks, config.views)
    attempts = attempts_by_votes(predictions)
    log.write_json("submission.json", submission(tasks, attempts))
    failed = sum(prediction.grid is None for prediction in predictions) / len(predictions)
    log(f"predictions: {len(predictions)} in {clock(time.time() - started)}, {failed:.1%} of them "
        f"no grid; attempts are in {log.folder / 'submission.json'}")

    # order by votes, or by likelihood where the config asks for it
    sampled = predictor.sample(tasks)          # more grids for likelihood to order
    metrics, attempts = predictor.rank_and_score(tasks, predictions, sampled)
    predictor.log_unanswered(attempts)
    # attempts may be in another order now, so the file is written again
    if config.rerank_views:
        log.write_json("submission.json", submission(tasks, attempts))
        log(f"attempts are reranked by their likelihood under {config.rerank_views} views; "
            f"{clock(time.time() - started)} so far")
    for task in tasks[:2]:                     # two pictures of what was submitted
        best = (attempts.get((task.id, 0)) or [None])[0]
        log(show.picture(task, 0, best, "attempt 1"))

    # score what is known
    queries = known_queries(tasks, config)     # those with an answer, in the plain view
    if not queries:
        log("no answer of these tasks is known, so there is no score")
        return {}, attempts
    # the loss and exact grids in one view, beside pass@1 and pass@2 of the attempts
    metrics.update(predictor.judge_targets(queries)[0])
    predictor.record_test(metrics, step, started)
    if len(metrics["families"]) > 1:
        log_families(metrics["families"], log)
    return metrics, attempts


# ------------------------------------------------------------------------------------------------
# The parts of main


def open_checkpoint(config, path):
    """Returns the checkpoint to start or go on from, or None: path is a Hugging Face folder."""
    if config.init_from and Path(path).is_dir():
        check_llama(path, config)
        return None
    cure = "train first, or name another with --init_from="
    if config.resume:
        cure = "nothing was saved there yet: start again without --resume"
    checkpoint = load_checkpoint(path, cure=cure)
    # pairs that an earlier run trained on cannot be held out any more
    holdout = checkpoint["config"].get("holdout", "")
    if config.holdout and config.init_from and holdout != config.holdout:
        raise UserError(f"holdout = {config.holdout!r} keeps pairs out, and {path} (holdout = "
                        f"{holdout!r}) has trained on them: start without it")
    return checkpoint


def choose_canvas(config, data, checkpoint):
    """Returns the side of the square of positions: as asked, as trained, or the least that fits."""
    # test outputs of training tasks are trained on
    tasks = [task._replace(train=known_pairs(task)) for task in data.train]
    tasks += data.val + data.test
    # generated tasks are not there yet: the widest that may come
    least = oned.widest(data.families, config.oned_max_width) if data.generated else 1
    canvas = config.canvas
    if not canvas:                             # `canvas_for` does not look at test outputs
        canvas = checkpoint["model_config"]["canvas"] if checkpoint else canvas_for(tasks, least)
    if data.generated and least >= canvas:
        raise UserError(f"generated tasks are up to {least} wide, which does not fit the canvas of "
                        f"{canvas}: set --canvas={1 << least.bit_length()}, or lower "
                        "--oned_max_width")
    check_canvas(data.train, canvas)
    data.lines.extend(canvas_lines(data.val + data.test, canvas))
    return canvas


def log_families(families, log):
    names = sorted(families)
    log("\ntest, exact by family, one view:")
    for i in range(0, len(names), 3):
        log("  " + "  ".join(f"{name:18s} {families[name]:6.1%}" for name in names[i:i + 3]))


def solve(config, given, device, machine, argv):
    """--eval_only: predicts and scores `test` (or `tasks`) with a checkpoint. Returns metrics."""
    started = time.time()
    checkpoint = load_checkpoint(config.init_from or f"{config.out_dir}/ckpt.pt")
    # sizes need not be given again; what is written goes to a folder of its own
    config = solving_folder(as_trained(config, given, checkpoint), checkpoint["config"])
    data = load_data(config)
    canvas = choose_canvas(config, data, checkpoint)
    # the config must describe the network that was trained
    wanted = model_config(config, canvas, checkpoint["model_config"]["n_tasks"])
    check_same_network(checkpoint, wanted, "; without a config file all but --out_dir and --tasks "
                       "is as it was trained")
    check_views(checkpoint, config)
    # where rules live in the weights, tasks that were not trained on are refused
    row_of = task_rows(checkpoint["task_ids"], data.test)
    check_trained_on(config, data.test, row_of)
    model = rebuild(checkpoint, device)
    check_folder(config)
    take_folder(config)
    log = Log(config.out_dir)
    announce(data, model, log, machine, checkpoint)
    write_config(log, config, given, machine, argv, canvas=canvas)
    predictor = Predictor(model, config, row_of, device, log)
    metrics, attempts = predict_and_score(predictor, data.test, checkpoint["step"])
    log.summarize(metrics, started, EXPLAINED)
    write_report(log, config, metrics, data.test, attempts)
    return metrics


if __name__ == "__main__":
    command_line(main, "predicts")
