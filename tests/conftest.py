"""Helpers of all tests.

ARC_DATA=folder says where the real tasks are; tests that need them skip without it.
"""
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import train  # noqa: E402
from arc.task import Task  # noqa: E402
from arc.tokens import VOCAB  # noqa: E402
from arc.views import IDENTITY  # noqa: E402
from engine.batches import DocumentPlan, Pairs, build_documents, gather  # noqa: E402
from model import GPT, ModelConfig  # noqa: E402
from positions.index import build  # noqa: E402

torch.set_num_threads(1)                       # networks this small gain nothing from a second

# Knobs of a run that takes a tenth of a second.
TINY = dict(device="cpu", n_layer=1, n_embd=32, n_head=2, n_kv_head=1, n_mlp=32, max_len=320,
            batch_tokens=640, max_answer=40, max_steps=2, views=2, oned_families="1d_fill",
            oned_eval=2, oned_max_width=9)


def flags(**knobs):
    return [f"--{key}={value}" for key, value in knobs.items()]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(out="a", key=value) is train.main with the knobs of TINY and these, in tmp_path/a."""
    monkeypatch.chdir(ROOT)

    def run(*args, out="run", **knobs):
        return train.main([*args, *flags(**{**TINY, "out_dir": tmp_path / out, **knobs})])
    return run


def checkpoint(folder, name="ckpt.pt"):
    return torch.load(Path(folder) / name, weights_only=True)


def records(folder, kind):
    """Lines of metrics.jsonl of one kind."""
    lines = map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def arc_data(name):
    """Path of a file of real tasks."""
    if "ARC_DATA" not in os.environ:
        pytest.skip(f"set ARC_DATA to the folder that holds {name}")
    path = Path(os.environ["ARC_DATA"]) / name
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return path


def equal(a, b):
    """Tensors, and containers of them, equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# ------------------------------------------------------------------------------------------------
# Tasks

def grid(rows):
    """"120 345" -> the grid of these two rows."""
    return np.array([[int(c) for c in row] for row in rows.split()], np.uint8)


def make_task(name, train, test):
    """Tasks as text: pairs "input > output; input > output", a test output may be missing."""
    def pairs(text):
        for pair in filter(str.strip, text.split(";")):
            a, _, b = pair.partition(">")
            yield grid(a), grid(b) if b.strip() else None
    return Task(name, list(pairs(train)), list(pairs(test)))


def random_grid(rng, most=4):
    return rng.integers(0, 10, rng.integers(1, most + 1, 2)).astype(np.uint8)


def flip_tasks(count, demos=3, seed=0, most=4):
    """Small random grids, each mirrored from left to right."""
    rng = np.random.default_rng(seed)
    tasks = []
    for i in range(count):
        grids = [random_grid(rng, most) for _ in range(demos + 1)]
        pairs = [(grid, grid[:, ::-1].copy()) for grid in grids]
        tasks.append(Task(f"flip{i}", pairs[:demos], pairs[demos:]))
    return tasks


def raw(task):
    """A task as ARC's JSON has it."""
    def sides(pair):
        named = zip(("input", "output"), pair)
        return {name: grid.tolist() for name, grid in named if grid is not None}
    return {"train": [sides(pair) for pair in task.train],
            "test": [sides(pair) for pair in task.test]}


def write_tasks(path, tasks):
    path.write_text(json.dumps({task.id: raw(task) for task in tasks}))
    return path


# ------------------------------------------------------------------------------------------------
# Networks and batches

def tiny_config(**changes):
    small = dict(encoding="quadtree", n_layer=2, n_head=2, n_kv_head=1, n_embd=32, n_mlp=48,
                 dropout=0.0, canvas=8, max_len=256, n_pairs=4)
    return ModelConfig(**{**small, **changes})


def filled_model(config, seed=0):
    """A network with lively weights from numpy: the same with every version of torch."""
    rng, model = np.random.RandomState(seed), GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            values = rng.standard_normal(p.shape)
            values = 1 + values / 10 if p.ndim == 1 else values * 1.5 / p.shape[1] ** 0.5
            p.copy_(torch.from_numpy(values))
        model.head.weight.mul_(3)
    return model


def batch_of(tasks, prompt_only=False, static=None):
    """A batch in which each task is a document of all its pairs, as they are."""
    pairs, plans = [], []
    for task in tasks:
        new = task.train + task.test[:1]
        plans.append(DocumentPlan(range(len(pairs), len(pairs) + len(new)), 0, IDENTITY, 0))
        pairs += new
    pairs = Pairs(pairs)
    documents = build_documents(pairs, plans)
    if prompt_only:
        documents = documents.cut_query_outputs(0)
    return gather(pairs, documents, **(static or {}))


def parameters(config, encoding):
    """Number of parameters of a network, by hand; `encoding` of them in its positions."""
    C, hs = config.n_embd, config.n_embd // config.n_head
    attention = 2 * C * C + 2 * C * config.n_kv_head * hs
    tables = (VOCAB + 2 * config.n_pairs + config.n_tasks + config.n_views) * C
    blocks = config.n_layer * (attention + 3 * C * config.n_mlp + 2 * C)
    return tables + encoding + blocks + C + VOCAB * C


def position_parameters(config):
    """How many of them an encoding has: those of the encoding alone, on the meta device."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(config).parameters())
