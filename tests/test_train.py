"""The pipeline as a user runs it: configs, training, resume, checkpoints, prediction, records."""
import hashlib
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

import train
from arc.score import Prediction, attempts_by_votes, grid_key, same
from arc.task import known_pairs
from arc.tokens import OUT, START, encode_pair
from arc.views import IDENTITY, view_pairs
from config import Config, UserError, load_config
from conftest import (ROOT, TINY, batch_of, checkpoint, equal, filled_model, flags, flip_tasks,
                      make_task, parameters, position_parameters, raw, records, tiny_config,
                      write_tasks)
from engine import batches, predict, runs
from engine.batches import IGNORE, Generated
from engine.checkpoints import load_checkpoint, model_config, rebuild
from engine.cuda_graphs import GraphedStep
from engine.devices import (describe_step, is_compiled, pick_device, precision,
                            take_flash_attention_3)
from engine.optim import OPTIMIZERS, Muon, Optimizer, averaged, learning_rate, orthogonalize
from engine.predict import Predictor, QuerySet, known_queries, make_queries, with_sampled
from engine.runs import Progress
from model import GPT, ModelConfig, has_flash_attention

CONFIGS = sorted(path.name for path in (ROOT / "config").glob("[!_]*.py"))
CPU = torch.device("cpu")


def log_of(folder):
    return (folder / "log.txt").read_text()


def submission_of(folder):
    return json.loads((folder / "submission.json").read_text())


def in_weights(file, **more):
    """Knobs of the transductive form: a task's rule is in the weights."""
    return dict(train=file, val="", test=file, demos=0, task_embed=True, max_len=64,
                batch_tokens=256, **more)


def in_context(file, **more):
    return dict(train=file, val="", test="", **more)


def named_tasks(path, prefix, tasks):
    """Writes tasks to path/prefix.json, the prefix in front of their ids."""
    renamed = [task._replace(id=f"{prefix}{task.id}") for task in tasks]
    return write_tasks(path / f"{prefix.strip('/')}.json", renamed)


def gradients_of(model):
    return [p.grad.clone() for p in model.parameters()]


# ------------------------------------------------------------------------------------------------
# Configs


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_builds_the_network_it_describes(name):
    config, _ = load_config([str(ROOT / "config" / name)])
    with torch.device("meta"):
        model = GPT(model_config(config, config.canvas or 32, 7 if config.task_embed else 0))
    by_hand = parameters(model.config, position_parameters(model.config))
    assert sum(model.count_parameters()) == by_hand
    assert config.out_dir == f"out/{name[:-3]}"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_trains_two_steps(name, run, tmp_path):
    config, _ = load_config([str(ROOT / "config" / name)])
    small = dict(n_layer=1, n_embd=32, n_head=2, n_kv_head=1, n_mlp=32, max_steps=2, views=1,
                 oned_eval=1, batch_tokens=config.max_len, micro_tokens=0, log_every=1,
                 device="cpu", max_answer=40)
    sources = [config.train, config.val, config.test]
    if any(source and not source.startswith("oned") for source in sources):
        file = named_tasks(tmp_path, "train", flip_tasks(6))
        val = named_tasks(tmp_path, "val", flip_tasks(3, seed=1))
        small.update(train=file, val=val, test=val, tasks="")
    train.main([f"config/{name}", *flags(**small, out_dir=tmp_path / "run")])
    assert [line["step"] for line in records(tmp_path / "run", "train")] == [1, 2]


def test_every_knob_can_be_given(tmp_path, monkeypatch):
    """Dashes, bare flags and later values; a config file first."""
    monkeypatch.chdir(tmp_path)
    text = "n_layer = 3\nlearning_rate = 1\n_private = 'not a knob'\n"
    (tmp_path / "mine.py").write_text(text)
    arguments = ["mine.py", "--n-embd=64", "--resume", "--n_layer=2", "--colors=False"]
    config, given = load_config(arguments)
    assert (config.n_layer, config.n_embd, config.out_dir) == (2, 64, "out/mine")
    assert (config.resume, config.colors) == (True, False)
    assert config.learning_rate == 1.0 and type(config.learning_rate) is float
    assert "_private" not in given
    for field in fields(Config):
        value = getattr(config, field.name)
        assert type(value) is field.type
        assert load_config(["mine.py", f"--{field.name}={value}"])


# ------------------------------------------------------------------------------------------------
# Learning


@pytest.mark.parametrize("optimizer", ["muon_schedulefree", "adamw"])
def test_a_tiny_network_memorises_a_task(run, tmp_path, optimizer):
    tasks = [task._replace(test=task.train[:1]) for task in flip_tasks(2)]
    file = write_tasks(tmp_path / "two.json", tasks)
    metrics = run(**in_weights(file, optimizer=optimizer, max_steps=120, learning_rate=1e-2,
                               colors=False, views=1))
    assert metrics["pass1"] == metrics["exact"] == 1
    assert metrics["loss"] < 0.1
    expected = {}
    for task in tasks:
        answer = task.test[0][1].tolist()
        expected[task.id] = [{"attempt_1": answer, "attempt_2": answer}]
    assert submission_of(tmp_path / "run") == expected


@pytest.mark.parametrize("knobs", [dict(), dict(demos=0, task_embed=True), dict(task_embed=True),
                                   dict(symmetries=True, view_embed=True)])
def test_every_form_trains_and_is_scored(run, tmp_path, knobs):
    file = named_tasks(tmp_path, "0/", flip_tasks(6, seed=0))
    val = named_tasks(tmp_path, "1/", flip_tasks(6, seed=1))
    metrics = run(train=file, val=val, test=val, **knobs)
    assert metrics["n"] == 6
    assert 0 < metrics["loss"] < 4
    assert metrics["best_val_exact"] == 0
    assert "6 tasks from" in log_of(tmp_path / "run")


def test_generated_training_tasks_are_not_taken_for_those_of_val_and_test(run, tmp_path):
    """The same number in two streams is not the same task."""
    knobs = dict(train="oned#30", oned_families="1d_recolor_cnt", oned_min_width=30,
                 oned_max_width=30, oned_eval=10, oned_lift=0)
    run(**knobs)
    assert not json.loads((tmp_path / "run" / "config.json").read_text())["dropped"]
    run(**knobs, demos=0, task_embed=True, out="weights")
    assert "demonstrations of the 20 tasks of val and test" in log_of(tmp_path / "weights")


# ------------------------------------------------------------------------------------------------
# Optimizers


def model_and_optimizer(**knobs):
    torch.manual_seed(0)
    model = GPT(tiny_config(n_tasks=3, n_views=8))
    return model, Optimizer(model, Config(**knobs))


def copy_of(model):
    return {name: weights.clone() for name, weights in model.state_dict().items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_parameter_is_in_exactly_one_group(optimizer):
    model, opt = model_and_optimizer(optimizer=optimizer)
    grouped = []
    for part in opt.parts:
        for group in part.param_groups:
            grouped += map(id, group["params"])
    assert sorted(grouped) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_is_for_matrices_alone(optimizer):
    """One step without a gradient leaves nothing but the decay."""
    model, opt = model_and_optimizer(optimizer=optimizer, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step(0.1)
    for name, p in model.named_parameters():
        decays = p.ndim > 1 and name.startswith(("blocks", "head"))
        assert torch.allclose(p, before[name] * (0.95 if decays else 1), atol=1e-6), name
        assert p.grad is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_averaged_puts_the_weights_back_bit_for_bit(optimizer):
    model, opt = model_and_optimizer(optimizer=optimizer)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        opt.step(0.01)
    weights = copy_of(model)
    with averaged(model, opt):
        assert not model.training
        inside = copy_of(model)
    assert model.training
    assert equal(copy_of(model), weights)
    assert equal(inside, weights) != ("schedulefree" in optimizer)
    with pytest.raises(KeyError), averaged(model, opt):        # also when evaluation fails
        raise KeyError
    assert model.training
    assert equal(copy_of(model), weights)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_evaluation_does_not_change_training(run, tmp_path, optimizer):
    for name, every in (("often", 1), ("once", 100)):
        run(out=name, optimizer=optimizer, eval_every=every, max_steps=4, dropout=0.1,
            keep_every=every)
    often = checkpoint(tmp_path / "often")
    once = checkpoint(tmp_path / "once")
    for key in ("training", "model", "optimizer"):
        assert equal(often[key], once[key])
    assert equal(often["training"], often["model"]) != ("schedulefree" in optimizer)
    kept = sorted(path.name for path in (tmp_path / "often").glob("step_*"))
    assert kept == [f"step_{i:06d}.pt" for i in range(1, 5)]


def random_matrices():
    shapes = [(32, 32), (16, 32), (32, 32), (32, 16), (32, 32)]
    matrices = []
    for seed, shape in enumerate(shapes):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        matrices.append(torch.nn.Parameter(values))
    return matrices


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_muon_in_stacks_is_the_libraries_muon(average):
    """torch.optim.Muon, and ScheduleFreeWrapper around it: the same weights, the same average."""
    torch.manual_seed(0)
    ours, theirs = random_matrices(), random_matrices()
    mine = Muon(ours, weight_decay=0.3, average=average)
    decay = 0 if average else 0.3
    other = torch.optim.Muon(theirs, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    if average:
        other = ScheduleFreeWrapper(other, weight_decay_at_y=0.3, momentum=average)
        other.train()
    start = [p.detach().clone() for p in ours]

    def check_same():
        for a, b, c in zip(ours, theirs, start):
            # orthogonalize() rounds to bfloat16 in another order
            assert (a - b).norm() < 0.04 * (b - c).norm()

    for step in range(6):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for opt in (mine, other):
            for group in opt.param_groups:
                # a warm-up, whose steps count less in the average
                group["lr"] = 0.01 * min(1, (step + 1) / 3)
            opt.step()
        check_same()
    if average:
        mine.eval()
        other.eval()
        check_same()


@pytest.mark.parametrize("native, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_muon_multiplies_in_what_the_cpu_is_fast_in(monkeypatch, native, dtype):
    seen, p = [], torch.nn.Parameter(torch.randn(4, 8))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("engine.optim.orthogonalize", lambda X: seen.append(X.dtype) or X)
    p.grad = torch.randn(4, 8)
    optimizer = Muon([p])
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert seen == [dtype] and p.dtype == torch.float32


def test_orthogonalize_brings_all_singular_values_near_one():
    """Of tall, wide and square matrices, each of a stack on its own."""
    for shape in ((3, 24, 24), (2, 16, 48), (2, 48, 16)):
        sizes = torch.tensor([1e-3, 1, 1e3])[:shape[0], None, None]
        X = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * sizes
        values = torch.linalg.svdvals(orthogonalize(X).float())
        assert values.shape == (shape[0], min(shape[1:]))
        assert values.max() < 1.3
        assert values.median() > 0.65


def test_schedule_free_rates_stay_flat_and_the_controls_fall_to_zero():
    config = Config(max_steps=100, warmup=0.1, decay=0.2, learning_rate=1.0)
    for optimizer in OPTIMIZERS:
        _, opt = model_and_optimizer(optimizer=optimizer)
        rates = [learning_rate(config, opt, step) for step in range(100)]
        end = 1 if "schedulefree" in optimizer else np.arange(20, 0, -1) / 20
        assert np.allclose(rates[:10], np.arange(1, 11) / 10)
        assert np.allclose(rates[10:80], 1)
        assert np.allclose(rates[80:], end)


# ------------------------------------------------------------------------------------------------
# Resume


class Killed(Exception):
    pass


def at_step(monkeypatch, number, act):
    """Calls act() before the optimizer's step `number` (0, 1, ..) of a run."""
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
    """To the bit: weights, averaged weights, the optimizer's state, the best score.

    A killed run lost the steps since its last checkpoint, an interrupted one did not.
    """
    knobs = dict(optimizer=optimizer, max_steps=6, eval_every=3, dropout=0.1, symmetries=True)
    if source == "file":
        tasks = flip_tasks(8)
        knobs.update(train=write_tasks(tmp_path / "tasks.json", tasks[:6]),
                     val=write_tasks(tmp_path / "val.json", tasks[6:]), test="")
    run(out="whole", **knobs)
    act, error = (kill, Killed) if how == "killed" else (interrupt, SystemExit)
    with monkeypatch.context() as patch, pytest.raises(error) as stopped:
        at_step(patch, 4, act)
        run(out="parts", **knobs)
    assert how == "killed" or stopped.value.code == 130
    saved = checkpoint(tmp_path / "parts")["step"]
    assert saved == (3 if how == "killed" else 5)
    run(out="parts", resume=True, **knobs)
    assert f"resumed at step {saved}\n" in log_of(tmp_path / "parts")
    whole = checkpoint(tmp_path / "whole")
    parts = checkpoint(tmp_path / "parts")
    for key in ("training", "model", "optimizer", "step", "best", "task_ids", "model_config"):
        assert equal(whole[key], parts[key]), key


def test_resume_of_a_finished_run_scores_again(run, tmp_path):
    first = run()
    second = run(resume=True)
    assert first["loss"] == second["loss"]
    assert (first["times_scored"], second["times_scored"]) == (1, 2)
    assert [line["step"] for line in records(tmp_path / "run", "test")] == [2, 2]


@pytest.mark.parametrize("change", [dict(learning_rate=1e-4), dict(seed=2), dict(optimizer="adamw"),
                                    dict(max_steps=9), dict(symmetries=True), dict(n_embd=64),
                                    dict(encoding="rope")])
def test_resume_refuses_another_run(run, change):
    run()
    with pytest.raises(UserError, match="|".join(change)):
        run(resume=True, **change)


def test_best_survives_worse_scores_and_resume(run, tmp_path, monkeypatch):
    """A later, worse network does not take the place of the best, not even after a resume."""
    scores = iter([0.5, 0.2, 0.1])

    def validate(*_):
        return dict(loss=1.0, cells=0.0, exact=next(scores), n=1)
    monkeypatch.setattr(train, "validate", validate)
    knobs = dict(max_steps=3, eval_every=1, test="")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_step(patch, 2, kill)
        run(**knobs)
    metrics = run(**knobs, resume=True)
    assert metrics["best_val_exact"] == 0.5
    assert checkpoint(tmp_path / "run", "best.pt")["step"] == 1


# ------------------------------------------------------------------------------------------------
# Micro-batches, memory, numbers that are none


@pytest.mark.parametrize("source", ["generated", "file"])
def test_micro_batches_add_up_to_the_whole(run, tmp_path, source):
    """Loss, gradient norm and the step of a batch taken at once, and in parts."""
    knobs = dict(optimizer="adamw", max_steps=1, log_every=1, batch_tokens=1280, learning_rate=1e-3)
    if source == "file":
        knobs.update(in_context(write_tasks(tmp_path / "tasks.json", flip_tasks(30))))
    found = {}
    for micro in (0, 320, 400):
        run(out=str(micro), micro_tokens=micro, **knobs)
        folder = tmp_path / str(micro)
        found[micro] = records(folder, "train")[0], checkpoint(folder)["training"]
    whole_record, whole_weights = found.pop(0)
    for record, weights in found.values():
        for key in ("loss", "loss_all_outputs", "norm"):
            assert np.isclose(record[key], whole_record[key], rtol=1e-5)
        for name, values in weights.items():
            assert torch.allclose(values, whole_weights[name], atol=2e-4), name


def runs_out(monkeypatch, numbers, error=None):
    """Lets these calls of train.ForwardBackward (0, 1, ..) fail after they have done their work."""
    real, calls = train.ForwardBackward.__call__, []

    def forward_backward(*args):
        result = real(*args)
        calls.append(1)
        if len(calls) - 1 in numbers:
            raise error or torch.OutOfMemoryError("injected")
        return result
    monkeypatch.setattr(train.ForwardBackward, "__call__", forward_backward)


@pytest.mark.parametrize("step, dropout", [(0, 0.0), (0, 0.2), (2, 0.0)])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("injected"),
                                   RuntimeError("MPS backend out of memory (..)")])
def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(run, tmp_path, monkeypatch, step,
                                                                   dropout, error):
    knobs = dict(max_steps=4, dropout=dropout, test="", val="")
    run(out="halves", micro_tokens=320, **knobs)
    runs_out(monkeypatch, {step}, error)
    run(out="whole", **knobs)
    halves = checkpoint(tmp_path / "halves")["training"]
    whole = checkpoint(tmp_path / "whole")["training"]
    for name, weights in halves.items():
        assert torch.allclose(weights, whole[name], atol=1e-3 if step else 0), name
    said = f"out of memory at step {step}: 320 tokens at once instead of 640"
    assert said in log_of(tmp_path / "whole")
    assert "out of memory" not in log_of(tmp_path / "halves")


def test_out_of_memory_that_cannot_be_mended_says_what_to_lower(run, monkeypatch):
    runs_out(monkeypatch, {0, 1})
    with pytest.raises(UserError, match="out of memory with 320 tokens.*--max_len"):
        run()


def test_other_errors_are_no_lack_of_memory(run, monkeypatch):
    runs_out(monkeypatch, {0}, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run()


@pytest.mark.parametrize("log_every", [1, 2, 50])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(run, tmp_path,
                                                                           monkeypatch, log_every):
    real, calls = train.ForwardBackward.__call__, []

    def forward_backward(self, *rest):
        if len(calls) == 3:
            with torch.no_grad():
                self.network.norm.weight.fill_(torch.nan)
        calls.append(1)
        return real(self, *rest)
    monkeypatch.setattr(train.ForwardBackward, "__call__", forward_backward)
    with pytest.raises(UserError, match="loss nan.*ckpt.pt.*--learning_rate"):
        run(max_steps=8, eval_every=1, keep_every=1, log_every=log_every)
    for path in (tmp_path / "run").glob("*.pt"):
        found = checkpoint(path.parent, path.name)
        assert found["step"] <= 3, path.name
        assert all(weights.isfinite().all() for weights in found["model"].values()), path.name
    assert checkpoint(tmp_path / "run")["step"] == 3


@torch.no_grad()
def test_filler_of_static_shapes_does_not_change_the_loss():
    tasks, model = flip_tasks(5), filled_model(tiny_config())
    exact = batch_of(tasks)
    static = batch_of(tasks, static=dict(capacity=len(exact.tokens) + 300, max_len=256))
    losses = []
    for batch in (exact, static):
        logits = model(batch.tokens, batch.coords, batch.cu_seqlens, batch.task_view)
        losses.append(F.cross_entropy(logits, batch.targets, ignore_index=IGNORE, reduction="sum"))
    assert torch.allclose(*losses)
    assert len(static.tokens) == len(exact.tokens) + 300
    assert (static.targets != IGNORE).sum() == (exact.targets != IGNORE).sum() > 50


@pytest.mark.parametrize("symmetries", [False, True])
def test_demonstrations_that_may_not_fit_are_said(run, tmp_path, symmetries):
    """A document may hold a task's three longest pairs, in the view that makes them longest."""
    tasks = flip_tasks(4, demos=6, most=6)
    file = write_tasks(tmp_path / "t.json", tasks)
    knobs = in_context(file, demos=2, max_answer=48, canvas=8, max_steps=1, eval_every=2,
                       symmetries=symmetries)
    longest = []                               # tokens of a task's longest document
    for task in tasks:
        lengths = []
        for pair in known_pairs(task):
            views = [view_pairs([pair], s, IDENTITY)[0] for s in (range(8) if symmetries else [0])]
            lengths.append(max(len(encode_pair(view)[0]) for view in views))
        longest.append(sum(sorted(lengths)[-3:]))
    limit = sorted(longest)[2]
    run(out="few", max_len=limit, **knobs)
    assert "0 merged into a twin" in log_of(tmp_path / "few")
    crowded = sum(length > limit for length in longest)
    assert f"max_len = {limit} drops demonstrations of up to {crowded} tasks" in log_of(
        tmp_path / "few")
    run(out="all", max_len=max(longest), **knobs)
    assert "drops demonstrations" not in log_of(tmp_path / "all")


def test_oversample_reaches_the_tasks_that_are_asked(tmp_path, run, monkeypatch, capsys):
    """Those of val and of test, and no others."""
    files = {}
    for seed, name in enumerate(("train", "val", "test")):
        files[name] = named_tasks(tmp_path, name, flip_tasks(2, seed=seed))
    streams = keep_streams(monkeypatch)
    run(**files, demos=0, task_embed=True, oversample=3.0, max_steps=1)
    times = {task.id: times for task, times in zip(streams[0].tasks, streams[0].times)}
    assert times == {"trainflip0": 1.0, "trainflip1": 1.0, "valflip0": 3.0, "valflip1": 3.0,
                     "testflip0": 3.0, "testflip1": 3.0}
    assert "shown 3 times as often" in capsys.readouterr().out


def keep_streams(monkeypatch):
    """Returns the list to which each FromTasks of a run is added."""
    streams, real = [], batches.FromTasks

    def from_tasks(*args):
        streams.append(real(*args))
        return streams[-1]
    monkeypatch.setattr(batches, "FromTasks", from_tasks)
    return streams


def test_holdout_keeps_pairs_out(run, tmp_path, monkeypatch):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(20, demos=5))
    streams = keep_streams(monkeypatch)
    for i, holdout in enumerate(("", "0/2", "1/2")):
        run(out=str(i), holdout=holdout, max_steps=1, **in_context(file))
    seen = []
    for stream in streams:
        pieces = np.split(stream.device_pairs.tokens.numpy(), stream.device_pairs.start.ravel()[1:])
        seen.append({piece.tobytes() for piece in pieces})
    whole, *parts = seen
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]
    assert min(map(len, parts)) > 30


# ------------------------------------------------------------------------------------------------
# Devices, and steps recorded as CUDA graphs


@pytest.mark.parametrize("device, knobs, ampere, kernels, dtype, compiled, said", [
    ("cpu", {}, False, False, torch.float32, False, ""),
    ("mps", {}, False, False, torch.float32, False, ""),
    ("cuda", {}, True, True, torch.bfloat16, True, "; compiled and recorded"),
    ("cuda", dict(compile=False), True, True, torch.bfloat16, False, "; eager, as asked"),
    ("cuda", dict(dtype="float32"), True, True, torch.float32, False,
     "; eager and slow.*--dtype=bfloat16"),
    ("cuda", {}, True, False, torch.bfloat16, False, "; eager and slow.*torch 2.11"),
    ("cuda", {}, False, True, torch.float32, False, "; eager and slow.*Ampere GPU"),
    ("cuda", {}, False, False, torch.float32, False, "; eager and slow.*Ampere GPU"),
])
def test_the_first_line_says_what_runs(monkeypatch, device, knobs, ampere, kernels, dtype,
                                       compiled, said):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: ampere)
    monkeypatch.setattr("model.VARLEN_OPTIONS", {"window_size"} if kernels else set())
    config, device = Config(**knobs), torch.device(device)
    assert precision(config, device) == dtype
    assert is_compiled(config, device) == compiled
    assert re.fullmatch(f"{said}.*" if said else "", describe_step(config, device))


def pretend_gpu(monkeypatch, ampere):
    """A CUDA device of a torch that has flash attention, though there may be none."""
    monkeypatch.setattr("model.VARLEN_OPTIONS", {"window_size"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: ampere)


def test_flash_attention_3_is_taken_where_hopper_and_its_package_are(monkeypatch):
    taken, attention = [], torch.nn.attention
    monkeypatch.setattr(attention, "activate_flash_attention_impl", taken.append, raising=False)
    for major, expected in ((9, True), (10, False), (8, False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, 0))
        assert take_flash_attention_3() is expected
    assert taken == ["FA3"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for missing in (ImportError, RuntimeError):

        def fail(name):
            raise missing
        monkeypatch.setattr(attention, "activate_flash_attention_impl", fail)
        assert not take_flash_attention_3()
    monkeypatch.delattr(attention, "activate_flash_attention_impl")
    assert not take_flash_attention_3()



@pytest.mark.parametrize("ampere", [True, False])
def test_a_gpu_before_ampere_computes_in_float32_without_flash_attention(monkeypatch, ampere):
    pretend_gpu(monkeypatch, ampere)
    config = Config()
    device, why = pick_device(config)
    assert (device.type, why) == ("cuda", "a GPU")
    dtype = precision(config, device)
    assert dtype == (torch.bfloat16 if ampere else torch.float32)
    assert has_flash_attention(device, dtype) == is_compiled(config, device) == ampere


@pytest.mark.parametrize("ampere", [True, False])
def test_bfloat16_on_a_gpu_before_ampere_is_refused(monkeypatch, ampere):
    pretend_gpu(monkeypatch, ampere)
    config = Config(dtype="bfloat16")
    if ampere:
        assert pick_device(config)[0].type == "cuda"
        return
    with pytest.raises(UserError, match="a GPU does not compute in bfloat16.*--dtype=bfloat16"):
        pick_device(config)


class Replayed:
    """What torch.cuda.graph would record of work, on any device.

    A replay always reads and writes the same memory.
    """

    def __init__(self, work, parameters, inputs):
        self.work, self.parameters, self.inputs = work, parameters, inputs
        self.output = torch.zeros(2)
        self.grads = [torch.zeros_like(p) for p in parameters]

    def replay(self):
        kept = [p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        self.output.copy_(self.work(*self.inputs))
        for p, grad, old in zip(self.parameters, self.grads, kept):
            grad.copy_(p.grad)
            p.grad = old


def test_a_recorded_step_leaves_the_gradients_of_a_plain_one(monkeypatch):
    """Whatever its micro-batches."""
    def record(self, inputs):
        graph = Replayed(self.work, self.parameters, [x.clone() for x in inputs])
        return graph, graph.inputs, graph.output, graph.grads
    monkeypatch.setattr(GraphedStep, "record", record)
    monkeypatch.setattr("engine.cuda_graphs.on_side_stream", lambda work: work())
    config = Config(max_steps=5, batch_tokens=2048, max_len=640)
    stream = Generated(config, ["1d_fill"], set())
    model = GPT(tiny_config(canvas=64, max_len=640))
    plain = train.ForwardBackward(config, model, CPU)
    recorded = train.ForwardBackward(config, model, CPU)
    recorded.compiled = True
    recorded.run_micro_batch = GraphedStep(recorded.micro_batch, model.parameters())
    # one batch a step; then several, and those recorded before are of no use any more
    for micro_tokens in (2048, 640):
        for step in stream.steps(0, 0):
            results = []
            for forward_backward in (plain, recorded):
                losses = forward_backward(step, micro_tokens)
                results.append([losses, *gradients_of(model)])
                model.zero_grad()
            for a, b in zip(*results):
                assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
        graphs = recorded.run_micro_batch.graphs
        assert {shapes[0][0] for shapes in graphs} == {micro_tokens}
        assert len(graphs) < 3


# ------------------------------------------------------------------------------------------------
# Checkpoints


def test_a_folder_that_holds_a_run_is_refused(run, tmp_path):
    run(keep_every=1)
    folder = tmp_path / "run"
    before = (folder / "ckpt.pt").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--resume.*--overwrite.*--out_dir"):
        run()
    assert (folder / "ckpt.pt").read_bytes() == before
    run(overwrite=True, max_steps=1)
    assert checkpoint(folder)["step"] == 1
    assert not list(folder.glob("step_*"))
    assert len(records(folder, "train")) == 1
    assert log_of(folder).count("device:") == 1


def test_overwrite_destroys_nothing_before_the_new_run_can_start(run, tmp_path):
    run()
    wrong = dict(train="nowhere.json", encoding="quadtre", init_from="nowhere.pt")
    for key, value in wrong.items():
        with pytest.raises(UserError):
            run(overwrite=True, **{key: value})
        assert (tmp_path / "run" / "ckpt.pt").exists(), key
    run(overwrite=True, init_from=tmp_path / "run" / "best.pt")


def test_init_from_starts_anew_from_the_averaged_weights(run, tmp_path):
    run(out="first", max_steps=3)
    for out, steps in (("second", 0), ("third", 1)):
        run(out=out, max_steps=steps, init_from=tmp_path / "first" / "ckpt.pt")
    first, second, third = (checkpoint(tmp_path / name) for name in ("first", "second", "third"))
    assert equal(first["model"], second["model"])
    assert equal(first["model"], second["training"])
    assert not equal(first["model"], third["model"])
    assert (second["step"], third["step"]) == (0, 1)
    assert [line["step"] for line in records(tmp_path / "third", "train")] == [1]


def test_init_from_finds_the_rows_of_tasks_by_their_ids(run, tmp_path):
    tasks = flip_tasks(5)
    old_file = write_tasks(tmp_path / "old.json", tasks[:4])
    new_file = write_tasks(tmp_path / "new.json", [tasks[4], tasks[2], tasks[0]])
    run(**in_weights(old_file), out="old")
    run(**in_weights(new_file), out="new", init_from=tmp_path / "old" / "ckpt.pt", max_steps=0)
    found = checkpoint(tmp_path / "old")
    old = found["model"]["task.weight"]
    new = checkpoint(tmp_path / "new")["model"]["task.weight"]
    assert [name for name, _ in found["task_ids"]] == ["flip0", "flip1", "flip2", "flip3"]
    assert torch.equal(new[[0, 2, 3]], old[[0, 3, 1]])         # row 0 is for tasks never seen
    assert torch.allclose(new[1], old.mean(0), atol=1e-6)


@pytest.mark.parametrize("table", ["before", "after"])
def test_init_from_with_a_task_table_on_one_side_only_names_the_knob(run, tmp_path, table):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(4))
    run(out="a", task_embed=table == "before", **in_context(file))
    with pytest.raises(UserError, match="--task_embed"):
        run(out="b", task_embed=table == "after", init_from=tmp_path / "a" / "ckpt.pt",
            **in_context(file))


def test_a_checkpoint_holds_what_the_run_was(run, tmp_path):
    run(seed=3)
    folder = tmp_path / "run"
    found, best = checkpoint(folder), checkpoint(folder, "best.pt")
    assert (found["kind"], found["network"]) == ("nanoarc checkpoint 4", "GPT")
    assert (found["config"]["seed"], found["step"]) == (3, 2)
    assert found["model_config"]["canvas"] == 16
    assert {"torch", "numpy", "python", "schedulefree", "commit"} <= set(found["versions"])
    assert "training" not in best and "optimizer" not in best
    model = rebuild(load_checkpoint(folder / "best.pt"))
    assert equal(dict(model.state_dict()), best["model"])
    (folder / "best.pt").replace(folder / "ckpt.pt")
    with pytest.raises(UserError, match="weights only.*--init_from"):
        run(seed=3, resume=True)


# ------------------------------------------------------------------------------------------------
# Prediction


def test_a_network_in_context_solves_a_file_it_never_saw(run, tmp_path):
    """--eval_only --tasks=FILE, with answers known, unknown, and both in one task.

    Nothing of the run is overwritten.
    """
    run()
    folder = tmp_path / "run"
    kept = ("ckpt.pt", "submission.json", "report.html", "config.json", "log.txt")
    before = [(folder / name).read_bytes() for name in kept]
    tasks = [make_task("a", "123 > 321; 45 > 54", "67 > 76"), make_task("b", "12 > 21", "34; 56"),
             make_task("c", "1 > 1", "23 > 32; 4")]
    metrics = run(eval_only=True, tasks=write_tasks(tmp_path / "mine.json", tasks))
    answers = submission_of(folder / "mine")
    assert "eval_only = True" in (folder / "mine" / "report.html").read_text()
    assert {name: len(inputs) for name, inputs in answers.items()} == {"a": 1, "b": 2, "c": 2}
    for inputs in answers.values():
        for attempts in inputs:
            assert set(attempts) == {"attempt_1", "attempt_2"}
            assert all(np.array(grid).ndim == 2 for grid in attempts.values())
    assert metrics["n"] == metrics["tasks"] == 2               # with some known answer
    assert metrics["step"] == 2
    assert [(folder / name).read_bytes() for name in kept] == before


def test_a_checkpoint_and_a_task_file_are_enough_to_solve_it(run, tmp_path, monkeypatch):
    """Sizes, encoding and the like are the checkpoint's own; what is given comes first."""
    run(encoding="rope", views=3)
    file = write_tasks(tmp_path / "mine.json", [make_task("b", "12 > 21", "34; 56")])
    given = dict(eval_only=True, init_from=tmp_path / "run" / "ckpt.pt", tasks=file, device="cpu",
                 out_dir=tmp_path / "out")
    train.main(flags(**given))
    assert list(submission_of(tmp_path / "out" / "mine")) == ["b"]
    assert "predictions: 6 in" in log_of(tmp_path / "out" / "mine")
    with pytest.raises(UserError, match="another network: encoding was 'rope'"):
        train.main(flags(**given, encoding="quadtree"))


def test_an_evaluation_that_contradicts_its_checkpoint_says_how_to_ask(run, tmp_path):
    run(n_embd=16, n_head=1, n_kv_head=1)
    cure = "n_embd was 16 and is 32; .*without a config file all but --out_dir and --tasks is as"
    with pytest.raises(UserError, match=cure):
        run(eval_only=True)
    assert train.main(flags(eval_only=True, out_dir=tmp_path / "run", device="cpu"))["n"] == 2


def test_without_answers_there_is_a_submission_and_no_score(run, tmp_path):
    run()
    file = write_tasks(tmp_path / "mine.json", [make_task("b", "12 > 21", "34; 56")])
    metrics = run(eval_only=True, tasks=file)
    assert "pass2" not in metrics
    assert "no score" in log_of(tmp_path / "run" / "mine")
    assert list(submission_of(tmp_path / "run" / "mine")) == ["b"]


def test_evaluation_does_not_need_the_training_data(run, tmp_path):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(4))
    run(**in_context(file))
    file.unlink()
    other = write_tasks(tmp_path / "other.json", flip_tasks(3, seed=1))
    assert run(**{**in_context(file), "test": other}, eval_only=True)["n"] == 3


def test_a_network_with_rules_in_its_weights_refuses_tasks_it_never_saw(run, tmp_path):
    tasks = flip_tasks(4)
    knobs = in_weights(write_tasks(tmp_path / "old.json", tasks[:2]))
    run(**knobs)
    assert run(**knobs, eval_only=True)["n"] == 2
    others = write_tasks(tmp_path / "new.json", tasks[1:])
    with pytest.raises(UserError, match=f"2 tasks, flip2 the first, .*--tasks={others}"):
        run(**knobs, eval_only=True, tasks=others)
    # the same id is not the same task
    changed = write_tasks(tmp_path / "changed.json", [tasks[0]._replace(train=tasks[3].train)])
    with pytest.raises(UserError, match="1 tasks, flip0 the first"):
        run(**knobs, eval_only=True, tasks=changed)


def test_what_the_error_advises_works(run, tmp_path):
    """--tasks=FILE trains with FILE's demonstrations, never with its answers, and solves it."""
    old = write_tasks(tmp_path / "old.json", flip_tasks(2))
    task = make_task("new", "12 > 21; 34 > 43; 567 > 765", "12 > 99; 34 > 99")
    new = write_tasks(tmp_path / "new.json", [task])
    metrics = run(**in_weights(old, colors=False, max_steps=150, learning_rate=1e-2, views=1,
                               tasks=new))
    trained = [name for name, _ in checkpoint(tmp_path / "run")["task_ids"]]
    assert trained == ["flip0", "flip1", "new"]
    answers = submission_of(tmp_path / "run")["new"]
    assert [answer["attempt_1"] for answer in answers] == [[[2, 1]], [[4, 3]]]
    assert metrics["pass1"] == 0


def test_a_task_without_queries_is_no_test(run, tmp_path):
    """re-ARC has none: to train on, not to be scored on."""
    tasks = [task._replace(test=[]) for task in flip_tasks(3)]
    file = write_tasks(tmp_path / "again.json", tasks)
    run(**in_context(file))
    for part in ("val", "test"):
        with pytest.raises(UserError, match="again.json|flip0"):
            run(out=part, **{part: file})


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_prompt_that_does_not_fit_is_a_failed_prediction(run, tmp_path, part, count):
    """Of one task or of two, in val, where each validation predicts one, and in test."""
    rows = " ".join(["1" * 18] * 18)                           # 344 tokens; max_len is 320
    tasks = [make_task("large", "1 > 1", f"{rows} > 1"), make_task("small", "1 > 1", "2 > 2")]
    file = write_tasks(tmp_path / "tasks.json", tasks[:count])
    knobs = {"test": "", "val": "", part: file}
    metrics = run(**knobs, eval_every=1, canvas=32, max_steps=3)
    said = "prompts do not fit: prompt + max_answer (40) > max_len (320)"
    assert said in log_of(tmp_path / "run")
    if part == "test":
        assert metrics["n"] == count
        assert metrics["failed_predictions"] >= 1 / count


@pytest.mark.parametrize("most", [1, 3])
def test_out_of_memory_in_decoding_halves_what_is_decoded_at_once(run, tmp_path, monkeypatch, most):
    """The same predictions come out. What an attempt had made is gone before the cache is emptied.

    Where not even one document fits, the error says what to lower.
    """
    real, made, alive = predict.generate, [], []

    def generate(model, prompts, *rest, **more):
        if len(prompts.cu_seqlens) - 1 > most:
            keys = torch.zeros(3)
            made.append(weakref.ref(keys))
            raise torch.OutOfMemoryError("injected")
        return real(model, prompts, *rest, **more)
    run(out="whole", val="", views=8)
    monkeypatch.setattr(predict, "generate", generate)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(made[-1]() is not None))
    run(out="halves", val="", views=8)
    assert submission_of(tmp_path / "whole") == submission_of(tmp_path / "halves")
    said = re.findall(r"out of memory with (\d+) documents at once", log_of(tmp_path / "halves"))
    if most == 3:
        assert said == ["14", "7", "4", "7", "4"]
    else:
        assert said[:4] == ["2", "14", "7", "3"] and len(said) == 14
    assert alive and not any(alive)
    assert len(alive) == len(made)
    most = 0
    with pytest.raises(UserError, match="out of memory with a single document.*--max_answer"):
        run(out="none", val="")


def test_memory_too_small_to_judge_halves_the_batch(monkeypatch, capsys):
    config = Config(max_len=256, max_answer=30, demos=1)
    predictor = Predictor(filled_model(tiny_config(max_len=256)).eval(), config, {}, CPU)
    queries = known_queries(flip_tasks(9), config)
    expected, _ = predictor.judge_targets(queries)
    real = QuerySet.batch

    def batch(self, which):
        if len(which) > 2:
            raise torch.OutOfMemoryError("injected")
        return real(self, which)
    monkeypatch.setattr(QuerySet, "batch", batch)
    found, _ = predictor.judge_targets(queries)
    assert np.isclose(found["loss"], expected["loss"])
    assert found["cells"] == expected["cells"]
    assert "out of memory with 9 documents at once: half of them" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# Reranking


def vote_for(task_id, test, grids):
    """Returns Predictions of grids, one a view; None is a failed one."""
    return [Prediction(task_id, test, view, grid, -0.5) for view, grid in enumerate(grids)]


@torch.no_grad()
def likelihoods_by_hand(model, task, test, grids, queries, task_row):
    """Returns (mean log-probability of each grid, number of views under which all of them fit 15).

    Each grid under each view alone, in a batch of its own.
    """
    sums, used = np.zeros(len(grids)), 0
    grid = task.test[test][0]
    for query in queries:
        pairs = view_pairs([(grid, candidate) for candidate in grids], query.symmetry, query.colors)
        if any(len(tokens) - prompt > 15 for tokens, prompt in map(encode_pair, pairs)):
            continue
        used += 1
        demos = [task.train[k] for k in query.demos]
        demos = view_pairs(demos, query.symmetry, query.colors)
        for k, pair in enumerate(pairs):
            batch = batch_of([task._replace(train=demos, test=[pair])])
            task_view = torch.tensor([[task_row, query.symmetry]]).repeat(len(batch.tokens), 1)
            logits = model(batch.tokens, batch.coords, batch.cu_seqlens, task_view)
            asked = batch.is_query.bool()
            logprobs = logits[asked].log_softmax(-1).gather(1, batch.targets[asked][:, None])
            sums[k] += float(logprobs.sum())
    return sums / used, used


@pytest.mark.parametrize("seed", range(6))     # only the order is seen: one seed shows little
def test_reranked_grids_are_in_the_order_of_their_likelihood_under_all_views(seed):
    """Two queries, a task embedding, a grid that fits under some views only; one by one by hand."""
    task, other = flip_tasks(2)
    task = task._replace(test=[task.train[0], task.train[1]])
    sizes = tiny_config(max_len=128, n_tasks=3, canvas=16)
    model, rows = filled_model(sizes, seed).eval(), {task.id: 2}
    config = Config(max_len=128, max_answer=15, symmetries=True, demos=1, rerank_views=6,
                    micro_tokens=256, task_embed=True)
    a, b = np.array([[1, 2, 3]]), np.array([[1, 2, 4]])
    c = np.ones((1, 9), int)                                   # lying 11 tokens, standing 19
    predictions = (vote_for(task.id, 0, [a, a, b, None, c]) + vote_for(task.id, 1, [a, a, b, None])
                   + vote_for(other.id, 0, [a]))
    attempts = attempts_by_votes(predictions)
    reranked = Predictor(model, config, rows, CPU).rerank([task, other], attempts)
    assert {key: len(grids) for key, grids in reranked.items()} == {
        (task.id, 0): 3, (task.id, 1): 2, (other.id, 0): 1}
    for test, grids in ((0, [a, b, c]), (1, [a, b])):
        queries = [query for query in make_queries([task], 6, config) if query.test == test]
        logprobs, used = likelihoods_by_hand(model, task, test, grids, queries, task_row=2)
        assert 0 < used
        assert (used < 6) == (len(grids) == 3)
        expected = [grids[k] for k in np.argsort(-logprobs)]
        assert list(map(grid_key, reranked[task.id, test])) == list(map(grid_key, expected))


def test_only_the_best_grids_are_reranked(monkeypatch):
    """The others stay behind them, in the order of their votes."""
    task = flip_tasks(1)[0]
    grids = [np.array([[a, b, 1]]) for a in (1, 2, 3, 4) for b in (5, 6)]
    votes = []
    for k, grid in enumerate(grids):
        votes += [grid] * (10 - k)
    attempts = attempts_by_votes(vote_for(task.id, 0, votes))
    monkeypatch.setattr("engine.predict.TOP_K", 3)
    config = Config(max_len=128, max_answer=30, demos=1, rerank_views=2)
    real = Predictor.judge
    keys = list(map(grid_key, grids))

    def judge(self, queries):                                  # the third is the likeliest
        numbers = [keys.index(grid_key(query.proposal)) for query in queries]
        assert sorted(numbers) == [0, 0, 1, 1, 2, 2]           # under two views
        return {**real(self, queries), "nll": 3.0 - np.array(numbers)}
    monkeypatch.setattr(Predictor, "judge", judge)
    predictor = Predictor(filled_model(tiny_config(max_len=128)).eval(), config, {}, CPU)
    reranked = predictor.rerank([task], attempts)[task.id, 0]
    assert list(map(grid_key, reranked)) == [keys[k] for k in (2, 1, 0, 3, 4, 5, 6, 7)]


def test_what_is_sampled_is_reranked_and_has_no_vote(monkeypatch):
    """One sample a view, without a proposal; a, which is voted for, and d, which is likeliest."""
    task = flip_tasks(1)[0]
    a, b, c, d, e = (np.array([[1, 2, k]]) for k in range(5))
    config = Config(max_len=128, max_answer=30, demos=1, rerank_views=2, samples=6)
    predictor = Predictor(filled_model(tiny_config(max_len=128)).eval(), config, {}, CPU)

    def predict_queries(queries, sample=False):
        assert sample and [query.view for query in queries] == list(range(6))
        assert all(query.proposal is None for query in queries)
        return vote_for(task.id, 0, [d, e, b, None, e, a])
    monkeypatch.setattr(predictor, "predict_queries", predict_queries)
    sampled = predictor.sample([task])
    real = Predictor.judge

    def judge(self, queries):
        likeliest = np.array([same(query.proposal, d) for query in queries])
        return {**real(self, queries), "nll": np.where(likeliest, 0.0, 9.0)}
    monkeypatch.setattr(Predictor, "judge", judge)
    predictions = vote_for(task.id, 0, [a, a, a, b, b, c])
    metrics, attempts = predictor.rank_and_score([task], predictions, sampled)
    # those that are equally likely stay in order: as voted, then as often as sampled
    assert list(map(grid_key, attempts[task.id, 0])) == list(map(grid_key, [d, a, b, c, e]))
    _, without = predictor.rank_and_score([task], predictions)
    assert list(map(grid_key, without[task.id, 0])) == list(map(grid_key, [a, b, c]))
    right = task._replace(test=[(task.test[0][0], d)])
    metrics, _ = predictor.rank_and_score([right], predictions, sampled)
    assert (metrics["pass1"], metrics["oracle"]) == (1, 1)
    assert metrics["pass2_by_votes"] == metrics["pass1_view"] == 0


def test_what_is_sampled_stands_behind_the_best_grids(monkeypatch):
    """So however many grids are voted for, every sample is among the first TOP_K + samples."""
    monkeypatch.setattr("engine.predict.TOP_K", 2)
    a, b, c, d, e = (np.array([[1, 2, k]]) for k in range(5))
    voted = attempts_by_votes(vote_for("x", 0, [a, a, a, b, b, c]) + vote_for("y", 0, [None]))
    sampled = vote_for("x", 0, [d, e, b, None, e, c]) + vote_for("y", 0, [d])
    found = with_sampled(voted, sampled)
    assert list(map(grid_key, found["x", 0])) == list(map(grid_key, [a, b, e, d, c]))
    assert list(map(grid_key, found["y", 0])) == [grid_key(d)]


def test_the_same_seed_draws_the_same_samples():
    task = flip_tasks(1)[0]
    config = Config(max_len=128, max_answer=30, demos=1, rerank_views=2, samples=16)
    model = filled_model(tiny_config(max_len=128)).eval()
    with torch.no_grad():
        model.head.weight[3:10] = model.head.weight[[START, OUT]] = 0
    predictor, found = Predictor(model, config, {}, CPU), []
    for _ in range(2):
        torch.rand(3)
        found.append([p.grid for p in predictor.sample([task]) if p.grid is not None])
    assert found[0] and list(map(grid_key, found[0])) == list(map(grid_key, found[1]))
    config.samples = 0
    assert predictor.sample([task]) == []


def test_samples_find_what_no_view_answers(run, tmp_path, monkeypatch):
    """Grids are taken from samples alone, here the right ones; the metrics of votes stay."""
    real = Predictor.predict_queries

    def predict_queries(self, queries, sample=False):
        predictions = real(self, queries, sample)
        if sample:
            predictions = [prediction._replace(grid=query.target)
                           for query, prediction in zip(queries, predictions)]
        return predictions
    monkeypatch.setattr(Predictor, "predict_queries", predict_queries)
    without, found = run(rerank_views=2), run(rerank_views=2, samples=3, out="sampled")
    assert without["oracle"] == 0 and found["oracle"] == 1
    assert found["pass2_by_votes"] == found["pass1_view"] == 0
    log = log_of(tmp_path / "sampled")
    assert re.search(r"^  \d+ answers sampled in \d+ seconds$", log, re.M)
    with pytest.raises(UserError, match="samples = 3: only likelihood can order"):
        run(samples=3, rerank_views=0, out="no")
    run(out="plain")
    run(out="plain", eval_only=True, samples=3)
    assert "no answer is sampled: rerank_views = 0" in log_of(tmp_path / "plain")


def test_reranking_by_likelihood_changes_the_attempts(run, monkeypatch):
    """The wrong grids have more votes, and all views find the right one likely."""
    def wrong(answer):
        return np.where(answer == 1, 2, 1)

    def predict_wrong(self, tasks, views):
        predictions = []
        for task in tasks:
            answer = task.test[0][1]
            grids = [wrong(answer)] * 2 + [wrong(answer.T)] * 2 + [answer]
            predictions += vote_for(task.id, 0, grids)
        return predictions
    monkeypatch.setattr(Predictor, "predict", predict_wrong)
    real = Predictor.judge

    def judge(self, queries):
        scores = real(self, queries)
        right = np.array([np.array_equal(query.proposal, query.target) for query in queries])
        if not right.all():                                    # not the known answers, but attempts
            scores["nll"] = np.where(right, 0.0, 9.0)
        return scores
    monkeypatch.setattr(Predictor, "judge", judge)
    voted = run(out="voted", rerank_views=0)
    reranked = run(out="reranked", rerank_views=3)
    assert voted["pass1"] == reranked["pass1_by_votes"] == 0
    assert voted["pass2"] == reranked["pass2_by_votes"] == 0
    assert "pass1_by_votes" not in voted
    assert reranked["pass1"] == 1
    assert reranked["oracle"] == voted["oracle"] == 1


def test_votes_are_kept_where_reranking_fails(run, tmp_path, monkeypatch):
    run(out="votes")

    def rerank(*_):
        raise UserError("no")
    monkeypatch.setattr(Predictor, "rerank", rerank)
    with pytest.raises(UserError, match="^no$"):
        run(out="failed", rerank_views=2)
    assert submission_of(tmp_path / "votes") == submission_of(tmp_path / "failed")


# ------------------------------------------------------------------------------------------------
# What a run leaves


def test_config_json_says_which_version_of_each_file_was_read(run, tmp_path):
    """As sha256sum prints it; generated tasks and directories have none."""
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(4))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "more.json").write_text(json.dumps(raw(flip_tasks(1, seed=1)[0])))
    run(train=f"oned#3+{folder}", val="oned", test=f"{file}@2")
    found = json.loads((tmp_path / "run" / "config.json").read_text())["files"]
    assert found == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}


def test_of_kaggles_files_both_are_named_and_of_what_is_not_read_none(run, tmp_path):
    tasks = flip_tasks(4)
    train_file = write_tasks(tmp_path / "train.json", flip_tasks(4, seed=1))
    challenges, solutions = tmp_path / "x_challenges.json", tmp_path / "x_solutions.json"
    write_tasks(challenges, [task._replace(test=[(a, None) for a, _ in task.test])
                             for task in tasks])
    solutions.write_text(json.dumps({task.id: [b.tolist() for _, b in task.test]
                                     for task in tasks}))
    run(train=f"oned#3+{train_file}", val="oned", test=challenges)
    folder = tmp_path / "run"
    read = json.loads((folder / "config.json").read_text())["files"]
    assert set(read) == {str(train_file), str(challenges), str(solutions)}
    run(train=f"oned#3+{train_file}", val="oned", test=challenges, eval_only=True)
    read = json.loads((folder / "eval.json").read_text())["files"]
    assert set(read) == {str(challenges), str(solutions)}


def test_a_run_leaves_checkpoints_records_a_submission_and_a_report(run, tmp_path):
    metrics = run(max_steps=5, eval_every=2, log_every=2, keep_every=2)
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "best.pt", "ckpt.pt", "config.json", "log.txt", "metrics.jsonl", "report.html",
        "step_000002.pt", "step_000004.pt", "submission.json"]
    config = json.loads((folder / "config.json").read_text())
    assert {field.name for field in fields(Config)} <= set(config)
    assert (config["n_embd"], config["canvas"]) == (32, 16)
    assert {"python", "torch", "numpy", "schedulefree", "commit"} <= set(config["versions"])
    steps, val = records(folder, "train"), records(folder, "val")
    assert [line["step"] for line in steps] == [line["step"] for line in val] == [2, 4, 5]
    for line in steps:
        assert {"loss", "loss_all_outputs", "lr", "norm", "ms", "seconds"} <= set(line)
    assert {"loss", "cells", "exact", "n", "families"} <= set(val[-1])
    last, = records(folder, "test")
    assert {"pass1_single", "pass1", "pass2", "oracle", "failed_predictions", "prediction_cells",
            "n", "exact"} <= set(last)
    assert (last["times_scored"], last["step"], last["pass2"]) == (1, 5, metrics["pass2"])


def test_the_log_says_what_a_run_is_and_how_it_went(run, tmp_path):
    metrics = run(max_steps=5, eval_every=2, log_every=2)
    log = log_of(tmp_path / "run")
    # as in README: of compilation it says something on CUDA alone
    assert re.search(r"^device: cpu \(.*\); torch [\w.+]+$", log, re.M)
    for text in ("parameters", "encoding quadtree", "canvas 16", "val:", "step      4/5", "ETA",
                 "predictions:", f"loss: {metrics['loss']:.4f}", "seed 1", "submission.json"):
        assert text in log, text
    config = ModelConfig(**checkpoint(tmp_path / "run")["model_config"])
    with torch.device("meta"):
        network, tables = GPT(config).count_parameters()
    assert f"{network:,} parameters and {tables:,} in embedding tables" in log


def test_the_same_seed_gives_the_same_run_and_another_seed_another(run, tmp_path):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(out=out, seed=seed)
    a, b, c = (checkpoint(tmp_path / out)["training"] for out in "abc")
    assert equal(a, b)
    assert not equal(a, c)


def test_control_c_saves_and_resume_goes_on(run, tmp_path, monkeypatch):
    knobs = dict(max_steps=1_000_000, log_every=1, eval_every=1_000_000)
    given = flags(**{**TINY, **knobs, "out_dir": tmp_path / "run"})
    process = subprocess.Popen([sys.executable, "train.py", "config/quadtree.py", *given], cwd=ROOT,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= 3:
            break
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "saved. Go on with --resume" in out
    step = checkpoint(tmp_path / "run")["step"]
    assert step >= 3
    at_step(monkeypatch, 2, interrupt)
    with pytest.raises(SystemExit):
        run("config/quadtree.py", resume=True, **knobs)
    assert checkpoint(tmp_path / "run")["step"] == step + 3
    assert f"resumed at step {step}" in log_of(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_of_the_scheduler_saves_too(run, tmp_path, monkeypatch, request, number):
    """SLURM, `timeout`, `docker stop` and a closed terminal."""
    was = signal.signal(number, signal.SIG_DFL)       # `nohup pytest` ignores a closed terminal
    request.addfinalizer(lambda: signal.signal(number, was))
    at_step(monkeypatch, 2, lambda: signal.raise_signal(number))
    with pytest.raises(SystemExit) as stopped:
        run(max_steps=9)
    assert stopped.value.code == 128 + number
    assert checkpoint(tmp_path / "run")["step"] == 3
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_while_the_last_step_is_judged_stops_the_run(run, tmp_path, monkeypatch):
    """The step is saved; predictions are made once the run is resumed."""
    with monkeypatch.context() as patch:
        real = train.validate

        def validate(*arguments):
            signal.raise_signal(signal.SIGTERM)
            return real(*arguments)
        patch.setattr(train, "validate", validate)
        with pytest.raises(SystemExit) as stopped:
            run("config/quadtree.py", max_steps=2)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert checkpoint(tmp_path / "run")["step"] == 2
    assert not records(tmp_path / "run", "test")
    run("config/quadtree.py", max_steps=2, resume=True)
    assert records(tmp_path / "run", "test")


def test_a_failing_evaluation_costs_no_step(run, tmp_path, monkeypatch):
    """The step is saved before it is judged, and judged once the run is resumed."""
    knobs = dict(max_steps=4, eval_every=2, log_every=1)
    run("config/quadtree.py", out="whole", **knobs)
    with monkeypatch.context() as patch:
        def fail(*arguments):
            raise OSError("disk full")
        patch.setattr(train.Predictor, "judge_targets", fail)
        with pytest.raises(OSError):
            run("config/quadtree.py", out="parts", **knobs)
    assert checkpoint(tmp_path / "parts")["step"] == 2
    assert not records(tmp_path / "parts", "val")
    for _ in range(2):                         # the second time there is nothing left to judge
        run("config/quadtree.py", out="parts", resume=True, **knobs)
        assert [m["step"] for m in records(tmp_path / "parts", "val")] == [2, 4]
    whole, parts = (checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert equal(whole["training"], parts["training"])
    best = [checkpoint(tmp_path / name, "best.pt") for name in ("whole", "parts")]
    assert equal(best[0]["model"], best[1]["model"])


@pytest.mark.parametrize("change", ["an edited cell", "another order", "another task"])
def test_a_run_is_not_resumed_on_other_tasks(run, tmp_path, change):
    tasks = flip_tasks(4)
    file = write_tasks(tmp_path / "tasks.json", tasks)
    run(**in_context(file))
    run(**in_context(file), resume=True)
    if change == "an edited cell":
        tasks[2].train[0][1][0, 0] = (tasks[2].train[0][1][0, 0] + 1) % 10
    elif change == "another order":
        tasks = tasks[::-1]
    else:
        tasks[1] = flip_tasks(1, seed=5)[0]._replace(id=tasks[1].id)
    write_tasks(file, tasks)
    with pytest.raises(UserError, match="other tasks now, or in another order.*--init_from="):
        run(**in_context(file), resume=True)


def test_weights_that_a_run_starts_from_are_not_deleted(run, tmp_path):
    """By a run in the same folder that fails before its first checkpoint."""
    run()
    start = tmp_path / "run" / "ckpt.pt"
    before = start.read_bytes()
    with pytest.raises(UserError, match="gradient norm (nan|inf)"):
        run(overwrite=True, init_from=start, learning_rate=1e30, max_steps=20, log_every=1)
    assert start.read_bytes() == before


def test_queries_without_an_attempt_are_counted(run, tmp_path):
    """Their prompt is too long, and [[0]] is what the submission says."""
    wide = make_task("wide", "12 > 21", "123456789 > 987654321")
    wide = wide._replace(test=[(np.ones((17, 17), np.uint8), None)])
    file = write_tasks(tmp_path / "tasks.json", [wide, make_task("b", "12 > 21", "34 > 43")])
    run(test=file, canvas=32)
    assert re.search(r"[12] of 2 queries have no attempt, so \[\[0\]\]", log_of(tmp_path / "run"))


def test_resume_records_nothing_twice_and_refuses_other_knobs(run, tmp_path):
    knobs = dict(max_steps=6, eval_every=3, log_every=1)
    run(**knobs)
    folder = tmp_path / "run"
    whole = records(folder, "train")
    found = checkpoint(folder)
    with pytest.raises(UserError, match="weight_decay was 0.2 and is 0.5"):
        run(**knobs, weight_decay=0.5, resume=True)
    # as if it had been killed after step 3 was saved
    torch.save({**found, "step": 3}, folder / "ckpt.pt")
    run(**knobs, resume=True)
    again = records(folder, "train")
    assert [line["step"] for line in again] == [line["step"] for line in whole]


def test_a_reader_who_leaves_does_not_stop_the_run(tmp_path):
    given = flags(**{**TINY, "max_steps": 5, "log_every": 1, "out_dir": tmp_path / "run"})
    command = " ".join([sys.executable, "train.py", *given])
    subprocess.run(f"{command} | head -2", shell=True, cwd=ROOT, check=True, capture_output=True)
    assert checkpoint(tmp_path / "run")["step"] == 5
    assert "pass2" in log_of(tmp_path / "run")


@pytest.fixture
def reported():
    """reported(step, seconds, max_steps) is (a run that has got so far, its Progress).

    run.lines and run.recorded are what it says.
    """
    def start(step, seconds, max_steps):
        class Log:
            record = staticmethod(lambda **values: run.recorded.append(values))

            def __call__(self, text):
                run.lines.append(text)
        run = SimpleNamespace(step=step, seconds=seconds, config=Config(max_steps=max_steps),
                              log=Log(), optimizer=SimpleNamespace(decays=False), lines=[],
                              recorded=[])
        return run, Progress(run)
    return start


def test_the_time_that_is_left_follows_from_this_session(reported):
    """A run that was slow before, on another machine say, does not look slow for ever."""
    resumed, progress = reported(1000, 2e6, 2000)
    resumed.step = 1001
    progress.report((1.0, 1.0), 0.5)
    assert int(resumed.lines[0].split("ETA ")[1].split(":")[0]) < 10           # minutes
    assert resumed.recorded[0]["seconds"] > 2e6


def test_the_time_that_is_left_forgets_the_steps_that_compile(reported, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runs.time, "time", lambda: now[0])
    run, progress = reported(0, 0.0, 1000)
    for run.step, now[0] in ((1, 400.0), (2, 410.0), (3, 420.0), (100, 517.0), (200, 617.0)):
        progress.count(10)
        if run.step in (1, 100, 200):
            progress.report((1.0, 1.0), 0.5)
            progress.restart()
    # compilation, then a second a step
    assert [line.split("ETA ")[1] for line in run.lines] == ["unknown", "15:00", "13:20"]


def test_slow_steps_are_reported_although_none_is_due(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Progress, "SILENCE", 0)
    run(max_steps=3, log_every=100)
    printed = capsys.readouterr().out
    assert all(f"step      {step}/3" in printed for step in (1, 2, 3))


def test_a_time_is_short_where_it_is_short():
    times = {5: "0:05", 187: "3:07", 797: "13:17", 7387: "2:03:07", 36000: "10:00:00",
             93787: "1 day, 2:03:07", 0.4: "0:00"}
    assert {seconds: runs.clock(seconds) for seconds in times} == times
