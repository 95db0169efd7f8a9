"""Train on ARC tasks, draft answers, vote, score: the whole pipeline.

    python train.py config/quadtree.py                               # no download, no GPU needed
    python train.py config/quadtree.py --learning_rate=1e-3          # any knob of config/__init__.py
    python train.py config/quadtree.py --eval_only --tasks=FILE      # solve a task file of yours -> submission.json
"""
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import config as knobs                                         # before torch: it says how torch takes memory
import numpy as np
import torch
import torch.nn.functional as F

from config import UserError
from data import arc, oned, show
from data.batch import IGNORE, QUERY, Batch, FromTasks, Generated, bins, gather, send
from data.report import write_report
from data.score import score, submission, write_json
from data.sources import load_data
from evaluate import autocast, draft, exam_of, out_of_memory, precision, ranked, validate
from model import GPT, VARLEN_KNOBS, Shape, check_shape, has_varlen, load_checkpoint, save_checkpoint
from optim import Optimizer, averaged, learning_rate
from replay import Recorded


def pick_device(config):
    """-> (device, why). Where it has no flash attention, none is tried from here on."""
    if (os.environ.get("WORLD_SIZE") or "1") != "1":           # torchrun's: each process would train the same run into the same folder
        raise UserError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and a run takes one device: start it with python instead of torchrun, or unset it")
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if config.device and not found.get(config.device):
        raise UserError(f"device {config.device!r} is not here; there is {', '.join(name for name in found if found[name])}")
    name = config.device or next(name for name in found if found[name])
    if name == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        VARLEN_KNOBS.clear()                                   # a GPU before Ampere (T4, RTX 20): it would raise when it is called
    why = {"cuda": torch.cuda.get_device_name() if found["cuda"] else "", "mps": "Apple GPU; this code was never run on one",
           "cpu": f"{torch.get_num_threads()} threads" + ("" if found["cuda"] or found["mps"] else "; no CUDA and no MPS device here")}
    return torch.device(name), why[name] + ("" if not config.device else "; as asked")


class Log:
    """Lines for people to the screen and log.txt, lines for programs to metrics.jsonl."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, text):
        with open(self.folder / "log.txt", "a") as file:
            file.write(text + "\n")
        try:
            print(text, flush=True)
        except BrokenPipeError:                                # `| head` has seen enough; the run goes on, into log.txt
            sys.stdout = open(os.devnull, "w")

    def record(self, **values):
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(values) + "\n")

    def records(self):
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.open()] if path.exists() else []

    def times_scored(self, source):
        """How often, this time included, these tasks were scored."""
        return 1 + sum(m["kind"] == "test" and m.get("source") == source for m in self.records())

    def close(self, metrics):
        """The last lines of a run, to be found by grep."""
        self("\n---")
        for key, value in metrics.items():
            if not isinstance(value, (dict, type(None))):
                self(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}")

    def forget_after(self, step):
        """A run that was killed goes on from its checkpoint: what it had recorded beyond is recorded again."""
        lines = [json.dumps(record) + "\n" for record in self.records() if record.get("step", 0) <= step]
        (self.folder / "metrics.jsonl").write_text("".join(lines))


def prepare_folder(config):
    """Make out_dir, or say why it cannot be used. -> files of an older run to delete, once all else has proved to be right."""
    folder = Path(config.out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write").touch()
        (folder / ".write").unlink()
    except OSError as error:
        raise UserError(f"out_dir {folder}: cannot be written ({error.strerror}); name another with --out_dir=") from None
    if config.resume or config.eval_only:
        return []
    old = [*folder.glob("*.pt"), *folder.glob("submission.json")]
    if old and not config.overwrite:
        raise UserError(f"out_dir {folder} already holds a run: go on with --resume, replace it with --overwrite, or name another "
                        "with --out_dir=")
    return old + [folder / name for name in ("log.txt", "metrics.jsonl", "report.html") if (folder / name).exists()]


def versions():
    try:
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                                cwd=Path(__file__).parent).stdout.strip()
    except OSError:
        commit = ""
    return dict(python=platform.python_version(), torch=str(torch.__version__), numpy=np.__version__, commit=commit or "unknown",
                schedulefree=importlib.metadata.version("schedulefree"))


def shape_for(config, frame, n_tasks):
    return Shape(config.encoding, config.n_layer, config.n_head, config.n_kv_head, config.n_embd, config.n_mlp, config.dropout, frame,
                 config.max_len, config.demos + 1, n_tasks, arc.SYMMETRIES if config.view_embed else 0)


def pace(config, device):
    """-> (is a training step compiled and recorded?, on CUDA: this in words)."""
    flash = has_varlen(device, precision(config, device))
    static = config.compile and flash
    said = "compiled and recorded" if static else "eager, as asked" if flash else "eager and slow: compiling takes --dtype=bfloat16, torch 2.11 and an Ampere GPU or a later one"
    return static, f"; {said}" if device.type == "cuda" else ""


class Backward:
    """Forward and backward of one step's documents, in micro-batches: (item, micro) -> (mean loss over all outputs, over the queries'
    outputs), on the device. The loss is the sum over targets divided by the targets of the whole step, so the split changes nothing.
    With flash attention the network is compiled, every batch is as long, so once; and recorded."""

    def __init__(self, config, model, data, device):
        self.config, self.data, self.device = config, data, device
        self.static, _ = pace(config, device)
        self.network = torch.compile(model, dynamic=False) if self.static else model
        self.work = Recorded(model.parameters()) if self.static else lambda work, *inputs: work(*inputs)

    def __call__(self, item, micro):
        pairs, docs = item
        pairs = self.data.store if pairs is None else pairs.to(self.device)
        fill = dict(capacity=micro, max_len=self.config.max_len) if self.static else {}
        targets = send(torch.tensor([docs.targets(), docs.targets(QUERY)]), self.device)
        return sum(self.work(self.micro_batch, *gather(pairs, docs.take(which), **fill), targets) for which in bins(docs.lengths(), micro))

    def micro_batch(self, *inputs):
        batch, targets = Batch(*inputs[:-1]), inputs[-1]
        if self.static:
            torch._dynamo.mark_dynamic(batch.docs, 0)          # the number of documents is of no account: still compiled once
        with autocast(self.config, self.device):
            logits = self.network(batch.tokens, batch.coords, batch.docs, batch.labels)
        nll = F.cross_entropy(logits.float(), batch.targets, ignore_index=IGNORE, reduction="none")
        loss = nll.sum() / targets[0]
        loss.backward()
        return torch.stack([loss.detach(), (nll.detach() * batch.query).sum() / targets[1]])


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


MAY_CHANGE = ("out_dir", "overwrite", "resume", "init_from", "device", "compile", "workers", "log_every", "keep_every", "views", "rate_views",
              "draft_tokens", "micro_tokens")  # knobs that do not change what is trained


def changed(found, config, may_change):
    """In which knobs, beside those that may, a config differs from a checkpoint's: as text, empty if in none. A knob that is newer than the
    checkpoint had its default."""
    were = {field.name: found["config"].get(field.name, field.default) for field in dataclasses.fields(config)}
    return "; ".join(f"{key} was {was!r} and is {getattr(config, key)!r}" for key, was in were.items()
                     if was != getattr(config, key) and key not in may_change)


class Run:
    """The state of a run: what a checkpoint holds, and how it is written and read."""

    def __init__(self, config, model, optimizer, task_ids, log):
        self.config, self.model, self.optimizer, self.task_ids, self.log = config, model, optimizer, task_ids, log
        self.step, self.best, self.seconds = 0, None, 0.0      # best: (exact, -loss) on val
        self.more = {}                                         # what else a checkpoint holds: refine.py has something
        self.versions = versions()                             # of the start: files may be edited while a run goes on

    def save(self, name, training=True):
        """Averaged weights (what anyone uses); and, for resume, the weights in training and the optimizer's state."""
        rest = dict(config=dataclasses.asdict(self.config), task_ids=self.task_ids, step=self.step, best=self.best, seconds=self.seconds,
                    versions=self.versions, **self.more)
        if training:
            rest.update(training={k: v.detach().clone() for k, v in self.model.state_dict().items()},
                        optimizer=self.optimizer.state_dict())
        with averaged(self.model, self.optimizer):
            save_checkpoint(Path(self.config.out_dir) / name, self.model, **rest)

    def resume(self, found, path):
        check_shape(found, self.model.shape, path)
        if "training" not in found:
            raise UserError(f"{path}: holds weights only, nothing to resume from; --init_from={path} starts from them")
        if differ := changed(found, self.config, MAY_CHANGE):
            raise UserError(f"--resume goes on with the same run, but {differ}. To start a new one from these weights: "
                            f"--init_from={path}")
        self.model.load_state_dict(found["training"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.step, self.seconds = found["step"], found["seconds"]
        self.best = tuple(found["best"]) if found["best"] else None
        self.log.forget_after(self.step)


def transplant(model, task_ids, found, path):
    """Start from a checkpoint's weights. Rows of the task embedding go by task id; new tasks start as the mean of all."""
    if bool(found["shape"]["n_tasks"]) != bool(model.shape.n_tasks):
        raise UserError(f"{path}: a network {'with' if found['shape']['n_tasks'] else 'without'} a task embedding; set --task_embed to match")
    shape = Shape(**{**found["shape"], "n_tasks": model.shape.n_tasks})
    check_shape({"shape": dataclasses.asdict(shape)}, model.shape, path)
    weights = found["model"]
    if "task.weight" in weights:
        old, rows = weights["task.weight"], {tuple(i): row for row, i in enumerate(found["task_ids"], 1)}
        weights["task.weight"] = torch.stack([old[0]] + [old[rows[tuple(i)]] if tuple(i) in rows else old.mean(0) for i in task_ids])
    model.load_state_dict(weights)


def rows_of(task_ids, tasks):
    """{task id: row of the task embedding} of those tasks that were trained on with the demonstrations they have now; the others have row 0."""
    row_of = {tuple(i): row for row, i in enumerate(task_ids, 1)}
    return {t.id: row_of[t.id, arc.task_key(t)] for t in tasks if (t.id, arc.task_key(t)) in row_of}


def check_known(config, tasks, rows):
    unknown = [t.id for t in tasks if t.id not in rows]
    if config.demos == 0 and unknown:
        raise UserError(f"{len(unknown)} tasks, {unknown[0]} the first, were not trained on, and this network keeps rules in its weights: "
                        f"`python train.py CONFIG --tasks={config.tasks or config.test}` trains with their demonstrations and solves them")


def train(config, model, optimizer, run, data, learn, validation, device, log):
    """The loop: rate, evaluate and save, micro-steps, clip, step, log. learn(item, micro) does forward and backward of a step of
    data.stream and returns two losses on the device, to descend and to show; validation(step), or None, returns metrics with
    `exact` and `loss`. After Ctrl-C it saves and exits with 130."""
    stop = []
    previous = signal.signal(signal.SIGINT, lambda *_: stop.append(1) if not stop else signal.default_int_handler(*_))
    micro = config.micro_limit()
    workers = config.workers if config.workers >= 0 else 4 if device.type == "cuda" else 0
    items, seen, norm, loss = iter(data.stream(run.step, workers)), 0, torch.zeros(()), torch.zeros(2)
    begun = mark = time.time()
    before, first, marked = run.seconds, run.step, run.step
    model.train()
    try:
        while True:
            step, last = run.step, run.step == config.max_steps or bool(stop)
            evaluate = step == config.max_steps or step > first and step % config.eval_every == 0
            keep = config.keep_every and step > first and step % config.keep_every == 0
            if evaluate or keep or stop or step > first and step % config.log_every == 0:      # only here the host waits for the device
                values = [*loss.tolist(), float(norm)]
                if not all(map(math.isfinite, values)):
                    good = Path(config.out_dir) / "ckpt.pt"
                    raise UserError(f"step {step}: loss {values[0]}, gradient norm {values[2]}. Stopped; "
                                    + (f"{good} is the last good checkpoint" if good.exists() else "nothing was saved yet")
                                    + ". Try a lower --learning_rate, or --dtype=float32")
                now = time.time()
                run.seconds = before + now - begun
                if step > marked:
                    ms, rate = 1000 * (now - mark) / (step - marked), learning_rate(config, optimizer, step - 1)
                    log(f"step {step:6d}/{config.max_steps} {step / config.max_steps:4.0%}  loss {values[1]:.4f}  lr {rate:.2e}  "
                        f"norm {values[2]:5.2f}  {ms:6.1f} ms  {seen / (now - mark):7.0f} tok/s  "
                        f"ETA {clock((config.max_steps - step) * (now - begun) / (step - first))}")
                    log.record(kind="train", step=step, loss=values[1], loss_all_outputs=values[0], lr=rate, norm=values[2],
                               ms=ms, seconds=run.seconds)
                if evaluate and validation:
                    with averaged(model, optimizer):
                        result = validation(step)
                    log.record(kind="val", step=step, seconds=run.seconds, **result)
                    if run.best is None or (result["exact"], -result["loss"]) > run.best:
                        run.best = (float(result["exact"]), -float(result["loss"]))
                        run.save("best.pt", training=False)
                if evaluate or stop:
                    run.save("ckpt.pt")
                if keep:
                    run.save(f"step_{step:06d}.pt", training=False)
                mark, marked, seen = time.time(), step, 0      # evaluation and saving do not count as training speed
            if last:
                break

            try:
                item = next(items)
            except RuntimeError:                               # Ctrl-C reached a worker before it could ignore it
                if stop:
                    continue
                raise
            while True:
                torch.manual_seed(config.seed * 1_000_003 + step)      # dropout of step i follows from (seed, i) too
                try:
                    loss = learn(item, micro)
                    break
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                smaller = max(micro // 2, config.max_len)
                if smaller == micro:
                    raise UserError(f"out of memory with {micro} tokens at once, which is max_len: lower --max_len, --n_embd or --n_layer")
                optimizer.zero_grad()
                log(f"  out of memory at step {step}: {smaller} tokens at once instead of {micro}; the step is repeated with the same "
                    f"samples (--micro_tokens={smaller} starts that way)")
                micro = smaller
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
            optimizer.step(learning_rate(config, optimizer, step))
            seen += int(item[1].lengths().sum())
            data.left_out = item[1].left_out
            run.step += 1
    finally:
        signal.signal(signal.SIGINT, previous)
    if stop:
        log(f"interrupted at step {run.step}; saved. Go on with --resume")
        raise SystemExit(130)


def examine(model, exam, config, rows, device, log, step):
    """Validation while training: the metrics, and a draft as a picture. -> metrics."""
    result = validate(model, exam, config, device, log)
    task = exam.tasks[7 * (step // config.eval_every) % len(exam.tasks)]       # another one each time
    drafts, *_ = draft(model, [task], dataclasses.replace(config, views=1), rows, device, log)
    log(f"  val: loss {result['loss']:.4f}  cells {result['cells']:.1%}  exact {result['exact']:.1%} of {result['n']}"
        + "".join(f"  {kind} {result['exact_' + kind]:.1%}" for kind in ("1d", "2d") if f"exact_{kind}" in result))
    log(picture(task, drafts[0].grid, "draft") + "\n")
    return result


def picture(task, grid, title):
    """A task's first query, its answer if it is known, and a grid that should be it."""
    query, answer = task.test[0]
    shown = {"input": query, **({} if answer is None else {"answer": answer}), title: grid}
    return f"\n{task.id}\n" + show.row(list(shown.values()), list(shown), answer=answer)


def test(config, model, tasks, rows, device, log, step):
    """Draft, vote, score, and write submission.json. -> (metrics, empty where no answer is known; the attempts of score)."""
    begun = time.time()
    drafts, _, left_out = draft(model, tasks, config, rows, device, log)
    voted = score(tasks, drafts)
    write_json(log.folder / "submission.json", submission(tasks, voted[1]))        # before the rest: whatever happens, this much is kept
    log(f"drafts: {len(drafts)} in {clock(time.time() - begun)}, {voted[0]['failed_drafts']:.1%} of them no grid; {left_out} demonstrations "
        f"did not fit; attempts are in {log.folder / 'submission.json'}")
    metrics, attempts = ranked(model, tasks, drafts, voted, config, rows, device, log)
    if config.rate_views:
        write_json(log.folder / "submission.json", submission(tasks, attempts))
        log(f"attempts are ranked anew, by their likelihood under {config.rate_views} views; {clock(time.time() - begun)} so far")
    longer = sum(b is not None and len(arc.encode_grid(b)) + 1 > config.max_answer for task in tasks for _, b in task.test)
    if longer:
        log(f"  {longer} answers are longer than max_answer = {config.max_answer} tokens and cannot be drafted; raise it")
    for task in tasks[:2]:
        log(picture(task, (attempts.get((task.id, 0)) or [None])[0], "voted"))
    exam = exam_of(tasks, config, rows, device)
    if not exam:
        log("no answer of these tasks is known, so there is no score")
        return {}, attempts
    if not exam.where:
        log("no known answer fits max_len and max_answer: the loss below is of nothing, and every grid counts as wrong")
    metrics.update(validate(model, exam, config, device, log), views=config.views, step=step, seconds=time.time() - begun,
                   source=config.test, times_scored=log.times_scored(config.test))
    log.record(kind="test", **metrics)
    names = sorted(metrics["families"], key=lambda name: (name[3:], name))
    if len(names) > 1:
        log("\ntest, exact by family, one view:")
    for i in range(0, len(names), 3):
        log("  " + "  ".join(f"{name:18s} {metrics['families'][name]:6.1%}" for name in names[i:i + 3]))
    return metrics, attempts


def main(argv=None):
    """Run with the arguments of a command line. -> metrics."""
    begun = time.time()
    config, given = knobs.load(sys.argv[1:] if argv is None else argv)
    device, why = pick_device(config)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    old = prepare_folder(config)
    log = Log(config.out_dir)
    source = config.init_from or (f"{config.out_dir}/ckpt.pt" if config.eval_only or config.resume else "")
    if config.resume and not Path(source).exists():
        raise UserError(f"{source} does not exist: nothing was saved there yet. Start again without --resume")
    found = load_checkpoint(source) if source else None        # before the data: a wrong path shows at once
    if config.fold and config.init_from and not config.eval_only and found["config"]["fold"] != config.fold:
        raise UserError(f"fold = {config.fold!r} holds pairs out, and {source} (fold = {found['config']['fold']!r}) has trained on them: start without it")

    data = load_data(config)
    everything = (data["train"] or []) + data["val"] + data["test"]
    if config.eval_only:
        everything, task_ids = data["test"], found["task_ids"]
    else:
        task_ids = [(t.id, arc.task_key(t)) for t in data["train"]] if config.task_embed else []
    least = oned.widest(data["families"], config.oned_max_width) if data["train"] is None and not config.eval_only else 1
    frame = config.frame or (found["shape"]["frame"] if found else arc.frame_for(everything, least))
    if frame & (frame - 1):
        raise UserError(f"frame = {frame} is not a power of two")
    arc.check_frame(everything, frame)

    shape = shape_for(config, frame, len(task_ids) + 1 if task_ids else 0)
    model = GPT(shape).to(device)
    optimizer = Optimizer(model, config)
    run = Run(config, model, optimizer, task_ids, log)
    if config.resume:
        run.resume(found, source)
    elif found:
        transplant(model, task_ids, found, source)
        run.step = found["step"] if config.eval_only else 0
    rows = rows_of(task_ids, everything)
    if config.eval_only:
        check_known(config, data["test"], rows)
    stream, exam = None, None
    if not config.eval_only:
        stream = Generated(config, data["families"], data["banned"]) if data["train"] is None else \
            FromTasks(data["train"], config, rows, device, data["asked"])
        exam = exam_of(data["val"], config, rows, device)
    for path in old:                                           # all is well: now, and not before, an older run may go
        path.unlink()
    network, tables = model.counts()
    log(f"device: {device.type} ({why}); torch {torch.__version__}" + ("" if config.eval_only else pace(config, device)[1]))
    for line in data["say"]:
        log(line)
    log(f"model: {network:,} parameters and {tables:,} in embedding tables; encoding {config.encoding}, frame {frame}")
    metrics, attempts = {}, {}
    if not config.eval_only:
        write_json(log.folder / "config.json", {**dataclasses.asdict(config), "given": given, "versions": run.versions, "frame": frame,
                                                "dropped": data["dropped"], "machine": f"{device.type} ({why})",
                                                "command": shlex.join(sys.argv) if argv is None else ""})
        log(f"steps: {config.max_steps} of {config.batch_tokens} tokens, {config.optimizer}, learning rate {config.learning_rate}, "
            f"seed {config.seed}; results in {config.out_dir}/" + (f"; resumed at step {run.step}" if run.step else ""))
        validation = (lambda step: examine(model, exam, config, rows, device, log, step)) if exam else None
        train(config, model, optimizer, run, stream, Backward(config, model, stream, device), validation, device, log)
        if stream.left_out:
            log(f"{stream.left_out} demonstrations did not fit max_len = {config.max_len} in training")
        metrics.update(train_minutes=run.seconds / 60, val_exact=run.best[0] if run.best else None)
    if data["test"]:
        with averaged(model, optimizer):
            scores, attempts = test(config, model, data["test"], rows, device, log, run.step)
        metrics.update(scores)
    metrics["minutes"] = (time.time() - begun) / 60            # all but the imports
    log.close(metrics)
    write_report(log, config, metrics, data["test"], attempts)
    return metrics


def command_line(main, again):
    """Run a script: what its user can mend in one line, without a traceback; Ctrl-C exits with 130."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"interrupted. If training was done, --eval_only {again} and scores again", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    command_line(main, "drafts")
