"""The pipeline as a user runs it: configs, training, resume, checkpoints, evaluation, what a run leaves."""
import json
import os
import re
import signal
import subprocess
import sys
import weakref
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from schedulefree import ScheduleFreeWrapper

import config as knobs
import evaluate
import replay
import train
from config import Config, UserError
from conftest import (ROOT, TINY, batch_of, checkpoint, equal, filled_model, flags, flip_tasks, make_task, parameters,
                      position_parameters, records, tiny_shape, write_tasks)
from data import arc
from data.batch import IGNORE, Generated
from data.exam import questions
from data.score import Draft, score
from model import GPT, from_checkpoint, has_varlen
from optim import OPTIMIZERS, Muon, Optimizer, averaged, learning_rate, orthogonal
from replay import Recorded

CONFIGS = sorted(path.name for path in (ROOT / "config").glob("[!_]*.py"))


def log_of(folder):
    return (folder / "log.txt").read_text()


def in_weights(file, **more):
    """Knobs of the transductive form: a task's rule is in the weights."""
    return dict(train=file, val="", test=file, demos=0, task_embed=True, max_len=64, batch_tokens=256, **more)


def in_context(file, **more):
    return dict(train=file, val="", test="", **more)


# --------------------------------------------------------------------------------------------------------------------
# Configs

@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds_the_network_it_describes(name):
    config, _ = knobs.load([str(ROOT / "config" / name)])
    with torch.device("meta"):
        model = GPT(train.shape_for(config, config.frame or 32, 7 if config.task_embed else 0))
    assert sum(model.counts()) == parameters(model.shape, position_parameters(model.shape))
    assert config.out_dir == f"out/{name[:-3]}"


@pytest.mark.parametrize("name", CONFIGS)
def test_config_trains_two_steps(name, run, tmp_path):
    config, _ = knobs.load([str(ROOT / "config" / name)])
    small = dict(n_layer=1, n_embd=32, n_head=2, n_kv_head=1, n_mlp=32, max_steps=2, views=1, oned_eval=1,
                 batch_tokens=config.max_len, micro_tokens=0, log_every=1, device="cpu", max_answer=40)
    everything = [source for source in (config.train, config.val, config.test) if source and not source.startswith("oned")]
    if everything:
        train_file, val_file = (write_tasks(tmp_path / f"{i}.json", flip_tasks(6, seed=i)) for i in range(2))
        tasks = [task._replace(id=task.id + "val") for task in flip_tasks(3, seed=1)]
        small.update(train=train_file, val=write_tasks(val_file, tasks), test=val_file, tasks="")
    train.main([f"config/{name}", *flags(**small, out_dir=tmp_path / "run")])
    assert [line["step"] for line in records(tmp_path / "run", "train")] == [1, 2]


def test_every_knob_can_be_given(tmp_path, monkeypatch):
    """Dashes, bare flags and later values; a config file first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("n_layer = 3\nlearning_rate = 1\n_private = 'not a knob'\n")
    config, given = knobs.load(["mine.py", "--n-embd=64", "--resume", "--n_layer=2", "--colors=False"])
    assert (config.n_layer, config.n_embd, config.resume, config.colors, config.out_dir) == (2, 64, True, False, "out/mine")
    assert config.learning_rate == 1.0 and type(config.learning_rate) is float and "_private" not in given
    for field in fields(Config):
        value = getattr(config, field.name)
        assert type(value) is field.type and knobs.load(["mine.py", f"--{field.name}={value}"])


# --------------------------------------------------------------------------------------------------------------------
# Learning

@pytest.mark.parametrize("optimizer", ["muon_schedulefree", "adamw"])
def test_a_tiny_network_memorises_a_task(run, tmp_path, optimizer):
    tasks = [task._replace(test=task.train[:1]) for task in flip_tasks(2)]
    file = write_tasks(tmp_path / "two.json", tasks)
    metrics = run(**in_weights(file, optimizer=optimizer, max_steps=120, learning_rate=1e-2, colors=False, views=1))
    assert metrics["pass1"] == metrics["exact"] == 1 and metrics["loss"] < 0.1
    answers = json.loads((tmp_path / "run" / "submission.json").read_text())
    assert answers == {task.id: [dict.fromkeys(("attempt_1", "attempt_2"), task.test[0][1].tolist())] for task in tasks}


@pytest.mark.parametrize("knobs", [dict(), dict(demos=0, task_embed=True), dict(task_embed=True),
                                   dict(symmetries=True, view_embed=True)])
def test_every_form_trains_and_is_scored(run, tmp_path, knobs):
    file, val = (write_tasks(tmp_path / f"{i}.json", [task._replace(id=f"{i}/{task.id}") for task in flip_tasks(6, seed=i)])
                 for i in range(2))
    metrics = run(train=file, val=val, test=val, **knobs)
    assert metrics["n"] == 6 and 0 < metrics["loss"] < 4 and metrics["val_exact"] == 0
    assert "6 tasks from" in log_of(tmp_path / "run")


def test_generated_training_tasks_are_not_taken_for_those_of_val_and_test(run, tmp_path):
    """The same number in two streams is not the same task."""
    knobs = dict(train="oned#30", oned_families="1d_recolor_cnt", oned_min_width=30, oned_max_width=30, oned_eval=10, oned_lift=0)
    run(**knobs)
    assert not json.loads((tmp_path / "run" / "config.json").read_text())["dropped"]
    run(**knobs, demos=0, task_embed=True, out="weights")
    assert "demonstrations of the 20 tasks of val and test" in log_of(tmp_path / "weights")


# --------------------------------------------------------------------------------------------------------------------
# Optimizers

def model_and_optimizer(**knobs):
    torch.manual_seed(0)
    model = GPT(tiny_shape(n_tasks=3, n_views=8))
    return model, Optimizer(model, Config(**knobs))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_parameter_is_in_exactly_one_group(optimizer):
    model, opt = model_and_optimizer(optimizer=optimizer)
    grouped = [id(p) for part in opt.parts for group in part.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_is_for_matrices_and_embed_decay_for_embeddings(optimizer):
    """One step without a gradient leaves nothing but the decay."""
    model, opt = model_and_optimizer(optimizer=optimizer, weight_decay=0.5, embed_decay=0.25)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step(0.1)
    for name, p in model.named_parameters():
        decay = 0 if p.ndim == 1 else 0.5 if name.startswith(("blocks", "head")) else 0.25
        assert torch.allclose(p, before[name] * (1 - 0.1 * decay), atol=1e-6), name
        assert p.grad is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_averaged_puts_the_weights_back_bit_for_bit(optimizer):
    model, opt = model_and_optimizer(optimizer=optimizer)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        opt.step(0.01)
    weights, state = ({k: v.clone() for k, v in model.state_dict().items()} for _ in range(2))
    with averaged(model, opt):
        assert not model.training
        inside = {k: v.clone() for k, v in model.state_dict().items()}
    assert model.training and equal(dict(model.state_dict()), weights)
    assert equal(inside, weights) != ("schedulefree" in optimizer)
    with pytest.raises(KeyError), averaged(model, opt):        # also when evaluation fails
        raise KeyError
    assert equal(dict(model.state_dict()), weights) and model.training


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_evaluation_does_not_change_training(run, tmp_path, optimizer):
    for name, every in (("often", 1), ("once", 100)):
        run(out=name, optimizer=optimizer, eval_every=every, max_steps=4, dropout=0.1, keep_every=every)
    often, once = (checkpoint(tmp_path / name) for name in ("often", "once"))
    for key in ("training", "model", "optimizer"):
        assert equal(often[key], once[key])
    assert equal(often["training"], often["model"]) != ("schedulefree" in optimizer)
    assert sorted(p.name for p in (tmp_path / "often").glob("step_*")) == [f"step_{i:06d}.pt" for i in range(1, 5)]


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_muon_in_stacks_is_the_libraries_muon(average):
    """torch.optim.Muon, and schedulefree.ScheduleFreeWrapper around it: the same weights and the same average."""
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(i)))
                     for i, shape in enumerate([(32, 32), (16, 32), (32, 32), (32, 16), (32, 32)])] for _ in range(2))
    mine = Muon(ours, weight_decay=0.3, average=average)
    other = torch.optim.Muon(theirs, weight_decay=0 if average else 0.3, adjust_lr_fn="match_rms_adamw")
    if average:
        other = ScheduleFreeWrapper(other, weight_decay_at_y=0.3, momentum=average)
        other.train()
    start = [p.detach().clone() for p in ours]
    def same():
        for a, b, c in zip(ours, theirs, start):
            assert (a - b).norm() < 0.04 * (b - c).norm()             # orthogonal() rounds to bfloat16 in another order
    for step in range(6):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for opt in (mine, other):
            for group in opt.param_groups:
                group["lr"] = 0.01 * min(1, (step + 1) / 3)    # a warm-up, whose steps count less in the average
            opt.step()
        same()
    if average:
        mine.eval()
        other.eval()
        same()


def test_orthogonal():
    """Singular values of tall, wide and square matrices end near 1, each of a stack on its own."""
    for shape in ((3, 24, 24), (2, 16, 48), (2, 48, 16)):
        X = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 1e3])[:shape[0], None, None]
        values = torch.linalg.svdvals(orthogonal(X).float())
        assert values.shape == (shape[0], min(shape[1:])) and values.max() < 1.3 and values.median() > 0.65


def test_rates():
    """Schedule-free stays flat after the warm-up, the controls fall to zero."""
    config = Config(max_steps=100, warmup=0.1, decay=0.2, learning_rate=1.0)
    for optimizer in OPTIMIZERS:
        opt = model_and_optimizer(optimizer=optimizer)[1]
        rates = [learning_rate(config, opt, step) for step in range(100)]
        assert np.allclose(rates[:10], np.arange(1, 11) / 10) and np.allclose(rates[10:80], 1)
        assert np.allclose(rates[80:], 1 if "schedulefree" in optimizer else np.arange(20, 0, -1) / 20)


# --------------------------------------------------------------------------------------------------------------------
# Resume

class Killed(Exception):
    pass


def at_step(monkeypatch, number, act):
    """Call act() before the optimizer's step `number` (0, 1, ..) of a run."""
    real, calls = Optimizer.step, []

    def step(self, lr):
        calls.append(1)
        if len(calls) == number + 1:
            act()
        real(self, lr)
    monkeypatch.setattr(Optimizer, "step", step)


def kill():
    raise Killed


def interrupt():
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("how", ["killed", "interrupted"])
@pytest.mark.parametrize("source", ["generated", "file"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resume_equals_uninterrupted(run, tmp_path, monkeypatch, optimizer, source, how):
    """To the bit: weights, averaged weights, the optimizer's state, the best score. A killed run lost the steps since its last
    checkpoint, an interrupted one did not."""
    knobs = dict(optimizer=optimizer, max_steps=6, eval_every=3, dropout=0.1, symmetries=True)
    if source == "file":
        tasks = flip_tasks(8)
        file, val = write_tasks(tmp_path / "tasks.json", tasks[:6]), write_tasks(tmp_path / "val.json", tasks[6:])
        knobs.update(train=file, val=val, test="")
    run(out="whole", **knobs)
    with monkeypatch.context() as patch, pytest.raises(Killed if how == "killed" else SystemExit) as stopped:
        at_step(patch, 4, kill if how == "killed" else interrupt)
        run(out="parts", **knobs)
    assert how == "killed" or stopped.value.code == 130
    saved = checkpoint(tmp_path / "parts")["step"]
    assert saved == (3 if how == "killed" else 5)
    run(out="parts", resume=True, **knobs)
    assert f"resumed at step {saved}" in log_of(tmp_path / "parts")
    whole, parts = (checkpoint(tmp_path / name) for name in ("whole", "parts"))
    for key in ("training", "model", "optimizer", "step", "best", "task_ids", "shape"):
        assert equal(whole[key], parts[key]), key


def test_resume_of_a_finished_run_scores_again(run, tmp_path):
    first = run()
    second = run(resume=True)
    assert first["loss"] == second["loss"] and (first["times_scored"], second["times_scored"]) == (1, 2)
    assert [line["step"] for line in records(tmp_path / "run", "test")] == [2, 2]


@pytest.mark.parametrize("change", [dict(learning_rate=1e-4), dict(seed=2), dict(optimizer="adamw"), dict(max_steps=9),
                                    dict(symmetries=True), dict(n_embd=64), dict(encoding="rope")])
def test_resume_refuses_another_run(run, change):
    run()
    with pytest.raises(UserError, match="|".join(change)):
        run(resume=True, **change)


def test_best_survives_worse_scores_and_resume(run, tmp_path, monkeypatch):
    """A later, worse network does not take the place of the best, not even after a resume."""
    scores = iter([0.5, 0.2, 0.1])
    monkeypatch.setattr(train, "validate", lambda *_: dict(loss=1.0, cells=0.0, exact=next(scores), n=1))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_step(patch, 2, kill)
        run(max_steps=3, eval_every=1, test="")
    metrics = run(max_steps=3, eval_every=1, test="", resume=True)
    assert metrics["val_exact"] == 0.5 and checkpoint(tmp_path / "run", "best.pt")["step"] == 1


# --------------------------------------------------------------------------------------------------------------------
# Micro-batches, memory, numbers that are none

@pytest.mark.parametrize("source", ["generated", "file"])
def test_micro_batches_add_up_to_the_whole(run, tmp_path, source):
    """Loss, gradient norm and the step of a batch taken at once, and in parts."""
    knobs = dict(optimizer="adamw", max_steps=1, log_every=1, batch_tokens=1280, learning_rate=1e-3)
    if source == "file":
        knobs.update(in_context(write_tasks(tmp_path / "tasks.json", flip_tasks(30))))
    for micro in (0, 320, 400):
        run(out=str(micro), micro_tokens=micro, **knobs)
    first, *rest = ((records(tmp_path / out, "train")[0], checkpoint(tmp_path / out)) for out in ("0", "320", "400"))
    for record, found in rest:
        for key in ("loss", "loss_all_outputs", "norm"):
            assert np.isclose(record[key], first[0][key], rtol=1e-5)
        for name, weights in found["training"].items():
            assert torch.allclose(weights, first[1]["training"][name], atol=2e-4), name


def runs_out(monkeypatch, numbers, error=None):
    """Let these calls of train.Backward (0, 1, ..) fail after they have done their work."""
    real, calls = train.Backward.__call__, []

    def backward(*args):
        result = real(*args)
        calls.append(1)
        if len(calls) - 1 in numbers:
            raise error or torch.OutOfMemoryError("injected")
        return result
    monkeypatch.setattr(train.Backward, "__call__", backward)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))                     # only the order is seen: one network might have it right by chance
def test_rated_drafts_are_ranked_by_their_likelihood_under_all_views(seed):
    """Two queries, a task embedding, a grid that fits under some views only: as one by one by hand."""
    task, other = flip_tasks(2)
    task = task._replace(test=[task.train[0], task.train[1]])
    model, device, rows = filled_model(tiny_shape(max_len=128, n_tasks=3), seed).eval(), torch.device("cpu"), {task.id: 2}
    config = Config(max_len=128, max_answer=15, symmetries=True, demos=1, rate_views=6, micro_tokens=256, task_embed=True)
    a, b, c = np.array([[1, 2, 3]]), np.array([[1, 2, 4]]), np.ones((1, 9), int)         # lying 11 tokens, standing 19
    drafts = [Draft(task.id, i, v, grid, -0.5) for i in (0, 1) for v, grid in enumerate([a, a, b, None, c][:5 - i])]
    drafts.append(Draft(other.id, 0, 0, a, -0.3))
    ranked = evaluate.rate(model, [task, other], score([task, other], drafts)[1], config, rows, device)
    assert [len(ranked[key]) for key in ((task.id, 0), (task.id, 1), (other.id, 0))] == [3, 2, 1]
    for i, grids in ((0, [a, b, c]), (1, [a, b])):
        views = [(s, table) for _, test, _, s, table in questions([task], 6, config) if test == i]
        views = [(s, table) for s, table in views if all(arc.encode_pair((x, y))[0].size - arc.encode_pair((x, y))[1] <= 15
                                                         for g in grids for x, y in arc.view_task(task._replace(test=[(task.test[i][0], g)]), s, table).test)]
        expected = []
        for grid in grids:
            values = []
            for s, table in views:
                batch = batch_of([arc.view_task(task._replace(train=task.train[:1], test=[(task.test[i][0], grid)]), s, table)])
                labels = torch.tensor([[2, s]]).repeat(len(batch.tokens), 1)
                logp, at = model(batch.tokens, batch.coords, batch.docs, labels).log_softmax(-1), batch.query.bool()
                values.append(float(logp[at].gather(1, batch.targets[at][:, None]).sum()))
            expected.append(np.mean(values))
        assert 0 < len(views) and (len(views) < 6) == (len(grids) == 3)
        order = [next(k for k, grid in enumerate(grids) if np.array_equal(grid, g)) for g in ranked[task.id, i]]
        assert order == sorted(range(len(grids)), key=lambda k: -expected[k])


def test_only_the_best_grids_are_rated(monkeypatch):
    """The others stay behind them, in the order of their votes."""
    task = flip_tasks(1)[0]
    grids = [np.array([[a, b, 1]]) for a in (1, 2, 3, 4) for b in (5, 6)]
    drafts = [Draft(task.id, 0, 10 * k + v, grid, -0.5) for k, grid in enumerate(grids) for v in range(10 - k)]
    monkeypatch.setattr(evaluate, "RATED", 3)
    model, config = filled_model(tiny_shape(max_len=128)).eval(), Config(max_len=128, max_answer=30, demos=1, rate_views=2)
    real = evaluate.teacher_forced
    def forced(model, exam, *rest):                            # the third is the likeliest
        got = real(model, exam, *rest)
        assert len(exam.tasks[0].test) == 3
        return {**got, "nll": np.array([float(3 - i) for _, i, *_ in exam.asked])}
    monkeypatch.setattr(evaluate, "teacher_forced", forced)
    ranked = evaluate.rate(model, [task], score([task], drafts)[1], config, {}, torch.device("cpu"))[task.id, 0]
    assert [arc.grid_key(grid) for grid in ranked] == [arc.grid_key(grids[k]) for k in (2, 1, 0, 3, 4, 5, 6, 7)]


def test_focus_reaches_the_tasks_that_are_asked(tmp_path, run, monkeypatch, capsys):
    """Those of val and of test, and no others."""
    files = {name: write_tasks(tmp_path / f"{name}.json", [t._replace(id=f"{name}{i}") for i, t in enumerate(flip_tasks(2, seed=seed))])
             for seed, name in enumerate(("train", "val", "test"))}
    streams, real = [], train.FromTasks
    monkeypatch.setattr(train, "FromTasks", lambda *args: streams.append(real(*args)) or streams[-1])
    run(**files, demos=0, task_embed=True, focus=3.0, max_steps=1)
    assert {task.id: times for task, times in zip(streams[0].tasks, streams[0].times)} == \
        {f"{name}{i}": 1.0 if name == "train" else 3.0 for name in files for i in (0, 1)}
    assert "shown 3 times as often" in capsys.readouterr().out


def test_memory_too_small_to_judge_halves_the_batch(monkeypatch, capsys):
    tasks = flip_tasks(9)
    model, config = filled_model(tiny_shape(max_len=256)).eval(), Config(max_len=256, max_answer=30, demos=1)
    exam = evaluate.exam_of(tasks, config, {}, torch.device("cpu"))
    expected, real = evaluate.validate(model, exam, config, torch.device("cpu")), exam.batch
    def small(which):
        if len(which) > 2:
            raise torch.OutOfMemoryError("injected")
        return real(which)
    exam.batch = small
    found = evaluate.validate(model, exam, config, torch.device("cpu"))
    assert np.isclose(found["loss"], expected["loss"]) and found["cells"] == expected["cells"]
    assert "out of memory with 9 documents at once: half of them" in capsys.readouterr().out


def test_ranking_by_likelihood_changes_the_attempts(run, monkeypatch):
    """The wrong grid has more votes, and all views find the right one likely."""
    def draft(model, tasks, *_, **__):
        wrong = lambda answer: np.where(answer == 1, 2, 1)
        drafts = [Draft(t.id, 0, v, grid, -0.1) for t in tasks for v, grid in enumerate([wrong(t.test[0][1])] * 2 + [wrong(t.test[0][1].T)] * 2
                                                                                       + [t.test[0][1]])]
        return drafts, None, 0
    monkeypatch.setattr(train, "draft", draft)
    real = evaluate.teacher_forced
    metrics = {}
    for name, rate_views in (("counted", 0), ("rated", 3)):
        monkeypatch.setattr(evaluate, "teacher_forced", real)
        if rate_views:
            def forced(model, exam, *rest):
                got = real(model, exam, *rest)
                if all(exam.tasks[t].test[i][1] is not None for t, i, *_ in exam.asked) and max(i for _, i, *_ in exam.asked) > 0:
                    got["nll"] = np.array([0.0 if i == len(exam.tasks[t].test) - 1 else 9.0 for t, i, *_ in exam.asked])
                return got
            monkeypatch.setattr(evaluate, "teacher_forced", forced)
        metrics[name] = run(out=name, rate_views=rate_views, max_steps=2)
    assert metrics["counted"]["pass1"] == 0 and metrics["rated"]["pass1_counted"] == 0
    assert metrics["rated"]["pass1"] == 1 and metrics["rated"]["oracle"] == metrics["counted"]["oracle"] == 1


def test_votes_are_kept_where_ranking_fails(run, tmp_path, monkeypatch):
    run(out="votes")
    def rate(*_):
        raise UserError("no")
    monkeypatch.setattr(evaluate, "rate", rate)
    with pytest.raises(UserError, match="^no$"):
        run(out="failed", rate_views=2)
    votes, failed = ((tmp_path / out / "submission.json").read_text() for out in ("votes", "failed"))
    assert votes == failed


def test_demonstrations_that_do_not_fit_are_counted(run, tmp_path, capsys):
    run(train=write_tasks(tmp_path / "t.json", flip_tasks(12, demos=6, most=5)), test="", val="", demos=6, max_len=140, max_answer=40, frame=8)
    assert re.search(r"[1-9]\d* demonstrations did not fit max_len = 140 in training", capsys.readouterr().out)


class Replayed:
    """What torch.cuda.graph would record of work, on any device: always the same memory is read and written."""

    def __init__(self, recorded, work, reads):
        self.recorded, self.work, self.reads = recorded, work, reads
        self.out, self.grads = torch.zeros(2), [torch.zeros_like(p) for p in recorded.parameters]

    def replay(self):
        kept = [p.grad for p in self.recorded.parameters]
        for p in self.recorded.parameters:
            p.grad = None
        self.out.copy_(self.work(*self.reads))
        for p, grad, old in zip(self.recorded.parameters, self.grads, kept):
            grad.copy_(p.grad)
            p.grad = old


@pytest.mark.parametrize("device, knobs, ampere, kernels, dtype, static, said", [
    ("cpu", {}, False, False, torch.float32, False, ""), ("mps", {}, False, False, torch.float32, False, ""),
    ("cuda", {}, True, True, torch.bfloat16, True, "; compiled and recorded"), ("cuda", dict(compile=False), True, True, torch.bfloat16, False, "; eager, as asked"),
    ("cuda", dict(dtype="float32"), True, True, torch.float32, False, "; eager and slow.*--dtype=bfloat16"),
    ("cuda", {}, True, False, torch.bfloat16, False, "; eager and slow.*torch 2.11"), ("cuda", {}, False, False, torch.float32, False, "; eager and slow.*Ampere GPU")])
def test_the_first_line_says_what_runs(monkeypatch, device, knobs, ampere, kernels, dtype, static, said):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: ampere)
    monkeypatch.setattr("model.VARLEN_KNOBS", {"window_size": None} if kernels else {})
    assert train.precision(Config(**knobs), torch.device(device)) == dtype
    found, text = train.pace(Config(**knobs), torch.device(device))
    assert found == static and re.fullmatch(f"{said}.*" if said else "", text)


@pytest.mark.parametrize("ampere", [True, False])
def test_a_gpu_before_ampere_has_no_flash_attention(monkeypatch, ampere):
    kernels = {"window_size": None}
    for module in ("model", "train"):
        monkeypatch.setattr(f"{module}.VARLEN_KNOBS", kernels)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: ampere)
    device, why = train.pick_device(Config())
    assert (device.type, why) == ("cuda", "a GPU") and has_varlen(device, torch.bfloat16) == ampere


def test_a_recorded_step_leaves_the_gradients_of_a_plain_one_whatever_its_micro_batches(monkeypatch):
    def record(self, work, inputs):
        graph = Replayed(self, work, [x.clone() for x in inputs])
        return graph, graph.reads, graph.out, graph.grads
    monkeypatch.setattr(Recorded, "record", record)
    monkeypatch.setattr(replay, "beside", lambda work: work())
    config, device = Config(max_steps=5, batch_tokens=2048, max_len=640), torch.device("cpu")
    data, model = Generated(config, ["1d_fill"], set()), GPT(tiny_shape(frame=64, max_len=640))
    plain, static = (train.Backward(config, model, data, device) for _ in range(2))
    static.static, static.work = True, Recorded(model.parameters())
    for micro in (2048, 640):                                  # one batch a step; then several, and those recorded are of no use any more
        for item in data.stream(0, 0):
            got = []
            for backward in (plain, static):
                got.append([backward(item, micro), *(p.grad.clone() for p in model.parameters())])
                model.zero_grad()
            assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*got))
        assert {shapes[0][0] for shapes in static.work.graphs} == {micro} and len(static.work.graphs) < 3


@pytest.mark.parametrize("step, dropout", [(0, 0.0), (0, 0.2), (2, 0.0)])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("injected"), RuntimeError("MPS backend out of memory (..)")])
def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(run, tmp_path, monkeypatch, step, dropout, error):
    knobs = dict(max_steps=4, dropout=dropout, test="", val="")
    run(out="halves", micro_tokens=320, **knobs)
    runs_out(monkeypatch, {step}, error)
    run(out="whole", **knobs)
    halves, whole = (checkpoint(tmp_path / out)["training"] for out in ("halves", "whole"))
    assert all(torch.allclose(halves[name], whole[name], atol=1e-3 if step else 0) for name in halves)
    assert f"out of memory at step {step}: 320 tokens at once instead of 640" in log_of(tmp_path / "whole")
    assert "out of memory" not in log_of(tmp_path / "halves")


@pytest.mark.parametrize("most", [1, 3])
def test_out_of_memory_in_drafting_halves_what_is_drafted_at_once(run, tmp_path, monkeypatch, most):
    """The same drafts come out, and what an attempt had made is gone before the cache is emptied; where not even one fits, the error says what to
    lower."""
    real, made, alive = evaluate.generate, [], []

    def generate(model, tokens, coords, docs, *rest):
        if len(docs) - 1 > most:
            keys = torch.zeros(3)
            made.append(weakref.ref(keys))
            raise torch.OutOfMemoryError("injected")
        return real(model, tokens, coords, docs, *rest)
    run(out="whole", val="", views=8)
    monkeypatch.setattr(evaluate, "generate", generate)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(made[-1]() is not None))
    run(out="halves", val="", views=8)
    whole, halves = ((tmp_path / out / "submission.json").read_text() for out in ("whole", "halves"))
    said = re.findall(r"out of memory with (\d+) documents at once", log_of(tmp_path / "halves"))
    assert whole == halves and (said == ["14", "7", "4", "7", "4"] if most == 3 else said[:4] == ["2", "14", "7", "3"] and len(said) == 14)
    assert alive and not any(alive) and len(alive) == len(made)
    most = 0
    with pytest.raises(UserError, match="out of memory with a single document.*--max_answer"):
        run(out="none", val="")


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_prompt_that_does_not_fit_is_a_failed_draft(run, tmp_path, part, count):
    """Of one task or of two, in val, where one is drafted at each evaluation, and in test."""
    large = make_task("large", "1 > 1", f"{' '.join(['1' * 18] * 18)} > 1")        # 344 tokens, and a document may have 320
    file = write_tasks(tmp_path / "tasks.json", [large, make_task("small", "1 > 1", "2 > 2")][:count])
    run(**{"test": "", "val": "", part: file}, eval_every=1, frame=32, max_steps=3)
    assert "prompts do not fit: prompt + max_answer (40) > max_len (320)" in log_of(tmp_path / "run")


def test_out_of_memory_that_cannot_be_mended(run, monkeypatch):
    runs_out(monkeypatch, {0, 1})
    with pytest.raises(UserError, match="out of memory with 320 tokens.*--max_len"):
        run()


def test_other_errors_are_no_lack_of_memory(run, monkeypatch):
    runs_out(monkeypatch, {0}, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run()


@pytest.mark.parametrize("log_every", [1, 2, 50])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(run, tmp_path, monkeypatch, log_every):
    real, calls = train.Backward.__call__, []

    def backward(self, *rest):
        if len(calls) == 3:
            with torch.no_grad():
                self.network.norm.weight.fill_(torch.nan)
        calls.append(1)
        return real(self, *rest)
    monkeypatch.setattr(train.Backward, "__call__", backward)
    with pytest.raises(UserError, match="loss nan.*ckpt.pt.*--learning_rate"):
        run(max_steps=8, eval_every=1, keep_every=1, log_every=log_every)
    for path in (tmp_path / "run").glob("*.pt"):
        found = checkpoint(path.parent, path.name)
        assert found["step"] <= 3 and all(weights.isfinite().all() for weights in found["model"].values()), path.name
    assert checkpoint(tmp_path / "run")["step"] == 3


@torch.no_grad()
def test_filler_of_static_shapes_does_not_change_the_loss():
    tasks, model = flip_tasks(5), filled_model(tiny_shape())
    exact = batch_of(tasks)
    static = batch_of(tasks, static=dict(capacity=len(exact.tokens) + 300, max_len=256))
    losses = [F.cross_entropy(model(b.tokens, b.coords, b.docs, b.labels), b.targets, ignore_index=IGNORE, reduction="sum")
              for b in (exact, static)]
    assert torch.allclose(*losses) and len(static.tokens) == len(exact.tokens) + 300
    assert (static.targets != IGNORE).sum() == (exact.targets != IGNORE).sum() > 50


# --------------------------------------------------------------------------------------------------------------------
# Checkpoints

def test_a_folder_that_holds_a_run_is_refused(run, tmp_path):
    run(keep_every=1)
    before = (tmp_path / "run" / "ckpt.pt").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--resume.*--overwrite.*--out_dir"):
        run()
    assert (tmp_path / "run" / "ckpt.pt").read_bytes() == before
    run(overwrite=True, max_steps=1)
    assert checkpoint(tmp_path / "run")["step"] == 1 and not list((tmp_path / "run").glob("step_*"))
    assert len(records(tmp_path / "run", "train")) == 1 and log_of(tmp_path / "run").count("device:") == 1


def test_overwrite_destroys_nothing_before_the_new_run_can_start(run, tmp_path):
    run()
    for wrong in (dict(train="nowhere.json"), dict(encoding="quadtre"), dict(init_from="nowhere.pt")):
        with pytest.raises(UserError):
            run(overwrite=True, **wrong)
        assert (tmp_path / "run" / "ckpt.pt").exists(), wrong
    run(overwrite=True, init_from=tmp_path / "run" / "best.pt")


def test_init_from_starts_anew_from_the_averaged_weights(run, tmp_path):
    run(out="first", max_steps=3)
    for out, steps in (("second", 0), ("third", 1)):
        run(out=out, max_steps=steps, init_from=tmp_path / "first" / "ckpt.pt")
    first, second, third = (checkpoint(tmp_path / name) for name in ("first", "second", "third"))
    assert equal(first["model"], second["model"]) and equal(first["model"], second["training"])
    assert not equal(first["model"], third["model"]) and (second["step"], third["step"]) == (0, 1)
    assert [line["step"] for line in records(tmp_path / "third", "train")] == [1]


def test_init_from_finds_the_rows_of_tasks_by_their_ids(run, tmp_path):
    tasks = flip_tasks(5)
    old, new = write_tasks(tmp_path / "old.json", tasks[:4]), write_tasks(tmp_path / "new.json", [tasks[4], tasks[2], tasks[0]])
    run(**in_weights(old), out="old")
    run(**in_weights(new), out="new", init_from=tmp_path / "old" / "ckpt.pt", max_steps=0)
    (old, rows), (new, _) = ((found["model"]["task.weight"], found["task_ids"]) for found in
                             (checkpoint(tmp_path / name) for name in ("old", "new")))
    assert [name for name, _ in rows] == ["flip0", "flip1", "flip2", "flip3"]
    assert torch.equal(new[[0, 2, 3]], old[[0, 3, 1]])         # row 0 is `unknown`
    assert torch.allclose(new[1], old.mean(0), atol=1e-6)


@pytest.mark.parametrize("table", ["before", "after"])
def test_init_from_with_a_task_table_on_one_side_only(run, tmp_path, table):
    """To leave the table behind, or to begin with one; or an error for people."""
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(4))
    run(out="a", task_embed=table == "before", **in_context(file))
    try:
        run(out="b", task_embed=table == "after", init_from=tmp_path / "a" / "ckpt.pt", **in_context(file))
    except UserError as error:
        assert "task_embed" in str(error)


def test_checkpoint_holds_what_the_run_was(run, tmp_path):
    run(seed=3)
    found, best = checkpoint(tmp_path / "run"), checkpoint(tmp_path / "run", "best.pt")
    assert found["config"]["seed"] == 3 and found["step"] == 2 and found["shape"]["frame"] == 16
    assert {"torch", "numpy", "python", "schedulefree", "commit"} <= set(found["versions"])
    assert "training" not in best and "optimizer" not in best
    model, _ = from_checkpoint(tmp_path / "run" / "best.pt")
    assert equal(dict(model.state_dict()), best["model"])
    with pytest.raises(UserError, match="weights only.*--init_from"):
        (tmp_path / "run" / "best.pt").replace(tmp_path / "run" / "ckpt.pt")
        run(seed=3, resume=True)


# --------------------------------------------------------------------------------------------------------------------
# Evaluation

def test_fold_holds_out_pairs(run, tmp_path, monkeypatch):
    file, stores = write_tasks(tmp_path / "tasks.json", flip_tasks(20, demos=5)), []
    real = train.FromTasks
    monkeypatch.setattr(train, "FromTasks", lambda *args: stores.append(real(*args)) or stores[-1])
    for i, fold in enumerate(("", "0/2", "1/2")):
        run(out=str(i), fold=fold, max_steps=1, **in_context(file))
    whole, *parts = ({piece.tobytes() for piece in np.split(data.store.tokens.numpy(), data.store.start.ravel()[1:])}
                     for data in stores)
    assert parts[0] | parts[1] == whole and not parts[0] & parts[1] and min(map(len, parts)) > 30


def test_in_context_network_solves_a_file_it_never_saw(run, tmp_path):
    """--eval_only --tasks=FILE, with answers known, unknown, and both in one task; nothing of the run is overwritten."""
    run()
    before = (tmp_path / "run" / "ckpt.pt").read_bytes()
    tasks = [make_task("a", "123 > 321; 45 > 54", "67 > 76"), make_task("b", "12 > 21", "34; 56"),
             make_task("c", "1 > 1", "23 > 32; 4")]
    metrics = run(eval_only=True, tasks=write_tasks(tmp_path / "mine.json", tasks))
    answers = json.loads((tmp_path / "run" / "submission.json").read_text())
    assert {name: len(inputs) for name, inputs in answers.items()} == {"a": 1, "b": 2, "c": 2}
    for attempt in (a for inputs in answers.values() for a in inputs):
        assert set(attempt) == {"attempt_1", "attempt_2"} and all(np.array(g).ndim == 2 for g in attempt.values())
    assert metrics["n"] == 2 and metrics["step"] == 2          # tasks with some known answer
    assert (tmp_path / "run" / "ckpt.pt").read_bytes() == before


def test_without_answers_there_is_a_submission_and_no_score(run, tmp_path):
    run()
    metrics = run(eval_only=True, tasks=write_tasks(tmp_path / "mine.json", [make_task("b", "12 > 21", "34; 56")]))
    assert "pass2" not in metrics and "no score" in log_of(tmp_path / "run")
    assert list(json.loads((tmp_path / "run" / "submission.json").read_text())) == ["b"]


def test_evaluation_does_not_need_the_training_data(run, tmp_path):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(4))
    run(**in_context(file))
    file.unlink()
    other = write_tasks(tmp_path / "other.json", flip_tasks(3, seed=1))
    assert run(**{**in_context(file), "test": other}, eval_only=True)["n"] == 3


def test_network_with_rules_in_its_weights_refuses_tasks_it_never_saw(run, tmp_path):
    tasks = flip_tasks(4)
    knobs = in_weights(write_tasks(tmp_path / "old.json", tasks[:2]))
    run(**knobs)
    assert run(**knobs, eval_only=True)["n"] == 2
    others = write_tasks(tmp_path / "new.json", tasks[1:])
    with pytest.raises(UserError, match=f"2 tasks, flip2 the first, .*--tasks={others}"):
        run(**knobs, eval_only=True, tasks=others)
    changed = [tasks[0]._replace(train=tasks[3].train)]        # the same id is not the same task
    with pytest.raises(UserError, match="1 tasks, flip0 the first"):
        run(**knobs, eval_only=True, tasks=write_tasks(tmp_path / "changed.json", changed))


def test_what_the_error_advises_works(run, tmp_path):
    """--tasks=FILE trains with FILE's demonstrations, never with its answers, and solves it."""
    old, new = flip_tasks(2), make_task("new", "12 > 21; 34 > 43; 567 > 765", "12 > 99; 34 > 99")
    knobs = in_weights(write_tasks(tmp_path / "old.json", old), colors=False, max_steps=150, learning_rate=1e-2, views=1)
    metrics = run(**{**knobs, "tasks": write_tasks(tmp_path / "new.json", [new])})
    assert [name for name, _ in checkpoint(tmp_path / "run")["task_ids"]] == ["flip0", "flip1", "new"]
    answers = json.loads((tmp_path / "run" / "submission.json").read_text())["new"]
    assert [a["attempt_1"] for a in answers] == [[[2, 1]], [[4, 3]]] and metrics["pass1"] == 0


def test_a_task_without_queries_is_no_test(run, tmp_path):
    """re-ARC has none: to train on, not to be scored on."""
    file = write_tasks(tmp_path / "again.json", [task._replace(test=[]) for task in flip_tasks(3)])
    run(**in_context(file))
    for part in ("val", "test"):
        with pytest.raises(UserError, match="again.json|flip0"):
            run(out=part, **{part: file})


# --------------------------------------------------------------------------------------------------------------------
# What a run leaves

def test_what_a_run_leaves(run, tmp_path):
    metrics = run(max_steps=5, eval_every=2, log_every=2, keep_every=2)
    folder = tmp_path / "run"
    assert sorted(p.name for p in folder.iterdir()) == ["best.pt", "ckpt.pt", "config.json", "log.txt", "metrics.jsonl",
                                                        "report.html", "step_000002.pt", "step_000004.pt", "submission.json"]
    config = json.loads((folder / "config.json").read_text())
    assert {field.name for field in fields(Config)} <= set(config) and config["n_embd"] == 32 and config["frame"] == 16
    assert {"python", "torch", "numpy", "schedulefree", "commit"} <= set(config["versions"])
    steps = records(folder, "train")
    assert [line["step"] for line in steps] == [2, 4, 5] and [line["step"] for line in records(folder, "val")] == [2, 4, 5]
    assert all({"loss", "loss_all_outputs", "lr", "norm", "ms", "seconds"} <= set(line) for line in steps)
    val, (last,) = records(folder, "val")[-1], records(folder, "test")
    assert {"loss", "cells", "exact", "n", "families"} <= set(val)
    assert {"pass1_single", "pass1", "pass2", "oracle", "failed_drafts", "draft_cells", "n", "exact"} <= set(last)
    assert last["times_scored"] == 1 and last["step"] == 5 and last["pass2"] == metrics["pass2"]
    log = log_of(folder)
    assert re.search(r"^device: cpu \(.*\); torch [\w.+]+$", log, re.M)        # as in README: of compilation it says something on CUDA alone
    for text in ("parameters", "encoding quadtree", "frame 16", "val:", "step      4/5", "ETA",
                 f"loss: {metrics['loss']:.4f}", "seed 1", "submission.json"):
        assert text in log, text
    with torch.device("meta"):
        network, tables = GPT(train.Shape(**checkpoint(folder)["shape"])).counts()
    assert f"{network:,} parameters and {tables:,} in embedding tables" in log


def test_same_seed_same_run_another_seed_another(run, tmp_path):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(out=out, seed=seed)
    a, b, c = (checkpoint(tmp_path / out)["training"] for out in "abc")
    assert equal(a, b) and not equal(a, c)


def test_control_c_saves_and_resume_goes_on(run, tmp_path, monkeypatch):
    knobs = dict(max_steps=1_000_000, log_every=1, eval_every=1_000_000)
    given = flags(**{**TINY, **knobs, "out_dir": tmp_path / "run"})
    process = subprocess.Popen([sys.executable, "train.py", "config/quadtree.py", *given],
                               cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= 3:
            break
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "" and "saved. Go on with --resume" in out
    step = checkpoint(tmp_path / "run")["step"]
    assert step >= 3
    at_step(monkeypatch, 2, interrupt)
    with pytest.raises(SystemExit):
        run("config/quadtree.py", resume=True, **knobs)
    assert checkpoint(tmp_path / "run")["step"] == step + 3
    assert f"resumed at step {step}" in log_of(tmp_path / "run")


def test_resume_records_nothing_twice_and_refuses_other_knobs(run, tmp_path):
    run(max_steps=6, eval_every=3, log_every=1)
    folder = tmp_path / "run"
    whole = records(folder, "train")
    found = checkpoint(folder)
    with pytest.raises(UserError, match="weight_decay was 0.2 and is 0.5"):
        run(max_steps=6, eval_every=3, log_every=1, weight_decay=0.5, resume=True)
    torch.save({**found, "step": 3}, folder / "ckpt.pt")       # as if it had been killed after step 3 was saved
    run(max_steps=6, eval_every=3, log_every=1, resume=True)
    assert [m["step"] for m in records(folder, "train")] == [m["step"] for m in whole]


def test_a_reader_who_leaves_does_not_stop_the_run(tmp_path):
    command = " ".join([sys.executable, "train.py", *flags(**{**TINY, "max_steps": 5, "log_every": 1, "out_dir": tmp_path / "run"})])
    subprocess.run(f"{command} | head -2", shell=True, cwd=ROOT, check=True, capture_output=True)
    assert checkpoint(tmp_path / "run")["step"] == 5 and "pass2" in (tmp_path / "run" / "log.txt").read_text()
