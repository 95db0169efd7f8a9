"""What only a GPU can show: a step recorded as a CUDA graph is the step. Skipped, visibly, where there is none."""
import pytest
import torch

import replay
import train
from config import Config
from conftest import tiny_shape
from data.batch import Generated
from model import GPT, has_varlen

pytestmark = pytest.mark.skipif(not torch.cuda.is_available() or not has_varlen(torch.device("cuda"), torch.bfloat16), reason="no CUDA device here")


def gradients(model, backward, item, micro):
    torch.manual_seed(0)
    losses = backward(item, micro)
    found = [losses.clone(), *(p.grad.float().clone() for p in model.parameters())]
    for p in model.parameters():
        p.grad = None
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_recorded_step_is_the_step(dropout):
    """Several shapes, several micro-batches, in turn."""
    device, config = torch.device("cuda"), Config(max_steps=12, batch_tokens=8192, max_len=640, dropout=dropout)
    data, model = Generated(config, ["1d_fill", "1d_mirror"], set()), GPT(tiny_shape(frame=64, max_len=640, n_embd=64, dropout=dropout)).to(device)
    recorded = train.Backward(config, model, data, device)
    plain = train.Backward(config, model, data, device)
    plain.work, plain.network = lambda work, *inputs: work(*inputs), recorded.network
    for micro in (8192, 2048):
        for item in data.stream(0, 0):
            a, b = (gradients(model, backward, item, micro) for backward in (plain, recorded))
            for x, y in zip(a, b):
                assert (x - y).norm() <= 0.02 * x.norm() + 1e-6
        assert {shapes[0][0] for shapes in recorded.work.graphs} == {micro}


def test_steps_replayed_are_steps_called():
    device = torch.device("cuda")
    totals = []
    for times in (3, 40):                                      # called one by one; recorded
        total, out = torch.zeros(1, device=device), torch.zeros(40, device=device)
        def step():
            total.add_(1)
            out[total.long() - 1] = total * 2
        replay.repeat(step, times, device)
        totals.append((total.item(), out[:times].tolist()))
    assert totals == [(n, [2.0 * k for k in range(1, n + 1)]) for n in (3, 40)]
