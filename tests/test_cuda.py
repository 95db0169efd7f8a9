"""What only a GPU can show: a step recorded as a CUDA graph is the step.

Skipped, visibly, where there is no GPU with flash attention.
"""
import numpy as np
import pytest
import torch

import train
from arc.tokens import COLORS, END, VOCAB
from config import Config
from conftest import filled_model, flip_tasks, tiny_config
from engine import predict
from engine.batches import Generated
from engine.cuda_graphs import run_steps
from engine.devices import is_compiled
from engine.optim import Muon
from model import GPT

CUDA = torch.device("cuda")
HERE = torch.cuda.is_available() and is_compiled(Config(), CUDA)
pytestmark = pytest.mark.skipif(not HERE, reason="no CUDA device with flash attention here")


def losses_and_gradients(model, forward_backward, step, micro_tokens):
    torch.manual_seed(0)
    losses = forward_backward(step, micro_tokens)
    found = [losses.clone()]
    for p in model.parameters():
        found.append(p.grad.float().clone())
        p.grad = None
    return found


@pytest.mark.parametrize("dropout, recompute, qk_norm", [
    (0.0, False, False), (0.1, False, False), (0.0, True, False), (0.1, True, False),
    (0.1, False, True)])
def test_a_recorded_step_is_the_step(dropout, recompute, qk_norm, monkeypatch):
    """Several shapes, several micro-batches, in turn."""
    config = Config(max_steps=12, batch_tokens=8192, max_len=640, dropout=dropout,
                    recompute=recompute)
    stream = Generated(config, ["1d_fill", "1d_mirror"], set())
    small = tiny_config(canvas=64, max_len=640, n_embd=64, dropout=dropout, qk_norm=qk_norm)
    model = GPT(small).to(CUDA)
    recorded = train.ForwardBackward(config, model, CUDA)
    plain = train.ForwardBackward(config, model, CUDA)
    # the same compiled network and batches of the same size, but nothing is recorded
    monkeypatch.setattr(plain, "run_micro_batch", plain.micro_batch)
    monkeypatch.setattr(plain, "network", recorded.network)
    for micro_tokens in (8192, 2048):
        for step in stream.steps(0, 0):
            expected = losses_and_gradients(model, plain, step, micro_tokens)
            found = losses_and_gradients(model, recorded, step, micro_tokens)
            for x, y in zip(expected, found):
                assert (x - y).norm() <= 0.02 * x.norm() + 1e-6
        assert {shapes[0][0] for shapes in recorded.run_micro_batch.graphs} == {micro_tokens}


def test_a_recomputed_step_is_the_step_in_less_memory():
    """Compiled and recorded, without dropout."""
    found, peaks = [], []
    left = torch.cuda.memory_allocated()       # by earlier tests that failed
    for recompute in (False, True):
        config = Config(max_steps=1, batch_tokens=65536, max_len=640, recompute=recompute)
        stream = Generated(config, ["1d_fill", "1d_mirror"], set())
        torch.manual_seed(0)
        small = tiny_config(canvas=64, max_len=640, n_embd=256, n_mlp=704, n_layer=6)
        model = GPT(small).to(CUDA)
        forward_backward = train.ForwardBackward(config, model, CUDA)
        torch.cuda.reset_peak_memory_stats()
        for step in stream.steps(0, 0):
            found.append(losses_and_gradients(model, forward_backward, step, 65536))
        peaks.append(torch.cuda.max_memory_allocated() - left)
    for x, y in zip(*found):
        assert (x - y).norm() <= 0.02 * x.norm() + 1e-6
    assert peaks[1] < peaks[0] / 2


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_muon_compiled_is_muon(average):
    torch.manual_seed(0)
    params = [[torch.nn.Parameter(torch.randn(shape, device=CUDA)) for shape in
               [(64, 32), (64, 32), (32, 64)]] for _ in range(2)]
    params[1] = [torch.nn.Parameter(p.detach().clone()) for p in params[0]]
    start = [p.detach().clone() for p in params[0]]
    optimizers = [Muon(own, 0.1, average=average, compiled=k) for k, own in enumerate(params)]
    for step in range(4):
        for a, b in zip(*params):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (step + 1)
            optimizer.step()
    for a, b, c in zip(*params, start):
        assert (a - b).norm() < 0.02 * (b - c).norm()


@pytest.mark.parametrize("times", [3, 40])                     # called one by one; recorded
def test_steps_replayed_are_steps_called(times):
    total = torch.zeros(1, device=CUDA)
    out = torch.zeros(40, device=CUDA)

    def step():
        total.add_(1)
        out[total.long() - 1] = total * 2
    run_steps(step, times, CUDA)
    assert total.item() == times
    assert out[:times].tolist() == [2.0 * k for k in range(1, times + 1)]


def test_answers_decoded_by_replayed_steps_are_those_of_plain_ones(monkeypatch):
    """Predictor hands run_steps to model.generate. In float32, so that rounding decides little."""
    config = Config(dtype="float32", max_len=256, max_answer=60, views=2)
    model = filled_model(tiny_config(max_len=256)).to(CUDA).eval()
    predictor = predict.Predictor(model, config, {}, CUDA)
    queries = predict.make_queries(flip_tasks(8), 2, config)

    def answers():
        found = predictor.decode(predictor.query_set(queries))
        return [None if answer is None else answer.tokens.tolist() for answer in found]
    replayed = answers()
    calls = []

    def one_by_one(step, times, device):
        calls.append(times)
        for _ in range(times):
            step()
    monkeypatch.setattr(predict, "run_steps", one_by_one)
    assert answers() == replayed
    assert calls


def test_replayed_steps_draw_anew():
    """Colors and `end` are equally likely: no step repeats another's draw."""
    config = Config(dtype="float32", max_len=256, max_answer=60)
    model = filled_model(tiny_config(max_len=256, canvas=64)).to(CUDA).eval()
    with torch.no_grad():
        model.norm.weight.zero_()
    likely = torch.full((VOCAB,), -30.0, device=CUDA)
    likely[:COLORS] = likely[END] = 0
    model.head.register_forward_hook(lambda module, inputs, logits: logits + likely)
    predictor = predict.Predictor(model, config, {}, CUDA)
    queries = predict.make_queries(flip_tasks(64), 1, config)
    torch.manual_seed(0)
    answers = predictor.decode(predictor.query_set(queries), sample=True)
    tokens = [answer.tokens for answer in answers if answer is not None and len(answer.tokens) > 8]
    assert len(tokens) > 10                    # of 64, half go on that long
    steps = np.stack([answer[:8] for answer in tokens], 1)
    assert len({step.tobytes() for step in steps}) == 8
    assert len(np.unique(steps)) == COLORS
