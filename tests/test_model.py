"""The network: what a token sees, decoding with and without a cache, sizes, checkpoints."""
import math
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine.predict
import model as model_file
import train
from arc.score import Prediction, same, to_prediction
from arc.task import Query
from arc.tokens import END, OUT, START, VOCAB, advance
from arc.views import IDENTITY
from config import Config, UserError
from conftest import (TINY, batch_of, filled_model, flags, flip_tasks, grid, make_task, parameters,
                      position_parameters, tiny_config, write_tasks)
from engine.optim import Optimizer
from engine.predict import Predictor, known_queries, make_queries
from engine.checkpoints import KIND, check_same_network, load_checkpoint, rebuild, task_rows
from engine.runs import Log, Run, checkpoint_lines
from model import GPT, Cache, generate
from positions.index import ENCODINGS, build

CPU = torch.device("cpu")

# every encoding, with as many keys as queries, with fewer, and with one
SIZES = []
for name in ENCODINGS:
    for n_kv_head in (4, 2, 1):
        sizes = dict(encoding=name, n_head=4, n_kv_head=n_kv_head, n_embd=32)
        SIZES.append(pytest.param(sizes, id=f"{name}-{n_kv_head}"))
normed = dict(encoding="rope3d", n_head=4, n_kv_head=2, n_embd=32, qk_norm=True)
SIZES.append(pytest.param(normed, id="rope3d-2-qk_norm"))

# those of which nothing but the projection is learned
WITH_FEATURES = [name for name in ENCODINGS
                 if [n for n, _ in build(tiny_config(encoding=name)).named_parameters()]
                 == ["proj.weight"]]


def logits_of(model, batch):
    return model(batch.tokens, batch.coords, batch.cu_seqlens, batch.task_view)


def bounds(batch, d):
    """Returns where document d begins and ends."""
    return batch.cu_seqlens[d:d + 2].tolist()


# ------------------------------------------------------------------------------------------------
# What a token sees


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_add_up_in_the_dtype_of_matmuls(dtype):
    """The residual stream has autocast's dtype.

    Norms take it as it comes (torch warns where it norms two dtypes), keep their gain in float32,
    and tell 1e-3 from nothing.
    """
    model, seen = filled_model(tiny_config()), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = logits_of(model, batch_of(flip_tasks(2)))
    assert set(seen) == {dtype}
    assert logits.dtype == dtype
    logits.float().logsumexp(-1).sum().backward()
    gradients = {p.grad.dtype for p in model.parameters() if p.grad is not None}
    assert gradients == {torch.float32}
    x = 1e-3 * torch.randn(4, 32).to(dtype)
    expected = nn.RMSNorm(32)(x.float()) * model.norm.weight
    torch.testing.assert_close(model.norm(x).float(), expected, rtol=0.02, atol=0.02)


def sensitivity(model, batch):
    """Returns by how much the loss at each token changes with the embedding of each, (T, T)."""
    embedded = []
    hook = model.token.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits = logits_of(model, batch)
    hook.remove()
    rows = []
    for loss in F.cross_entropy(logits, batch.tokens.roll(-1), reduction="none"):
        gradient, = torch.autograd.grad(loss, embedded[0], retain_graph=True)
        rows.append(gradient.abs().sum(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_token_sees_its_own_document_up_to_itself(sizes):
    batch = batch_of([make_task("a", "1 > 2", "34 > 5"), make_task("b", "", "12 > 21"),
                      make_task("c", "", "7 > 8")])
    seen = sensitivity(filled_model(tiny_config(**sizes)), batch) > 0
    T = len(batch.tokens)
    document = torch.repeat_interleave(torch.arange(3), batch.cu_seqlens.diff())
    same_document = document[:, None] == document
    assert torch.equal(seen, same_document & (torch.arange(T)[:, None] >= torch.arange(T)))


def test_documents_do_not_change_each_other():
    tasks = flip_tasks(3)
    model = filled_model(tiny_config())
    together = logits_of(model, batch_of(tasks))
    alone = torch.cat([logits_of(model, batch_of([task])) for task in tasks])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("column", [0, 1])
def test_task_and_view_embeddings_reach_every_token(column):
    model = filled_model(tiny_config(n_tasks=3, n_views=8))
    batch = batch_of(flip_tasks(1))
    task_view = batch.task_view.clone()
    task_view[:, column] = 2
    other = batch._replace(task_view=task_view)
    changed = (logits_of(model, batch) - logits_of(model, other)).abs().amax(-1)
    assert changed.min() > 1e-3


@torch.no_grad()
def test_with_qk_norm_attention_depends_on_directions_alone(monkeypatch):
    """And no score exceeds 1.5 sqrt(hs), which it is where query and key agree."""
    model, batch = filled_model(tiny_config(qk_norm=True)), batch_of(flip_tasks(2))
    expected = logits_of(model, batch)
    for block in model.blocks:
        block.attention.wq.weight.mul_(7)
        block.attention.wk.weight.mul_(0.2)
    torch.testing.assert_close(logits_of(model, batch), expected, atol=1e-4, rtol=0)
    attention, seen = model.blocks[0].attention, []
    monkeypatch.setattr(model_file, "attend", lambda q, k, *_: seen.extend([q, k]) or q)
    attention.wq.weight[:attention.hs] = attention.wk.weight    # the first query is the only key
    attention(torch.randn(5, 32), model_file.AttentionContext(None, [5], None, 5))
    q, k = seen                                # (5, 2, 16) and (5, 1, 16)
    score = (q[:, 0] * k[:, 0]).sum(-1) / attention.hs ** 0.5
    torch.testing.assert_close(score, torch.full((5,), 1.5 * attention.hs ** 0.5), rtol=1e-4,
                               atol=0)


# ------------------------------------------------------------------------------------------------
# Decoding


def generate_slowly(model, batch, d, max_new_tokens):
    """Returns (tokens, logprobs, why it ended) of the greedy answer to document d, without a cache.

    The whole document is read anew for every token.
    """
    a, b = bounds(batch, d)
    tokens, coords, task_view = batch.tokens[a:b], batch.coords[a:b], batch.task_view[a:a + 1]
    cursor = advance(coords[-1].numpy()[None], tokens[-1:].numpy())
    answer, logprobs = [], []
    for _ in range(max_new_tokens):
        T = len(tokens)
        logits = model(tokens, coords, torch.tensor([0, T]), task_view.expand(T, -1))[-1]
        token = int(logits.argmax())
        logprobs.append(logits.log_softmax(-1)[token].item())
        if token == END:
            return answer, logprobs, "end"
        tokens = torch.cat([tokens, torch.tensor([token])])
        coords = torch.cat([coords, torch.from_numpy(cursor)])
        answer.append(token)
        cursor = advance(cursor, np.array([token]))
        if token in (START, OUT):
            return None, None, "no grid"
        if cursor[0, 2:].max() >= model.config.canvas:
            return None, None, "canvas"
    return None, None, "long"


def babbling(**sizes):
    """Returns a network of random answers, and 24 prompts for it."""
    model = filled_model(tiny_config(**sizes, n_tasks=25), seed=4).eval()
    with torch.no_grad():
        model.task.weight.mul_(1.5)            # so that prompts differ in what follows
        # so that `row` and `end` are likely
        model.head.weight[3:10] = model.head.weight[[START, OUT]] = 0
    batch = batch_of(flip_tasks(24, demos=2), prompt_only=True)
    lengths = batch.cu_seqlens.diff()
    batch.task_view[:, 0] = torch.repeat_interleave(torch.arange(1, 25), lengths)
    return model, batch


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES)
def test_cached_generation_equals_reading_everything_anew(sizes):
    """For documents of different lengths, of which some end early and some leave the canvas."""
    model, batch = babbling(**sizes)
    check_generation(model, batch)


@torch.no_grad()
def test_blocks_that_run_twice_are_cached_twice():
    """A fork that loops over its blocks, as TRM does, decodes right."""
    model, batch = babbling(n_layer=2, encoding="rope3d")
    model.blocks = torch.nn.ModuleList([*model.blocks, *model.blocks])
    check_generation(model, batch)


def check_generation(model, batch):
    slow = [generate_slowly(model, batch, d, 20) for d in range(24)]
    fast = generate(model, batch, 20)
    for (tokens, logprobs, _), answer in zip(slow, fast, strict=True):
        assert (answer is None) == (tokens is None)
        if answer is not None:
            assert answer.tokens.tolist() == tokens
            assert np.allclose(answer.logprobs, logprobs, atol=1e-5, rtol=0)
    assert {why for *_, why in slow} >= {"end", "canvas"}


@torch.no_grad()
def test_sampled_tokens_come_as_often_as_they_are_likely():
    """Where `end`, 1 and 2 are likely as 2 : 1 : 1 after everything, and nothing else is."""
    torch.manual_seed(0)
    model, n = filled_model(tiny_config(canvas=64)).eval(), 4000
    model.norm.weight.zero_()
    likely = torch.full((VOCAB,), -30.0)
    likely[[END, 1, 2]] = torch.tensor([2.0, 1.0, 1.0]).log()
    model.head.register_forward_hook(lambda module, inputs, logits: logits + likely)
    prompts = batch_of(flip_tasks(1, demos=1) * n, prompt_only=True)
    answers = generate(model, prompts, 20, sample=True)
    assert None not in answers                 # 20 tokens without an end: one in a million
    for length in range(4):                    # half of the documents end at each token
        ended = sum(len(answer.tokens) == length for answer in answers)
        share = 0.5 ** (length + 1)
        assert abs(ended - n * share) < 4 * (n * share * (1 - share)) ** 0.5
    tokens = np.concatenate([answer.tokens for answer in answers])
    ones = (tokens == 1).sum()
    assert abs(ones - len(tokens) / 2) < 2 * len(tokens) ** 0.5 and set(tokens) == {1, 2}
    logprobs = np.concatenate([answer.logprobs for answer in answers])
    assert np.allclose(np.exp(logprobs).min(), 0.25) and np.allclose(np.exp(logprobs).max(), 0.5)


@torch.no_grad()
def test_a_decode_step_sees_its_own_tokens_and_no_further():
    """What lies in the cache beyond a document's length changes nothing."""
    model, batch = filled_model(tiny_config()), batch_of(flip_tasks(3), prompt_only=True)
    last = batch.cu_seqlens[1:].long() - 1
    expected = logits_of(model, batch)[last]
    is_last = torch.zeros(len(batch.tokens), dtype=torch.bool)
    is_last[last] = True
    tokens, coords, task_view = batch.tokens, batch.coords, batch.task_view
    lengths = batch.cu_seqlens.diff() - 1      # of all but the last token
    cu_seqlens = torch.cat([torch.zeros(1), lengths.cumsum(0)]).int()
    cache = Cache(3, 256)
    model(tokens[~is_last], coords[~is_last], cu_seqlens, task_view[~is_last], cache)
    for kv in cache.layers:
        for d, n in enumerate(lengths):
            kv[:, d, n:] = 1e4
    found = model(tokens[last], coords[last], None, task_view[last], cache)
    assert torch.allclose(found, expected, atol=1e-5)


# ------------------------------------------------------------------------------------------------
# A small network that has learned some answers and not others


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """Returns (tasks, checkpoint). The rules are in the weights.

    Every other query repeats a demonstration.
    """
    folder = tmp_path_factory.mktemp("memory")
    tasks = flip_tasks(16)
    tasks[1::2] = [task._replace(test=task.train[1:2]) for task in tasks[1::2]]
    file = write_tasks(folder / "tasks.json", tasks)
    knobs = dict(out_dir=folder / "run", train=file, val="", test=file, demos=0, task_embed=True,
                 n_layer=2, n_embd=48, max_len=64, batch_tokens=1024, max_steps=120,
                 learning_rate=1e-2, views=1, colors=False)
    train.main(flags(**{**TINY, **knobs}))
    return tasks, folder / "run" / "ckpt.pt"


def predictor_of(memory, **knobs):
    """Returns (tasks, the Predictor of a checkpoint, with some knobs changed)."""
    tasks, path = memory
    found = load_checkpoint(path)
    model = rebuild(found)
    rows = task_rows(found["task_ids"], tasks)
    assert len(rows) == len(tasks)
    config = replace(Config(**found["config"]), **knobs)
    return tasks, Predictor(model, config, rows, CPU)


@pytest.fixture
def decoded(monkeypatch):
    """Returns the list of lengths of all documents that were decoded further."""
    lengths, real = [], engine.predict.generate

    def generate(model, prompts, *rest, **how):
        lengths.extend(prompts.cu_seqlens.diff().tolist())
        return real(model, prompts, *rest, **how)
    monkeypatch.setattr(engine.predict, "generate", generate)
    return lengths


def decode(predictor, queries):
    """Returns {number of the query: Answer or None} of the queries that fit."""
    query_set = predictor.query_set(queries)
    return dict(zip(query_set.fitting, predictor.decode(query_set)))


def first_half(grid):
    return grid[:-(-len(grid) // 2)]


def other_colors(grid):
    return (grid + 5) % 10


@pytest.mark.parametrize("max_answer", [40, 13])
def test_a_proposal_never_changes_the_answer(memory, decoded, max_answer):
    """Right, right so far (so that what follows may be too long), or never right."""
    tasks, predictor = predictor_of(memory, symmetries=True, max_answer=max_answer)
    queries = make_queries(tasks, 6, predictor.config)
    alone, prompts = decode(predictor, queries), sum(decoded)
    assert len(alone) == len(queries) == len(decoded) > 64
    unanswered = sum(answer is None for answer in alone.values())
    assert unanswered < 40 and (unanswered > 0 or max_answer > 13)
    for change in (np.copy, first_half, other_colors):
        decoded.clear()
        asked = [query._replace(proposal=change(query.target)) for query in queries]
        found = decode(predictor, asked)
        assert len(found) > 40
        if change is np.copy:
            assert len(decoded) < len(found)                   # some are done
        elif change is first_half:
            assert len(decoded) == len(found) == len(queries)
            assert sum(decoded) > prompts                      # some begin later
        for q, answer in found.items():
            assert (answer is None) == (alone[q] is None)
            if answer is not None:
                assert np.array_equal(answer.tokens, alone[q].tokens)
                assert np.allclose(answer.logprobs, alone[q].logprobs, atol=1e-4)


def test_views_that_propose_to_others_predict_what_they_would_alone(memory, decoded):
    tasks, predictor = predictor_of(memory, symmetries=True)
    queries = make_queries(tasks, 6, predictor.config)
    alone, prompts = decode(predictor, queries), sum(decoded)
    decoded.clear()
    predictions = predictor.predict(tasks, 6)
    assert sum(decoded) > prompts                              # something was proposed
    assert len(predictions) == len(queries)
    found = {(p.task, p.test, p.view): p for p in predictions}
    for q, query in enumerate(queries):
        expected = to_prediction(query, alone[q])
        prediction = found[(*query.key, query.view)]
        assert (prediction.grid is None) == (expected.grid is None)
        assert expected.grid is None or same(prediction.grid, expected.grid)


def test_each_document_may_have_a_limit_of_its_own(memory):
    """Answers that end in time are those of a higher limit."""
    tasks, predictor = predictor_of(memory)
    query_set = predictor.query_set(make_queries(tasks, 1, predictor.config))
    batch, model = query_set.batch(np.arange(16)), predictor.model
    whole, limits = generate(model, batch, 30), np.arange(16) % 8 + 6
    needed = [99 if answer is None else len(answer.logprobs) for answer in whole]
    assert 2 < sum(n <= limit for n, limit in zip(needed, limits)) < 13
    found = generate(model, batch, limits)
    for answer, full, n, limit in zip(found, whole, needed, limits):
        assert (answer is not None) == (n <= limit)
        if answer is not None:
            assert np.array_equal(answer.tokens, full.tokens)
    limit = int(limits[3])
    expected = [n if n <= limit else None for n in needed]
    for same_limit in (limit, np.full(16, limit)):
        found = generate(model, batch, same_limit)
        assert [answer and len(answer.logprobs) for answer in found] == expected


PROPOSED = {
    "one grid a query": ("5", "6", None, "7"),
    "grids that fit under every view": ("5", "6", "12", "12 34"),
    "as wide and as high as the canvas allows": ("123", "1 2 3", "1", "1"),
}
NOT_PROPOSED = {
    "wider than the canvas": "1234",
    "higher than the canvas": "1 2 3 4",
    "longer than the allowance": "12 34 56",
    "longer than the allowance when it is turned": "123 456",
}


def propose(texts, extra=(), max_answer=9):
    """Returns the proposals, as text, to two views of each of four queries of three tasks.

    texts: what one view of each query predicted; extra: (number of the query, text) of more views.
    """
    tasks = [make_task("s", "1 > 1", "1 > 2"), make_task("t", "1 > 1", "3 > 4"),
             make_task("u", "1 > 1", "1 > 2; 2 > 3")]
    asked = [(tasks[0], 0), (tasks[1], 0), (tasks[2], 0), (tasks[2], 1)]
    predictions = []
    for view, (q, text) in enumerate([*enumerate(texts), *extra]):
        task, test = asked[q]
        found = None if text is None else grid(text)
        predictions.append(Prediction(task.id, test, view, found, -1.0))
    predictor = Predictor(GPT(tiny_config(canvas=4)), Config(max_answer=max_answer), {}, CPU)
    queries = [Query(*query, view, 0, IDENTITY, (0, 1, 2)) for query in asked for view in (8, 9)]
    proposed = predictor.propose(queries, predictions)
    assert [query._replace(proposal=None) for query in proposed] == queries
    return [query.proposal for query in proposed]


@pytest.mark.parametrize("case", PROPOSED)
def test_what_a_query_predicted_is_proposed_to_its_other_views(case):
    proposals = propose(PROPOSED[case])
    for q, text in enumerate(PROPOSED[case]):
        for proposal in proposals[2 * q:2 * q + 2]:
            assert proposal is None if text is None else same(proposal, grid(text))


def test_what_most_views_predicted_is_proposed():
    proposals = propose(["5", "6", None, "7"], extra=[(3, "8"), (3, "8"), (2, "9"), (2, None)])
    assert [p.tolist() for p in proposals] == 2 * [[[5]]] + 2 * [[[6]]] + 2 * [[[9]]] + 2 * [[[8]]]


@pytest.mark.parametrize("case", NOT_PROPOSED)
def test_what_might_not_fit_under_another_view_is_not_proposed(case):
    assert propose([None, None, NOT_PROPOSED[case], None]) == [None] * 8


@pytest.mark.parametrize("text", ["12 34 56", "123 456"])
def test_what_just_fits_is_proposed(text):
    """Standing it takes nine tokens and `end`, lying it takes eight and `end`."""
    proposals = propose([None, None, text, None], max_answer=10)
    assert [p is not None for p in proposals] == [False] * 4 + [True] * 2 + [False] * 2


@pytest.mark.parametrize("views, parts", [(4, 2), (1, 1)])
def test_nothing_is_proposed_to_the_first_views_and_something_to_the_others(
        memory, monkeypatch, views, parts):
    tasks, predictor = predictor_of(memory, symmetries=True)
    proposed, real = [], predictor.teacher_force

    def teacher_force(query_set):
        proposed.append(int(query_set.documents.query_output_lengths().sum()))
        return real(query_set)
    monkeypatch.setattr(predictor, "teacher_force", teacher_force)
    predictor.predict(tasks, views)
    assert len(proposed) == parts
    assert proposed[0] == 0
    assert all(tokens > 0 for tokens in proposed[1:])


def test_teacher_forced_exact_equals_greedy_exact(memory):
    tasks, predictor = predictor_of(memory)
    queries = known_queries(tasks, predictor.config)
    proposed = [query._replace(proposal=query.target) for query in queries]
    exact = predictor.judge(proposed)["exact"].tolist()
    predictions = predictor.predict(tasks, 1)
    answers = {query.key: query.target for query in queries}
    greedy = [same(p.grid, answers[p.task, p.test]) for p in predictions]
    assert len(greedy) == len(queries) == 16
    assert greedy == exact
    assert 0 < sum(greedy) < 16                                # some are right and some are wrong


# ------------------------------------------------------------------------------------------------
# Sizes and beginnings


@pytest.mark.parametrize("encoding", WITH_FEATURES)
def test_standard_deviations_of_the_beginning(encoding):
    torch.manual_seed(0)
    config = tiny_config(n_layer=3, n_embd=256, n_head=4, n_mlp=384, n_tasks=100, n_views=8,
                         encoding=encoding, canvas=32)
    model = GPT(config)
    index = torch.arange(32 * 32)
    cells = torch.stack([0 * index, 0 * index, index // 32, index % 32], 1)
    features = model.encoding.features(cells)
    size = features.square().mean().sqrt().item()
    of_embeddings = dict.fromkeys(("token", "segment", "task", "view"), 0.5)
    named = {"encoding": features.shape[1] ** -0.5 / size, "head": 0.02, **of_embeddings}
    seen = set()
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert (p == 1).all()
            continue
        into_residual = name.endswith(("wo.weight", "down.weight"))
        of_matrix = p.shape[1] ** -0.5 / (6 ** 0.5 if into_residual else 1)
        expected = named.get(name.split(".")[0], of_matrix)
        seen.add(round(expected, 4))
        assert abs(p.std().item() / expected - 1) < 0.06, name
        assert abs(p.mean().item()) < 0.1 * expected, name
    assert len(seen) == 6


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_first_loss_is_that_of_guessing(encoding):
    torch.manual_seed(0)
    model, batch = GPT(tiny_config(encoding=encoding, n_embd=64)), batch_of(flip_tasks(20))
    loss = F.cross_entropy(logits_of(model, batch), batch.targets)
    assert abs(loss.item() - math.log(VOCAB)) < 0.1


@pytest.mark.parametrize("sizes", SIZES)
def test_count_of_parameters(sizes):
    config = tiny_config(**sizes, n_tasks=5, n_views=8)
    model = GPT(config)
    expected = parameters(config, position_parameters(config))
    assert sum(p.numel() for p in model.parameters()) == expected
    assert sum(model.count_parameters()) == expected
    of_encoding = [m for m in build(config).modules() if isinstance(m, nn.Embedding)]
    rows = VOCAB + 2 * config.n_pairs + 5 + 8
    tables = rows * config.n_embd + sum(m.weight.numel() for m in of_encoding)
    assert model.count_parameters()[1] == tables


def test_dropout_is_at_work_in_training_only():
    model, batch = filled_model(tiny_config(dropout=0.3)), batch_of(flip_tasks(2))
    assert not torch.equal(logits_of(model, batch), logits_of(model, batch))
    model.eval()
    assert torch.equal(logits_of(model, batch), logits_of(model, batch))


# The logits after the last `out` of a fixed document. Only a change of the arithmetic on purpose
# changes these.
GOLDEN = [-3.00243, 0.54406, 1.00604, -2.36681, -3.7643, -4.40746, 0.51244, -4.63984, -2.87768,
          1.37303, -3.76478, 3.76623, -5.9766, 4.53334]


@torch.no_grad()
def test_golden_output():
    model = filled_model(tiny_config(n_tasks=2, n_views=2))
    batch = batch_of([make_task("t", "120 > 021", "34 56 > 43 65")])
    last_out = int((batch.tokens == OUT).nonzero()[-1])
    assert np.allclose(logits_of(model, batch)[last_out], GOLDEN, atol=1e-4)


# ------------------------------------------------------------------------------------------------
# Checkpoints


def save(path, model, step=0):
    config = Config(out_dir=str(path.parent))
    run = Run(config, model, Optimizer(model, config), [], Log(path.parent))
    run.step = step
    run.save(path.name, training=False)


def test_a_checkpoint_returns_the_same_network(tmp_path):
    model, batch = filled_model(tiny_config()), batch_of(flip_tasks(2))
    save(tmp_path / "a.pt", model, step=7)
    found = load_checkpoint(tmp_path / "a.pt")
    other = rebuild(found)
    assert found["step"] == 7
    assert not other.training
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert torch.equal(logits_of(model, batch), logits_of(other, batch))


def test_a_knob_that_is_no_more_does_not_spoil_a_checkpoint(tmp_path):
    path = tmp_path / "a.pt"
    save(path, filled_model(tiny_config()))
    found = torch.load(path, weights_only=True)
    own = dict(found["config"])
    found["config"]["a_knob_of_then"] = 0.1
    torch.save(found, path)
    found = load_checkpoint(path)
    assert found["config"] == own
    (line,) = [line for line in checkpoint_lines(Config(), [], found) if "lacks" in line]
    assert line.endswith("knobs that this code lacks: a_knob_of_then")


class Harmful:
    """Unpickled without care, writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def harm_beside(path):
    return Harmful(path.with_name("harm"))


def cut_short(path):
    save(path, filled_model(tiny_config()))
    path.write_bytes(path.read_bytes()[:5000])


SPOILED = {
    "missing": lambda path: None,
    "cut short": cut_short,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "weights of another program": lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "a whole module": lambda path: torch.save(nn.Linear(2, 2), path),
    "an older version": lambda path: torch.save({"kind": "nanoarc checkpoint 1"}, path),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"kind": KIND}, 2)),
    "a harmful pickle": lambda path: path.write_bytes(pickle.dumps(harm_beside(path), 2)),
    "a harmful checkpoint":
        lambda path: torch.save({"kind": KIND, "model": harm_beside(path)}, path),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_no_checkpoint_is_refused(tmp_path, how):
    path = tmp_path / "some.pt"
    SPOILED[how](path)
    with pytest.raises(UserError, match="some.pt") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()
    assert ("train again" in str(error.value)) == (how == "an older version")


def test_a_flipped_bit_is_found(tmp_path):
    """Anywhere in the weights of a file that torch would load."""
    path, rng = tmp_path / "some.pt", np.random.default_rng(0)
    model = filled_model(tiny_config())
    save(path, model)
    whole, weights = path.read_bytes(), model.blocks[1].mlp.down.weight.detach().numpy()
    begin = whole.index(weights.tobytes())
    for _ in range(20):
        damaged = bytearray(whole)
        damaged[begin + rng.integers(weights.nbytes)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="some.pt: (damaged|not a readable checkpoint)"):
            load_checkpoint(path)


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    model = filled_model(tiny_config())
    with torch.no_grad():
        model.blocks[1].mlp.down.weight[0, 0] = torch.nan
    save(tmp_path / "some.pt", model)
    with pytest.raises(UserError, match="some.pt: the weights blocks.1.mlp.down.weight"):
        load_checkpoint(tmp_path / "some.pt")


def test_a_checkpoint_of_another_class_is_refused(tmp_path):
    save(tmp_path / "a.pt", filled_model(tiny_config()))
    with pytest.raises(UserError, match="a.pt: holds a GPT, and a Refiner is needed"):
        load_checkpoint(tmp_path / "a.pt", "Refiner")


def test_another_network_is_named_knob_by_knob():
    found = {"model_config": vars(tiny_config()), "path": "a.pt"}
    with pytest.raises(UserError, match="another network") as error:
        check_same_network(found, tiny_config(n_embd=64, encoding="rope"))
    assert "n_embd was 32 and is 64" in str(error.value)
    assert "encoding was 'quadtree' and is 'rope'" in str(error.value)
    # dropout is no part of the network
    check_same_network(found, tiny_config(dropout=0.5))
