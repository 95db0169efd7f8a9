"""The network: what a token sees, generation with and without a cache, sizes, checkpoints."""
import dataclasses
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import evaluate
import train
from config import Config, UserError
from conftest import (TINY, batch_of, filled_model, flags, flip_tasks, grid, make_task, parameters, position_parameters, tiny_shape,
                      write_tasks)
from data.arc import END, OUT, ROW, START, VOCAB, advance
from data.exam import Exam, questions
from data.score import Draft, as_draft, same
from model import GPT, Cache, check_shape, from_checkpoint, generate, load_checkpoint, save_checkpoint
from positions.index import ENCODINGS

SIZES = [dict(encoding=name, n_head=4, n_kv_head=n_kv_head, n_embd=32) for name in ENCODINGS for n_kv_head in (4, 2, 1)]
name_of = lambda sizes: f"{sizes['encoding']}-{sizes['n_kv_head']}"


def logits_of(model, batch, **how):
    return model(batch.tokens, batch.coords, batch.docs, batch.labels, **how)


# --------------------------------------------------------------------------------------------------------------------
# What a token sees

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_add_up_in_what_they_compute_in(dtype):
    """The residual stream is as wide as autocast's products; norms take it as it comes (torch warns where it norms two dtypes), keep their gain in
    float32, and tell 1e-3 from nothing."""
    model, seen = filled_model(tiny_shape()), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        warnings.simplefilter("error")
        logits = logits_of(model, batch_of(flip_tasks(2)))
    assert set(seen) == {dtype} and logits.dtype == dtype
    logits.float().logsumexp(-1).sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    x = torch.randn(4, 32)
    torch.testing.assert_close(model.norm(1e-3 * x.to(dtype)).float(), nn.RMSNorm(32)(1e-3 * x.to(dtype).float()) * model.norm.weight, rtol=0.02, atol=0.02)


def sensitivity(model, batch, **how):
    """(T, T): by how much the loss at token t (row) changes with the embedding of each token (column)."""
    embedded = []
    hook = model.token.register_forward_hook(lambda module, args, out: embedded.append(out))
    losses = F.cross_entropy(logits_of(model, batch, **how), batch.tokens.roll(-1), reduction="none")
    hook.remove()
    return torch.stack([torch.autograd.grad(loss, embedded[0], retain_graph=True)[0].abs().sum(-1) for loss in losses])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_a_token_sees_its_own_document_up_to_itself(sizes, causal):
    batch = batch_of([make_task("a", "1 > 2", "34 > 5"), make_task("b", "", "12 > 21"), make_task("c", "", "7 > 8")])
    seen = sensitivity(filled_model(tiny_shape(**sizes)), batch, causal=causal) > 0
    T = len(batch.tokens)
    doc = torch.repeat_interleave(torch.arange(3), batch.docs.diff())
    expected = doc[:, None] == doc
    if causal:
        expected &= torch.arange(T)[:, None] >= torch.arange(T)
    assert torch.equal(seen, expected)


def test_documents_do_not_change_each_other():
    tasks = flip_tasks(3)
    model = filled_model(tiny_shape())
    together = logits_of(model, batch_of(tasks))
    alone = torch.cat([logits_of(model, batch_of([task])) for task in tasks])
    assert torch.allclose(together, alone, atol=1e-5)


def test_task_and_view_embeddings_reach_every_token():
    model = filled_model(tiny_shape(n_tasks=3, n_views=8))
    batch = batch_of(flip_tasks(1))
    for column in (0, 1):
        labels = batch.labels.clone()
        labels[:, column] = 2
        changed = (logits_of(model, batch) - logits_of(model, batch._replace(labels=labels))).abs().amax(-1)
        assert changed.min() > 1e-3


# --------------------------------------------------------------------------------------------------------------------
# Generation

def generate_slowly(model, batch, d, max_new):
    """Greedy answer to document d without a cache: the whole sequence is read anew for every token. -> (tokens, logps, why)"""
    a, b = batch.docs[d:d + 2].tolist()
    tokens, coords, label = batch.tokens[a:b], batch.coords[a:b], batch.labels[a:a + 1]
    cursor, answer, logps = advance(coords[-1].numpy()[None], tokens[-1:].numpy()), [], []
    for _ in range(max_new):
        logits = model(tokens, coords, torch.tensor([0, len(tokens)]), label.expand(len(tokens), -1))[-1]
        token = int(logits.argmax())
        logps.append(logits.log_softmax(-1)[token].item())
        if token == END:
            return answer, logps, "end"
        tokens, coords = torch.cat([tokens, torch.tensor([token])]), torch.cat([coords, torch.from_numpy(cursor)])
        answer.append(token)
        cursor = advance(cursor, np.array([token]))
        if token in (START, OUT):
            return None, None, "no grid"
        if cursor[0, 2:].max() >= model.shape.frame:
            return None, None, "frame"
    return None, None, "long"


def babbling(**sizes):
    """A network of random answers, and 24 prompts for it."""
    model = filled_model(tiny_shape(**sizes, n_tasks=25), seed=4).eval()
    with torch.no_grad():
        model.task.weight.mul_(1.5)                            # so that prompts differ in what follows
        model.head.weight[3:10] = model.head.weight[[START, OUT]] = 0      # so that `row` and `end` are likely
    batch = batch_of(flip_tasks(24, demos=2), prompt_only=True)
    batch.labels[:, 0] = torch.repeat_interleave(torch.arange(1, 25), batch.docs.diff())
    return model, batch


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_cached_generation_equals_reading_everything_anew(sizes):
    """For documents of different lengths, of which some end early and some leave the frame."""
    (model, batch), max_new = babbling(**sizes), 20
    slow = [generate_slowly(model, batch, d, max_new) for d in range(24)]
    fast = generate(model, batch.tokens, batch.coords, batch.docs, batch.labels, max_new)
    for (tokens, logps, _), answer in zip(slow, fast, strict=True):
        assert (answer is None) == (tokens is None)
        if answer is not None:
            assert answer.tokens.tolist() == tokens
            assert np.allclose(answer.logps, logps, atol=1e-5, rtol=0)
    assert {why for *_, why in slow} >= {"end", "frame"}


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES[1::3], ids=name_of)
def test_log_probabilities_of_sampled_answers(sizes):
    """Documents end one after the other; each answer's log-probabilities are those of reading it with its prompt."""
    (model, batch), lengths = babbling(**sizes), set()
    torch.manual_seed(1)
    for d, answer in enumerate(generate(model, batch.tokens, batch.coords, batch.docs, batch.labels, 30, 2.0)):
        if answer is None:
            continue
        a, b = batch.docs[d:d + 2].tolist()
        tokens = torch.cat([batch.tokens[a:b], torch.from_numpy(answer.tokens)])
        coords, cursor = batch.coords[a:b], advance(batch.coords[b - 1].numpy()[None], batch.tokens[b - 1:b].numpy())
        for token in answer.tokens:
            coords, cursor = torch.cat([coords, torch.from_numpy(cursor)]), advance(cursor, np.array([token]))
        logits = model(tokens, coords, torch.tensor([0, len(tokens)]), batch.labels[a].expand(len(tokens), 2))
        logps = logits.log_softmax(-1)[b - a - 1:].gather(1, torch.tensor([*answer.tokens, END])[:, None])[:, 0]
        assert torch.allclose(torch.from_numpy(answer.logps), logps, atol=1e-5, rtol=0)
        lengths.add(len(answer.tokens))
    assert len(lengths) > 2


@torch.no_grad()
def test_sampling_at_a_low_temperature_is_greedy():
    model, batch = filled_model(tiny_shape()).eval(), batch_of(flip_tasks(24), prompt_only=True)
    greedy, cold = (generate(model, batch.tokens, batch.coords, batch.docs, batch.labels, 20, t) for t in (0, 1e-5))
    assert [a and a.tokens.tolist() for a in greedy] == [a and a.tokens.tolist() for a in cold]


@torch.no_grad()
def test_a_decode_step_sees_its_own_tokens_and_no_further():
    """What lies in the cache beyond a document's length, left by others or by chance, changes nothing."""
    model, batch = filled_model(tiny_shape()), batch_of(flip_tasks(3), prompt_only=True)
    expected = logits_of(model, batch)[batch.docs[1:].long() - 1]
    first = [slice(a, b - 1) for a, b in zip(batch.docs, batch.docs[1:])]                  # all but the last token
    start = [torch.cat([x[of] for of in first]) for x in (batch.tokens, batch.coords, batch.labels)]
    cache = Cache(3, 256)
    lengths = batch.docs.diff() - 1
    model(start[0], start[1], torch.cat([torch.zeros(1), lengths.cumsum(0)]).int(), start[2], cache)
    for kv in cache.layers.values():
        for d, n in enumerate(lengths):
            kv[:, d, n:] = 1e4
    last = batch.docs[1:].long() - 1
    found = model(batch.tokens[last], batch.coords[last], torch.arange(4), batch.labels[last], cache)
    assert torch.allclose(found, expected, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------------
# A small network that has learned some answers and not others

@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """-> (tasks, folder of a run). The rule is in the weights; every other query repeats a demonstration."""
    folder = tmp_path_factory.mktemp("memory")
    tasks = [task._replace(test=task.train[1:2]) if i % 2 else task for i, task in enumerate(flip_tasks(16))]
    file = write_tasks(folder / "tasks.json", tasks)
    train.main(flags(**{**TINY, **dict(out_dir=folder / "run", train=file, val="", test=file, demos=0, task_embed=True, n_layer=2,
                                       n_embd=48, max_len=64, batch_tokens=1024, max_steps=120, learning_rate=1e-2, views=1,
                                       colors=False)}))
    return tasks, folder / "run"


@pytest.mark.parametrize("max_answer", [40, 13])
def test_views_that_are_told_of_others_draft_what_they_would_alone(memory, monkeypatch, max_answer):
    """Whatever they are told: all right, right so far (so that what follows may be too long), or never right."""
    tasks, folder = memory
    model, found = from_checkpoint(folder / "ckpt.pt")
    rows, cpu = {name: row for row, (name, _) in enumerate(found["task_ids"], 1)}, torch.device("cpu")
    config = dataclasses.replace(Config(**found["config"]), views=6, symmetries=True, max_answer=max_answer)
    asked, fed = questions(tasks, 6, config), []
    tell = lambda change: [task._replace(test=[(query, change(answer)) for query, answer in task.test]) for task in tasks]
    answers = lambda told: (lambda exam: dict(zip(exam.where, evaluate.decode(model, exam, config, cpu, print))))(Exam(told, asked, config, rows, cpu))
    real = evaluate.generate
    monkeypatch.setattr(evaluate, "generate", lambda model, tokens, coords, docs, *rest: fed.extend(docs.diff().tolist()) or real(model, tokens, coords, docs, *rest))
    alone, prompts = answers(tell(lambda grid: None)), sum(fed)
    assert len(alone) == len(asked) == len(fed) > 64 and 0 < sum(answer is None for answer in alone.values()) < 40
    for name, change in (("right", lambda grid: grid), ("so far", lambda grid: grid[:-(-len(grid) // 2)]), ("never", lambda grid: (grid + 5) % 10)):
        fed.clear()
        told = answers(tell(change))
        assert len(told) > 40
        if name == "right":
            assert len(fed) < len(told)                        # some are done
        elif name == "so far":
            assert len(fed) == len(told) == len(asked) and sum(fed) > prompts        # some begin later
        for q, answer in told.items():
            assert (answer is None) == (alone[q] is None)
            if answer is not None:
                assert np.array_equal(answer.tokens, alone[q].tokens) and np.allclose(answer.logps, alone[q].logps, atol=1e-4)
    fed.clear()
    drafts, of, _ = evaluate.draft(model, tasks, config, rows, cpu)
    assert [q[:4] for q in of] == [q[:4] for q in asked] and sum(fed) > prompts        # some were told
    for q, (t, i, *view) in enumerate(asked):
        one = as_draft(tasks[t].id, i, *view, alone[q])
        assert drafts[q].view == one.view and (drafts[q].grid is None) == (one.grid is None) and (one.grid is None or same(drafts[q].grid, one.grid))


def test_each_document_may_have_room_of_its_own(memory):
    """Answers that end in time are those of more room."""
    tasks, folder = memory
    model, found = from_checkpoint(folder / "ckpt.pt")
    rows, config = {name: row for row, (name, _) in enumerate(found["task_ids"], 1)}, Config(**found["config"])
    exam = Exam([task._replace(test=[(query, None) for query, _ in task.test]) for task in tasks], questions(tasks, 1, config), config, rows, "cpu")
    batch = exam.batch(np.arange(16))
    call = lambda room: generate(model, batch.tokens, batch.coords, batch.docs, batch.labels, room)
    whole, room = call(30), np.arange(16) % 8 + 6
    needed = [99 if answer is None else len(answer.logps) for answer in whole]
    assert 2 < sum(n <= most for n, most in zip(needed, room)) < 13
    for answer, full, n, most in zip(call(room), whole, needed, room):
        assert (answer is not None) == (n <= most) and (answer is None or np.array_equal(answer.tokens, full.tokens))
    assert [a and len(a.logps) for a in call(room[3:4].repeat(16))] == [a and len(a.logps) for a in call(int(room[3]))] == [n if n <= room[3] else None for n in needed]


def test_what_views_are_told(memory, monkeypatch):
    """The best draft of their own query, though another task has the same id; none that might not fit, nor any when sampling."""
    tasks = [make_task("t", "1 > 1", test) for test in ("1 > 2", "3 > 4")] + [make_task("u", "1 > 1", "1 > 2; 2 > 3")]
    asked = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0), (2, 1, 1)]
    told = lambda texts, **knobs: [[b if b is None else b.tolist() for _, b in task.test] for task in evaluate.guessed(
        tasks, asked, {q: Draft("", 0, 0, None if text is None else grid(text), -1.0) for q, text in enumerate(texts)}, Config(max_answer=9), 4)]
    assert told(["5", "6", None, "7", "7"]) == [[[[5]]], [[[6]]], [None, [[7]]]]
    assert told(["5", "6", "12", "12 34", "12 34"]) == [[[[5]]], [[[6]]], [[[1, 2]], [[1, 2], [3, 4]]]]
    assert told(["123", "1 2 3", "1234", "123 456", "123 456"]) == [[[[1, 2, 3]]], [[[1], [2], [3]]], [None, None]]
    assert [b for task in evaluate.guessed(tasks, asked, {}, Config(), 4) for _, b in task.test] == [None] * 4
    tasks, folder = memory
    model, found = from_checkpoint(folder / "ckpt.pt")
    rows, config, fed = {name: row for row, (name, _) in enumerate(found["task_ids"], 1)}, dataclasses.replace(Config(**found["config"]), symmetries=True), []
    real = evaluate.feed
    monkeypatch.setattr(evaluate, "feed", lambda model, exam, *rest: fed.append(int(exam.docs.answers().sum())) or real(model, exam, *rest))
    for temperature, views, parts in ((0.0, 4, 2), (0.7, 4, 1), (0.0, 1, 1)):
        fed.clear()
        evaluate.draft(model, tasks, dataclasses.replace(config, views=views), rows, torch.device("cpu"), temperature=temperature)
        assert len(fed) == parts and fed[0] == 0 and (parts == 1 or fed[1] > 0)


def test_teacher_forced_exact_equals_greedy_exact(memory):
    tasks, folder = memory
    model, found = from_checkpoint(folder / "ckpt.pt")
    rows = {name: row for row, (name, _) in enumerate(found["task_ids"], 1)}
    config = Config(**found["config"])
    asked = questions(tasks, 1, config)
    exact = evaluate.teacher_forced(model, Exam(tasks, asked, config, rows, "cpu"), config, torch.device("cpu"))["exact"]
    drafts, *_ = evaluate.draft(model, tasks, config, rows, torch.device("cpu"))
    answers = {task.id: task.test[0][1] for task in tasks}
    greedy = [same(draft.grid, answers[draft.task]) for draft in drafts]
    assert len(greedy) == len(asked) == 16 and greedy == exact.astype(bool).tolist()
    assert 0 < sum(greedy) < 16                                # some are right and some are wrong


# --------------------------------------------------------------------------------------------------------------------
# Sizes and beginnings

def test_standard_deviations_of_the_beginning():
    torch.manual_seed(0)
    shape = tiny_shape(n_layer=3, n_embd=256, n_head=4, n_mlp=384, n_tasks=100, n_views=8, encoding="onehot", frame=32)
    seen = set()
    for name, p in GPT(shape).named_parameters():
        if p.ndim == 1:
            assert (p == 1).all()
            continue
        residual = name.endswith(("wo.weight", "down.weight"))
        expected = p.shape[1] ** -0.5 / (6 ** 0.5 if residual else 1)
        expected = {"encoding": 0.5 ** 0.5, "head": 0.02, "token": 0.5, "plane": 0.5, "task": 0.5, "view": 0.5}.get(name.split(".")[0], expected)
        seen.add(round(expected, 4))
        assert abs(p.std().item() / expected - 1) < 0.06 and abs(p.mean().item()) < 0.1 * expected, name
    assert len(seen) == 6


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_first_loss_is_that_of_guessing(encoding):
    torch.manual_seed(0)
    model, batch = GPT(tiny_shape(encoding=encoding, n_embd=64)), batch_of(flip_tasks(20))
    loss = F.cross_entropy(logits_of(model, batch), batch.targets)
    assert abs(loss.item() - math.log(VOCAB)) < 0.1


@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_count_of_parameters(sizes):
    shape = tiny_shape(**sizes, n_tasks=5, n_views=8)
    model = GPT(shape)
    assert sum(p.numel() for p in model.parameters()) == sum(model.counts()) == parameters(shape, position_parameters(shape))
    tables = VOCAB + 2 * shape.n_slots + 5 + 8 + (shape.max_len if shape.encoding == "learned" else 0)
    assert model.counts()[1] == tables * shape.n_embd


def test_dropout_is_at_work_in_training_only():
    model, batch = filled_model(tiny_shape(dropout=0.3)), batch_of(flip_tasks(2))
    assert not torch.equal(logits_of(model, batch), logits_of(model, batch))
    model.eval()
    assert torch.equal(logits_of(model, batch), logits_of(model, batch))


# What the network below says after the `out` of a fixed document; a change of the arithmetic on purpose changes these.
GOLDEN = [-3.00243, 0.54406, 1.00604, -2.36681, -3.7643, -4.40746, 0.51244, -4.63984, -2.87768,
          1.37303, -3.76478, 3.76623, -5.9766, 4.53334]


@torch.no_grad()
def test_golden_output():
    model = filled_model(tiny_shape(n_tasks=2, n_views=2))
    batch = batch_of([make_task("t", "120 > 021", "34 56 > 43 65")])
    place = int(((batch.tokens == OUT).nonzero()[-1]))
    assert np.allclose(logits_of(model, batch)[place], GOLDEN, atol=1e-4)


# --------------------------------------------------------------------------------------------------------------------
# Checkpoints

def test_checkpoint_returns_the_same_network(tmp_path):
    model, batch = filled_model(tiny_shape()), batch_of(flip_tasks(2))
    save_checkpoint(tmp_path / "a.pt", model, step=7)
    other, found = from_checkpoint(tmp_path / "a.pt")
    assert found["step"] == 7 and not other.training and [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    assert torch.equal(logits_of(model, batch), logits_of(other, batch))


class Harmful:
    """Unpickled without care, writes a file."""
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def spoil(path, how):
    save_checkpoint(path, filled_model(tiny_shape()))
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:5000])
    if how == "empty":
        path.write_bytes(b"")
    if how == "text":
        path.write_text("not a checkpoint")
    if how == "weights of another program":
        torch.save(nn.Linear(2, 2).state_dict(), path)
    if how == "a tensor":
        torch.save(torch.zeros(3), path)
    if how == "a whole module":
        torch.save(nn.Linear(2, 2), path)
    if how == "a pickle":
        path.write_bytes(pickle.dumps({"kind": "nanoarc checkpoint 1"}, 2))
    if how == "a harmful pickle":
        path.write_bytes(pickle.dumps(Harmful(path.with_name("harm")), 2))
    if how == "a harmful checkpoint":
        torch.save({"kind": "nanoarc checkpoint 1", "model": Harmful(path.with_name("harm"))}, path)
    if how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["missing", "cut short", "empty", "text", "weights of another program", "a tensor",
                                 "a whole module", "a pickle", "a harmful pickle", "a harmful checkpoint"])
def test_what_is_no_checkpoint_is_refused(tmp_path, how):
    path = tmp_path / "some.pt"
    spoil(path, how)
    with pytest.raises(UserError, match="some.pt") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value) and not (tmp_path / "harm").exists()


def test_another_network_is_named_knob_by_knob():
    with pytest.raises(UserError, match="n_embd is 32 there and 64 here.*encoding|encoding.*n_embd is 32 there and 64 here"):
        check_shape({"shape": vars(tiny_shape())}, tiny_shape(n_embd=64, encoding="rope"), "a.pt")
    check_shape({"shape": vars(tiny_shape())}, tiny_shape(dropout=0.5), "a.pt")            # no part of the network's shape
