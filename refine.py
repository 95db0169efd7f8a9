"""Train a second, bidirectional network on the first one's drafts, and correct drafts with it.

    python train.py config/quadtree.py && python refine.py config/quadtree.py     # before and after, on tasks neither has seen
    python refine.py config/quadtree.py --eval_only --tasks=FILE                   # both networks solve a task file of yours

The drafting network solves most tasks it is asked, and knows those it was trained on by heart. So drafts are taken on tasks it never saw, and
mostly where it fails. The second network reads demonstrations, query and draft at once, and says for each cell the colour and
whether the draft is wrong there, and for the draft whether it is exactly right. Applied several times, it reads its own answer.
"""
import dataclasses
import hashlib
import shlex
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import config as knobs                                         # before torch, as in train.py
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from config import UserError
from data import arc
from data.arc import COLORS, ROW, START
from data.batch import IGNORE, QUERY, FromTasks, bins, known_pairs
from data.candidates import Candidates, Refined, best_margin, compare, decide, report
from data.drafts import DAMAGED, RIGHT, WRONG, Drafts, as_shown, damage, shown
from data.report import write_report
from data.score import score, shares, submission, write_json
from data.sources import check_unseen, lessons, load_data
from evaluate import autocast, draft, exam_of, ranked, teacher_forced
from model import GPT, UNREADABLE, Shape, check_shape, load_checkpoint, rebuild, save_whole
from optim import Optimizer, averaged
from train import MAY_CHANGE, Backward, Log, Run, changed, check_known, clock, command_line, pick_device, picture, prepare_folder, rows_of, shape_for, train

# --------------------------------------------------------------------------------------------------------------------
# The network

class Refiner(GPT):
    """The blocks of model.py without the causal mask. Its residual goes around everything: it answers the draft's colours, times a
    gain, plus a correction that starts at zero, so untrained it returns each draft as it is."""

    def __init__(self, shape, trunk):
        """trunk: shape of the drafting network, of which the refiner has a copy that learns along."""
        super().__init__(shape)
        self.trunk = GPT(trunk)
        C = shape.n_embd
        self.facts = nn.Linear(5, C, bias=False)               # of a draft's cell: that it is one, how sure, ...
        self.reads = nn.Linear(2 * C, C, bias=False)           # what the trunk had in mind of a token
        self.head = nn.ModuleDict(dict(color=nn.Linear(C, COLORS, bias=False), wrong=nn.Linear(C, 1), right=nn.Linear(2 * (C + 5), 1)))
        self.trust = nn.Parameter(torch.zeros(1))              # in what the trunk would say, given the draft so far
        self.gain = nn.Parameter(torch.full((1,), 4.0))
        nn.init.normal_(self.facts.weight, std=0.5)
        nn.init.normal_(self.reads.weight, std=(2 * C) ** -0.5)
        nn.init.zeros_(self.head["color"].weight)

    def read(self, batch, cells, blind=False):
        """What the trunk has in mind of each token, (T, 2 C): when it was to say it, and when it had read it. blind: with the draft's cells hidden."""
        tokens = batch.tokens.index_fill(0, cells, START) if blind else batch.tokens
        after = self.trunk.hidden(tokens, batch.coords, batch.docs, batch.labels)
        before = after.roll(1, 0).index_fill(0, batch.docs[:-1].long(), 0.0)
        return torch.cat([before, after], 1).float()

    def forward(self, batch, cells, sure, states, loops, blind=False):
        """cells (N,): where in the batch the drafts' cells stand; sure (2, N): log-probability and vote share of each; states (T, 2 C): from read.
        Each loop judges a guess, the first one the draft, and makes the next. -> a list of (guess (N,), colour logits (N, 10), wrong (N,), right
        (D,)): logits for what the guess should have been, that a cell of it is wrong, that all of it is right. blind: the draft's size alone shows."""
        doc, D = batch.doc[cells], len(batch.docs) - 1
        given = batch.tokens[cells]
        stay = 0 if blind else self.gain * F.one_hot(given, COLORS)
        guess, (sure, share) = (torch.full_like(given, START), torch.zeros_like(sure)) if blind else (given, sure)
        first, said = guess, sure
        size = torch.zeros(D, device=guess.device).index_add(0, doc, torch.ones_like(sure)).clamp(min=1)[:, None]
        said_before = self.trust * self.trunk.head(states[cells, :self.shape.n_embd])[:, :COLORS]
        out = []
        for _ in range(loops):
            tokens = batch.tokens.clone()
            tokens[cells] = guess
            facts = self.facts(torch.stack([torch.ones_like(sure), sure, share, said, (guess != first).float()], 1))
            more = self.reads(states).index_add(0, cells, facts)
            h = self.hidden(tokens, batch.coords, batch.docs, batch.labels, causal=False, more=more)[cells].float()      # (N, C)
            colors = stay + said_before + self.head["color"](h)
            wrong = self.head["wrong"](h)
            doubt = -torch.stack([sure, share, said, colors.detach().log_softmax(-1).gather(1, guess[:, None] % COLORS)[:, 0]], 1)
            pooled = torch.cat([h, wrong.detach(), doubt], 1)
            mean = torch.zeros(D, pooled.shape[1], device=h.device).index_add(0, doc, pooled) / size
            most = torch.zeros_like(mean).scatter_reduce(0, doc[:, None].expand_as(pooled), pooled, "amax", include_self=False)
            right = self.head["right"](torch.cat([mean, most], 1))[:, 0]
            out.append((guess, colors.float(), wrong[:, 0].float(), right.float()))
            said, guess = colors.detach().float().log_softmax(-1).max(-1)      # detached: none learns to help the next
        return out


# --------------------------------------------------------------------------------------------------------------------
# Drafting: on tasks that the drafting network never saw

def drafts_of(model, tasks, config, rows, device, log, sampled=0):
    """Drafts under all views, with vote shares; and of the first `sampled` tasks one more, sampled. -> (drafts, for each its (task number, query
    number, view, symmetry, colour table))."""
    torch.manual_seed(config.seed)
    drafts, asked, _ = draft(model, tasks, config, rows, device, log, mend=True)
    if sampled:                                                # each stands for its task's plain view: the other views vote on it as they do in use
        plain = dataclasses.replace(config, views=1)
        more, of, _ = draft(model, tasks[:sampled], plain, rows, device, log, mend=True, temperature=config.refine_temperature)
        drafts, asked = drafts + more, asked + of
    return shares(drafts, asked), asked


def make_drafts(config, data, path, model, rows, device, log):
    """What the refiner learns from: drafts where the first network fails, some where it does not, some damaged answers. -> tensors to cache."""
    c, rng = dataclasses.replace(config, views=config.refine_views), np.random.default_rng([config.seed, 2])
    tasks, seen = lessons(c, data)
    check_unseen(tasks, seen, path)
    single = [task._replace(test=[pair]) for task in tasks for pair in task.test]
    exam = exam_of(single, c, rows, device)
    exact = teacher_forced(model, exam, c, device, log)["exact"].astype(bool)                   # greedy would draft it exactly: no need to decode
    hard, easy = ([single[q] for q in exam.where if exact[q] == right] for right in (False, True))
    log(f"{path}: fails {len(hard)} of {len(single)} tasks it never saw")
    some = hard + easy[:max(len(hard), c.refine_tasks // 10)]
    drafted = drafts_of(model, some, c, rows, device, log, len(hard) if c.refine_temperature else 0) if some else ([], [])
    out, _ = as_shown(c, some, *drafted, rows, model.shape.frame)
    pool = np.concatenate([d.sure.reshape(2, -1) for d in out], 1) if out else np.array([[0.0], [1.0]])
    for task in some if c.refine_corrupt else []:              # nobody drafted it: each cell is as sure as some cell of a draft
        grid = damage(rng, *task.test[0])
        view = int(rng.integers(arc.SYMMETRIES)) if c.symmetries else 0, np.arange(arc.VOCAB)
        out.append(shown(c, task, 0, view, rows.get(task.id, 0), grid, pool[:, rng.integers(pool.shape[1], size=grid.shape)], DAMAGED))
    if c.refine_corrupt < 1 and not any(d.kind == WRONG for d in out):
        raise UserError(f"{path}: of {len(single)} tasks that it never saw it drafts none wrong, so there is nothing to learn from. More tasks: "
                        f"--refine_tasks (now {c.refine_tasks}), or hold out more, such as --fold=0/2; or an earlier checkpoint: --refine_from=")
    return Drafts.pack(out, c)


def weights_hash(found):
    """Of the weights that draft; what else a checkpoint's file holds does not matter."""
    return hashlib.sha256(b"".join(w.numpy().tobytes() for w in found["model"].values())).hexdigest()


CACHE = "nanoarc drafts 3"
SOURCES = ("seed", "refine_train", "refine_tasks", "refine_views", "refine_temperature", "refine_corrupt")


def cached(place, key, make, log):
    """What make() made, from the file `place` where that is of the same key: of this very checkpoint and these knobs."""
    if place.is_file():
        try:
            kept = torch.load(place, weights_only=True)
        except UNREADABLE:
            kept = {}
        if isinstance(kept, dict) and kept.get("kind") == CACHE and kept["key"] == key:
            log(f"drafts: from {place}")
            return kept["data"]
        log(f"drafts: those in {place} are of another network or other knobs; made anew")
    made = make()
    save_whole(place, {"kind": CACHE, "key": key, "data": made})
    return made


# --------------------------------------------------------------------------------------------------------------------
# Training and using

def lesson_of_trunk(trunk, batch, cells, states, answers):
    """The trunk goes on as in train.py, on tasks that it failed: loss of what demonstrations answer, and of the query's cells after each
    beginning of the draft, which may be wrong."""
    before, after = states.chunk(2, 1)
    shown = torch.where(batch.query > 0, IGNORE, batch.targets)
    known = torch.where(answers < COLORS, answers, IGNORE)
    return sum(F.cross_entropy(trunk.head(h).float(), targets, ignore_index=IGNORE, reduction="sum")
               for h, targets in ((after, shown), (before[cells], known)))


def learn(config, model, data, rehearse, device, item, micro):
    """Forward and backward of one step, in micro-batches. Each loop is judged: colours and `wrong` per cell, where cells that are wrong
    in its guess count refine_wrong times; `right` per document. -> (mean loss, that of the last loop's colours), on the device."""
    more, docs = item
    if more:                                                   # rules that stand in the weights are lost, if these learn of other tasks only
        rehearse(more, micro)
    n, total, blind = docs.targets(QUERY), torch.zeros(2, device=device), not config.refine_draft
    for part in bins(docs.lengths(), micro):
        batch, cells, sure, answers = data.batch(docs.take(part))
        known = (answers < COLORS).float()
        with autocast(config, device):
            states = model.read(batch, cells, blind)
            loops = model(batch, cells, sure, states, config.refine_loops, blind)
            loss = lesson_of_trunk(model.trunk, batch, cells, states, answers) / n
        for guess, colors, wrong, right in loops:
            miss = (guess != answers).float()
            weight = known * (1 + (config.refine_wrong - 1) * miss)
            nll = F.cross_entropy(colors, answers.clamp(max=COLORS - 1), reduction="none") * weight
            flaw = F.binary_cross_entropy_with_logits(wrong, miss, reduction="none") * weight
            exact = torch.zeros_like(right).index_add(0, batch.doc[cells], miss) == 0
            rating = F.binary_cross_entropy_with_logits(right, exact.float(), reduction="sum")
            loss = loss + ((nll.sum() + 0.2 * flaw.sum()) / n + rating / len(docs.labels)) / len(loops)
        loss.backward()
        total += torch.stack([loss.detach(), nll.detach().sum() / n])
    return total


@torch.no_grad()
def refine(model, drafts, asked, config, device):
    """-> a list of Candidates, one for each document of `drafts`; asked: (symmetry, colour table) of each. One loop more than there are
    corrections rates the last."""
    model.eval()
    blind = not config.refine_draft
    docs = drafts.documents([(d, None, np.arange(arc.VOCAB)) for d in range(len(drafts.docs))])
    heights = [int((drafts.data["tokens"][start + prompt:start + length] == ROW).sum()) for start, prompt, length in drafts.last()]
    out = [None] * len(drafts.docs)
    for which in bins(docs.lengths(), max(config.micro_limit(), config.max_len)):
        batch, cells, sure, _ = drafts.batch(docs.take(which))
        with autocast(config, device):
            loops = model(batch, cells, sure, model.read(batch, cells, blind), config.refine_loops + 1, blind)
        given = batch.tokens[cells]
        guesses = torch.stack([given] + [guess for guess, *_ in loops[1:]]).cpu().numpy()                       # (loops + 1, N)
        ratings = torch.stack([right for *_, right in loops]).cpu().numpy()                                     # (loops + 1, D)
        ends = np.cumsum(np.bincount(batch.doc[cells].cpu(), minlength=len(which)))
        if blind:
            ratings[0] = -np.inf                               # the draft was not seen
        for d, part, rating in zip(which, np.split(guesses, ends[:-1], axis=1), ratings.T):
            symmetry, table = asked[d]
            out[d] = Candidates([arc.unview(cells.reshape(heights[d], -1), symmetry, table) for cells in part], rating)
    return out


def refined(model, tasks, drafts, asked, config, rows, device):
    """Corrections of drafts (drafts_of). -> Refined."""
    parts, which = as_shown(config, tasks, drafts, asked, rows, model.shape.frame)
    drafted = Drafts(Drafts.pack(parts, config), config, device) if parts else None
    found = refine(model, drafted, [asked[q][3:] for q in which], config, device) if parts else []
    candidates = [None] * len(drafts)
    for q, c in zip(which, found):
        candidates[q] = c
    return Refined(tasks, drafts, candidates)


def solve(config, model, drafting, tasks, rows, margin, device, log, step):
    """Draft, refine, vote, score, and write submission.json. -> (metrics, empty where no answer is known; attempts; those of the drafts alone)."""
    begun = time.time()
    result = refined(model, tasks, *drafts_of(drafting, tasks, config, rows, device, log), config, rows, device)
    order = lambda judge, drafts: ranked(judge, tasks, drafts, score(tasks, drafts), config, rows, device, log)
    (drafted, before), (scores, attempts) = order(drafting, result.before), order(model.trunk, result.after(margin))     # the first would say its mistakes again
    write_json(log.folder / "submission.json", submission(tasks, attempts))
    log(f"{len(result.before)} drafts refined in {clock(time.time() - begun)}; attempts are in {log.folder / 'submission.json'}")
    if not scores["tasks"]:
        log("no answer of these tasks is known, so there is no score")
        return {}, attempts, before
    plain = [(d, c, decide(c, margin)) for d, c in zip(result.before, result.candidates) if c is not None and d.view == 0]
    for d, grid in [(d, c.grids[k]) for d, c, k in plain if k][:3]:
        log(picture(next(t for t in tasks if t.id == d.task), grid, "refined"))
    metrics = report(result, margin)
    for name, found in (("before", drafted), ("after", scores)):
        metrics.update({f"{key}_{name}": found[key] for key in ("pass1", "pass2", "pass1_counted", "pass2_counted") if key in found})
    return {**metrics, "tasks": scores["tasks"], "views": config.views, "step": step, "margin": margin, "source": config.test,
            "seconds": time.time() - begun, "times_scored": log.times_scored(config.test)}, attempts, before


def check_drafter(first, config, path):
    """The drafting checkpoint is what this config trains."""
    may_change = {*MAY_CHANGE, "eval_only", "dtype", "eval_every", *(name for name in vars(config) if name.startswith("refine_"))}
    if config.eval_only or not config.fold:                    # what fold held out depends on them, and what the guard dropped
        may_change |= {"test", "tasks"}
    check_shape(first, shape_for(config, config.frame or first["shape"]["frame"], first["shape"]["n_tasks"]), path)
    if differ := changed(first, config, may_change):
        raise UserError(f"{path}: trained with another config: {differ}. Give the same knobs as to train.py, or another checkpoint by --refine_from=")


def main(argv=None):
    """Run with the arguments of a command line. -> metrics."""
    begun = time.time()
    config, given = knobs.load(sys.argv[1:] if argv is None else argv)
    device, why = pick_device(config)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    path = Path(config.refine_from or f"{config.out_dir}/ckpt.pt")
    first = load_checkpoint(path, cure="run `python train.py` with the same config first, or name a checkpoint by --refine_from=")
    check_drafter(first, config, path)
    own = dataclasses.replace(config, out_dir=f"{config.out_dir}/refine", n_layer=config.refine_layers, max_steps=config.refine_steps,
                              learning_rate=config.refine_learning_rate, compile=False)
    if config.init_from and not config.eval_only:
        raise UserError(f"init_from = {config.init_from!r}: the refiner starts from the network that drafts, which --refine_from= names")
    source = config.init_from or (f"{own.out_dir}/ckpt.pt" if config.eval_only or config.resume else "")
    found = load_checkpoint(source, "Refiner", "run refine.py without --eval_only or --resume first") if source else None
    old = prepare_folder(own)
    log = Log(own.out_dir)

    data = load_data(config)
    arc.check_frame(data["val"] + data["test"], first["shape"]["frame"])
    shape = Shape(**first["shape"])
    model = Refiner(dataclasses.replace(shape, n_layer=own.n_layer, dropout=own.dropout), shape).to(device)
    drafting, rows = rebuild(first, device), rows_of(first["task_ids"], data["val"] + data["test"])
    by_name = {name: row for row, (name, _) in enumerate(first["task_ids"], 1)}                # with `fold` a task that is drafted has fewer demonstrations
    check_known(config, data["val"] + data["test"], rows)
    part = None                                                # eval_only: no optimizer's state, so `averaged` leaves the weights as they are
    if not config.eval_only:
        if "training" not in first:
            raise UserError(f"{path}: holds weights only, so its training cannot go on; name a ckpt.pt by --refine_from=")
        model.trunk.load_state_dict(first["training"])
        part = model.trunk, first["optimizer"]
    optimizer = Optimizer(model, own, part)
    run = Run(own, model, optimizer, first["task_ids"], log)
    known = [pair for task in data["val"] + data["test"] for pair in known_pairs(task)]
    key = {"model": weights_hash(first), "banned": hashlib.sha256(b"".join(sorted(data["banned"]))).hexdigest(), **{name: getattr(own, name) for name in SOURCES}}
    if found and found["drafts"]["model"] != key["model"]:
        raise UserError(f"{source}: learned to correct the drafts of another network than {path} holds now; train it anew with --overwrite")
    shapes = lambda weights: {name: weight.shape for name, weight in weights.items()}
    if found:
        check_shape(found, model.shape, source)
        if shapes(found["model"]) != shapes(model.state_dict()):
            raise UserError(f"{source}: a refiner of another version of this code; train it anew with --overwrite")
    if config.resume:
        run.resume(found, source)
    elif found:
        model.load_state_dict(found["model"])
        run.step = found["step"]
    for stale in old:                                          # all is well: now, and not before, an older run may go
        stale.unlink()
    log(f"device: {device.type} ({why}); torch {torch.__version__}")
    for line in data["say"]:
        log(line)
    log(f"drafts by {path}, step {first['step']}; refiner: {sum(model.counts()):,} parameters, {own.n_layer} blocks, {config.refine_loops} loops")

    metrics, tried, margin = {}, (), found.get("margin", 0.0) if found else 0.0
    if not config.eval_only:
        write_json(log.folder / "config.json", {**dataclasses.asdict(own), "given": given, "versions": run.versions,
                                                "machine": f"{device.type} ({why})", "command": shlex.join(sys.argv) if argv is None else ""})
        run.more["drafts"] = key
        made = cached(log.folder / "drafts.bin", key, lambda: make_drafts(config, data, path, drafting, by_name, device, log), log)
        beside = FromTasks(data["train"], own, by_name, device, data["asked"]) if own.task_embed else None
        lesson = Drafts(made, own, device, {arc.encode_pair(p)[0].tobytes() for p in known}, beside)
        rehearse = Backward(own, model.trunk, beside, device)
        kinds = Counter(lesson.docs[:, 4].tolist())
        log(f"drafts to learn from: {kinds[WRONG]} wrong, {kinds[RIGHT]} right, {kinds[DAMAGED]} damaged answers; {clock(time.time() - begun)} "
            "so far")
        val = drafts_of(drafting, data["val"], dataclasses.replace(own, views=own.refine_views), rows, device, log) if data["val"] else ([], [])
        answers = any(answer is not None for task in data["val"] for _, answer in task.test)

        def validation(step):
            result = refined(model, data["val"], *val, own, rows, device)
            m = compare(result, 0.0)
            log(f"  val: exact {m['single_before']:.1%} -> {m['single_after']:.1%}  cells {m['cells_before']:.1%} -> {m['cells_after']:.1%}  "
                f"fixed {m['fixed']}  broken {m['broken']}  near misses {m['near_misses']}, {m['near_misses_fixed']} of them fixed")
            run.more["margin"] = best_margin(result)
            return {**m, "exact": m["single_after"], "loss": -m["cells_after"]}

        train(own, model, optimizer, run, lesson, partial(learn, own, model, lesson, rehearse, device), validation if answers else None, device, log)
        margin = run.more.get("margin", margin)
        metrics.update(train_minutes=run.seconds / 60)
    if data["test"]:
        with averaged(model, optimizer):
            scores, *tried = solve(own, model, drafting, data["test"], rows, margin, device, log, run.step)
        metrics.update(scores)
    metrics["minutes"] = (time.time() - begun) / 60
    if "tasks" in metrics:
        log.record(kind="test", **metrics)
    log.close(metrics)
    write_report(log, own, metrics, data["test"], *tried)
    return metrics


if __name__ == "__main__":
    command_line(main, "refines")
