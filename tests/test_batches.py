"""Documents and batches: what the network reads, what fits, and what each training step shows."""
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from arc import oned
from arc.leaks import held_out, pair_key
from arc.sources import Data
from arc.task import known_pairs
from arc.tokens import OUT, START, advance, decode_grid, encode_pair
from arc.views import IDENTITY, SYMMETRIES, random_colors, view_pairs
from config import Config, UserError
from conftest import flip_tasks, make_task, raw
from engine.batches import (IGNORE, DocumentPlan, FromTasks, Generated, Pairs,
                            build_documents, fit_demos, gather, pack)
from engine.predict import QuerySet, known_queries, make_queries

RNG = np.random.default_rng(0)


def without_answers(task):
    return task._replace(test=[(grid, None) for grid, _ in task.test])


def rows_of(tasks):
    """Returns a row of the task embedding for each task: 1, 2, ..."""
    return {task.id: row for row, task in enumerate(tasks, 1)}


def stream_of(tasks, config, rows, protected=frozenset(), asked=()):
    """Returns the FromTasks of tasks that went through no leak guard."""
    data = Data(tasks, [], [], False, [], protected, frozenset(), asked, frozenset(), [], [])
    return FromTasks(data, config, rows, "cpu")


def pairs_in(documents):
    """Returns the number of pairs in each document."""
    return np.bincount(documents.slices.document)


# ------------------------------------------------------------------------------------------------
# Batches


def read_one_by_one(parts):
    """Returns the coordinates and targets of a document, worked out token by token.

    parts: (tokens, length of the prompt) of each pair, the query's last. A target is a pair (the
    next token, whether it belongs to the query), or None.
    """
    tokens = np.concatenate([part for part, _ in parts]).astype(int)
    cursor, coords = np.zeros((1, 4), int), []
    for token in tokens:
        coords.append(cursor[0])
        cursor = advance(cursor, np.array([token]))
    targets = []
    for i, (part, prompt) in enumerate(parts):
        is_query = i == len(parts) - 1
        targets += [None] * prompt + [(int(token), is_query) for token in part[prompt:]]
    return tokens, coords, targets[1:] + [None]


@pytest.mark.parametrize("prompt_only", [False, True])
def test_a_batch_equals_reading_token_by_token(prompt_only):
    """Documents of one to four pairs under all symmetries and a color permutation."""
    tasks = flip_tasks(8, most=5)
    pairs = Pairs([pair for task in tasks for pair in known_pairs(task)], SYMMETRIES)
    plans, shown = [], []
    for t, symmetry in itertools.product(range(8), range(SYMMETRIES)):
        colors = random_colors(RNG) if symmetry % 3 else IDENTITY
        order = RNG.permutation(4)[:1 + t % 4]
        plans.append(DocumentPlan(4 * t + order, symmetry, colors, t))
        seen = view_pairs(known_pairs(tasks[t]), symmetry, colors)
        shown.append([encode_pair(seen[p]) for p in order])
    documents = build_documents(pairs, plans)
    if prompt_only:
        documents = documents.cut_query_outputs(0)
        for parts in shown:
            tokens, prompt = parts[-1]
            parts[-1] = tokens[:prompt], prompt

    batch = gather(pairs, documents)
    ends = batch.cu_seqlens.tolist()
    assert len(ends) == len(plans) + 1
    assert ends[-1] == len(batch.tokens)
    for d, (plan, parts) in enumerate(zip(plans, shown)):
        tokens, coords, targets = read_one_by_one(parts)
        of = slice(ends[d], ends[d + 1])
        assert batch.tokens[of].tolist() == tokens.tolist()
        assert np.array_equal(batch.coords[of], coords)
        expected = [IGNORE if target is None else target[0] for target in targets]
        assert batch.targets[of].tolist() == expected
        of_query = [int(target is not None and target[1]) for target in targets]
        assert batch.is_query[of].tolist() == of_query
        assert batch.task_view[of].tolist() == [[plan.task_row, plan.symmetry]] * len(tokens)
        assert (batch.document[of] == d).all()


def test_numbers_of_targets_are_those_of_the_batch():
    tasks = flip_tasks(5)
    pairs = Pairs([pair for task in tasks for pair in known_pairs(task)])
    plans = [DocumentPlan(range(4 * t, 4 * t + 4 - t % 4), 0, IDENTITY, 0) for t in range(5)]
    documents = build_documents(pairs, plans)
    batch = gather(pairs, documents)
    of_query = batch.is_query == 1
    assert documents.count_targets() == (batch.targets != IGNORE).sum()
    assert documents.query_output_lengths().sum() == of_query.sum()
    answers = torch.bincount(batch.document[of_query], minlength=5)
    assert documents.query_output_lengths().tolist() == answers.tolist()


def test_a_batch_of_some_documents_is_that_part_of_the_whole():
    tasks = flip_tasks(6)
    pairs = Pairs([pair for task in tasks for pair in known_pairs(task)])
    plans = []
    for t in range(6):
        plans.append(DocumentPlan(range(4 * t + t % 3, 4 * t + 4), 0, random_colors(RNG), t))
    documents = build_documents(pairs, plans)
    whole, which = gather(pairs, documents), [4, 1, 5]
    some = gather(pairs, documents.take(which))
    for i, d in enumerate(which):
        a, b = whole.cu_seqlens[d:d + 2].tolist()
        c, e = some.cu_seqlens[i:i + 2].tolist()
        for name in ("tokens", "coords", "task_view", "is_query"):
            assert torch.equal(getattr(whole, name)[a:b], getattr(some, name)[c:e])
        assert torch.equal(whole.targets[a:b], some.targets[c:e])
        assert (some.document[c:e] == i).all()
    assert not len(documents.take([]).slices.start)


def test_a_batch_of_a_fixed_size_only_adds_ignored_filler():
    tasks = flip_tasks(3)
    pairs = Pairs([pair for task in tasks for pair in task.train])
    plans = [DocumentPlan(range(3 * t, 3 * t + 3), 0, IDENTITY, 1) for t in range(3)]
    documents = build_documents(pairs, plans)
    exact = gather(pairs, documents)
    static = gather(pairs, documents, capacity=900, max_len=200)
    n = len(exact.tokens)
    assert len(static.tokens) == 900 and static.cu_seqlens[-1] == 900
    assert static.cu_seqlens.diff().max() <= 200
    assert (static.coords[:, 0] < 200).all()
    for name in ("tokens", "coords", "task_view", "targets", "is_query"):
        assert torch.equal(getattr(static, name)[:n], getattr(exact, name))
    assert torch.equal(static.cu_seqlens[:4], exact.cu_seqlens)
    assert (static.targets[n:] == IGNORE).all()
    assert not static.is_query[n:].any()


# ------------------------------------------------------------------------------------------------
# Queries and their views


def shown_by(query):
    """Returns the task of a query as its view shows it."""
    task = query.task
    return task._replace(train=view_pairs(task.train, query.symmetry, query.colors),
                         test=view_pairs(task.test, query.symmetry, query.colors))


@pytest.mark.parametrize("train, views", [("123 > 321", 4), ("12 34 > 21 43", 8), ("5 > 5", 1),
                                          ("11 11 > 2", 1), ("12 21 > 1", 2)])
def test_only_distinct_views_are_asked(train, views):
    task = make_task("t", train, train)
    queries = make_queries([task], 8, Config(symmetries=True, colors=False))
    shown = [raw(shown_by(query)) for query in queries]
    assert [query.view for query in queries] == list(range(views))
    assert all(a != b for a, b in itertools.combinations(shown, 2))
    assert shown[0] == raw(task)                               # view 0 is the task as it is


def test_views_do_not_know_the_answers():
    views = []
    for answer in ("> 5", ""):
        task = make_task("t", "12 > 3", f"41 {answer}")
        queries = make_queries([task], 6, Config(symmetries=True))
        assert all(query.proposal is None for query in queries)
        views.append([(query.symmetry, query.colors.tolist()) for query in queries])
    assert views[0] == views[1]
    assert len(views[0]) == 6


def test_views_differ_in_what_the_network_is_shown():
    """With demos = 0 it is shown the query alone, so views that differ elsewhere are one."""
    task = make_task("same", "12 > 21; 34 > 43", "11 > 11; 120 345 > 021 543")
    for demos in (0, 2):
        queries = make_queries([task], 16, Config(demos=demos, task_embed=True, symmetries=True))
        for i in (0, 1):
            own = [query for query in queries if query.test == i]
            prompts = set()
            for query in own:
                shown = shown_by(query)
                grids = [g.tolist() for pair in shown.train[:demos] for g in pair]
                prompts.add(str([*grids, shown.test[i][0].tolist()]))
            assert len(prompts) == len(own) == 16
            assert [query.view for query in own] == list(range(16))


def test_known_queries_are_plain():
    tasks = [make_task("a", "1 > 1", "2 > 3; 4"), make_task("b", "1 > 1", "5; 6 > 78")]
    queries = known_queries(tasks, Config(symmetries=True))
    assert [query.key for query in queries] == [("a", 0), ("b", 1)]
    assert [query.target.tolist() for query in queries] == [[[3]], [[7, 8]]]
    assert all(query.proposal is None for query in queries)
    for query in queries:
        assert query.view == query.symmetry == 0
        assert np.array_equal(query.colors, IDENTITY)


def test_colors_that_only_outputs_show_stay_when_nothing_tells_them():
    # 3 and 4 are new in an output; 6 and 7 are new in the test output alone
    task = make_task("t", "12 > 13; 2 > 4", "25 > 67")
    config = Config(demos=0, task_embed=True)
    colors = np.array([query.colors for query in make_queries([task], 8, config)])
    assert len(colors) == 8
    assert (colors[:, [3, 4]] == [3, 4]).all()
    assert (colors[:, 6] != 6).any()
    stream = stream_of([task], config, {"t": 1}).steps(0, 0)
    steps = itertools.islice(stream, 3)
    colors = np.concatenate([step.documents.colors for step in steps])
    assert (colors[:, [0, 3, 4]] == [0, 3, 4]).all()
    assert (colors[:, 6] != 6).any()


def test_colors_that_only_outputs_show_stay_where_no_demonstration_tells():
    """With a task embedding, documents of one pair and of several stand side by side."""
    tasks = []
    for i in range(30):                                        # 5 is in outputs alone
        tasks.append(make_task(f"t{i}", "12 > 15; 21 > 55; 22 > 51", "11 > 15"))
    config = Config(demos=3, task_embed=True, max_len=256, batch_tokens=1024, max_steps=5)
    moved = {"alone": 0, "with demonstrations": 0}
    for step in stream_of(tasks, config, rows_of(tasks)).steps(0, 0):
        changed = step.documents.colors[:, 5] != 5
        alone = pairs_in(step.documents) == 1
        moved["alone"] += changed[alone].sum()
        moved["with demonstrations"] += changed[~alone].sum()
    assert moved["alone"] == 0
    assert moved["with demonstrations"] > 20


# ------------------------------------------------------------------------------------------------
# What fits


@pytest.mark.parametrize("lengths, query, limit, kept", [
    ([10, 10, 10], 5, 100, [0, 1, 2]),
    ([10, 10, 10], 5, 35, [0, 1, 2]),
    ([10, 10, 10], 5, 34, [0, 1]),
    ([30, 10, 10], 5, 25, [1, 2]),
    ([10, 30, 10], 5, 25, [0, 2]),
    ([10], 100, 100, []),
    ([], 3, 5, []),
    ([1], 101, 100, None),
])
def test_demonstrations_stay_that_fit_in_their_order(lengths, query, limit, kept):
    assert fit_demos(lengths, query, limit) == kept


# the prompt takes 4 tokens, the allowance 9, each demonstration 15
@pytest.mark.parametrize("limit, fit", [(43, 2), (42, 1), (28, 1), (27, 0)])
@pytest.mark.parametrize("proposed", [True, False])
def test_prompt_and_allowance_decide_what_fits_never_the_answer(limit, fit, proposed):
    demos = "; ".join(["12 34 > 21 43"] * 2)
    tests = {"short": "1 > 2", "long": "1 > 2222222", "unknown": "1"}
    tasks = [make_task(name, demos, test) for name, test in tests.items()]
    config = Config(max_len=limit, max_answer=9, demos=2)
    queries = make_queries(tasks, 1, config)
    if proposed:
        queries = [query._replace(proposal=query.target) for query in queries]
    query_set = QuerySet(queries, config, {}, "cpu")
    assert query_set.fitting == [0, 1, 2]
    assert query_set.dropped_demos == 3 * (2 - fit)
    assert pairs_in(query_set.documents).tolist() == [fit + 1] * 3


@pytest.mark.parametrize("allowance, fitting", [(11, [0]), (10, [])])
def test_an_answer_longer_than_the_allowance_has_failed(allowance, fitting):
    task = make_task("t", "1 > 1", "1 > 123456789")            # 11 tokens with `row` and `end`
    config = Config(max_answer=allowance)
    (query,) = known_queries([task], config)
    query = query._replace(proposal=query.target)
    assert QuerySet([query], config, {}, "cpu").fitting == fitting


def test_a_query_is_its_demonstrations_its_input_and_its_proposal_and_no_truth():
    task = make_task("t", "1 > 2; 3 > 4", "56 > 78")
    config = Config(symmetries=True)
    query = make_queries([task], 4, config)[-1]
    other = make_task("", "", "9 > 1 2").test[0][1]
    for proposal in (None, other):
        asked = query._replace(proposal=proposal)
        query_set = QuerySet([asked], config, {"t": 7}, "cpu")
        pairs = view_pairs([*task.train, (task.test[0][0], proposal)], query.symmetry, query.colors)
        expected = np.concatenate([encode_pair(pair)[0] for pair in pairs])
        batch = query_set.batch(np.array([0]))
        assert batch.tokens.tolist() == expected.tolist()
        assert batch.task_view.tolist() == [[7, query.symmetry]] * len(expected)


def test_a_draft_is_read_before_the_answer_and_is_no_target():
    task = make_task("t", "1 > 2; 3 > 4", "56 > 78")
    config = Config(symmetries=True)
    query, draft = make_queries([task], 4, config)[-1], make_task("", "", "9 > 1 2").test[0][1]
    query_set = QuerySet([query._replace(proposal=query.target, draft=draft)], config, {}, "cpu")
    pairs = [*task.train, (task.test[0][0], draft), (None, query.target)]
    parts = [encode_pair(pair) for pair in view_pairs(pairs, query.symmetry, query.colors)]
    tokens, coords, targets = read_one_by_one(parts)
    batch = query_set.batch(np.array([0]))
    assert batch.tokens.tolist() == tokens.tolist()
    assert np.array_equal(batch.coords, coords)
    lengths = [len(part) for part, _ in parts]
    start, stop = sum(lengths[:2]), sum(lengths[:3])
    targets[start:stop - 1] = [None] * (stop - 1 - start)
    assert batch.targets.tolist() == [IGNORE if target is None else target[0] for target in targets]
    of_query = [int(target is not None and target[1]) for target in targets]
    assert batch.is_query.tolist() == of_query
    assert query_set.documents.count_targets() == sum(target is not None for target in targets)


def test_documents_that_are_decoded_together_take_about_so_many_tokens():
    tasks = flip_tasks(30, most=6)
    config = Config(max_answer=60)
    query_set = QuerySet(make_queries(tasks, 1, config), config, {}, "cpu")
    needed = query_set.documents.lengths() + np.array(query_set.expected_lengths)
    which = np.flatnonzero(np.arange(30) % 5)
    parts = query_set.decode_batches(600, which)
    assert sorted(itertools.chain(*parts)) == which.tolist()
    assert len(parts) > 1
    for part in parts:
        assert len(part) == 1 or len(part) * needed[part].max() <= 600


def test_micro_batches_hold_every_document_and_are_few():
    lengths = RNG.integers(1, 50, 300).tolist()
    packed = pack(lengths, 64)
    assert sorted(itertools.chain(*packed)) == list(range(300))
    assert max(sum(lengths[d] for d in part) for part in packed) <= 64
    assert len(packed) < 1.3 * sum(lengths) / 64
    with pytest.raises(UserError, match="65 tokens.*64.*--micro_tokens"):
        pack([65], 64)


# ------------------------------------------------------------------------------------------------
# Training streams of tasks from files


@pytest.mark.parametrize("demos, embed", [(0, True), (3, False), (3, True)])
def test_an_epoch_shows_everything_once_and_steps_are_full(demos, embed):
    tasks = flip_tasks(40, most=6)
    config = Config(demos=demos, task_embed=embed, max_len=256, batch_tokens=1024, max_steps=12,
                    symmetries=True)
    stream = stream_of(tasks, config, rows_of(tasks))
    for seed in range(3):
        shown, sizes = Counter(), set()
        for length, order, _, task in stream.epoch(np.random.default_rng(seed)):
            assert len(order) <= demos + 1
            assert length <= 256
            shown.update(map(int, order) if embed else [task])
            sizes.add(len(order))
        assert set(shown.values()) == {1}
        assert len(shown) == (160 if embed else 40)            # pairs, or tasks
        if embed:
            assert sizes == set(range(1, demos + 2))
    sizes = [step.documents.lengths().sum() for step in stream.steps(0, 0)]
    assert len(sizes) == 12
    assert max(sizes) <= 1024
    assert np.mean(sizes) > 0.9 * 1024


def test_what_is_asked_comes_more_often_and_what_is_long_less():
    """oversample and downweight_above: each pair's number of documents over many epochs."""
    tasks, epochs = flip_tasks(40, most=6), 40
    protected = {task.id for task in tasks[:10]}
    plain = Config(demos=0, task_embed=True, max_len=256)
    config = Config(demos=0, task_embed=True, max_len=256, oversample=2.5, downweight_above=20)
    stream = stream_of(tasks, config, {}, protected)
    counted = Counter()
    for seed in range(epochs):
        for length, _, _, task in stream.epoch(np.random.default_rng(seed)):
            counted[task < 10, length > 30] += 1

    expected = Counter()
    for t, numbers in enumerate(stream.numbers):
        for length in stream.device_pairs.length[numbers, 0]:
            often = epochs * min(1, 20 / length) * (2.5 if t < 10 else 1)
            expected[t < 10, length > 30] += often
    assert len(expected) == 4
    for group, number in expected.items():
        assert number > 100
        assert counted[group] == pytest.approx(number, rel=0.15)

    every_pair = stream_of(tasks, plain, {}, protected)
    once = list(every_pair.epoch(np.random.default_rng(0)))
    assert len(once) == len(every_pair.device_pairs.start)


def count_kept(tasks, holdout):
    return sum(not held_out(pair, holdout) for task in tasks for pair in known_pairs(task))


def test_pairs_held_out_are_not_trained_on_but_those_that_are_asked():
    tasks, config = flip_tasks(50), Config(holdout="1/3", demos=0, task_embed=True)
    stream = stream_of(tasks, config, {})
    assert len(stream.device_pairs.start) == count_kept(tasks, "1/3")
    # of val and test all is shown
    stream = stream_of(tasks, config, {}, {tasks[0].id})
    expected = len(known_pairs(tasks[0])) + count_kept(tasks[1:], "1/3")
    assert len(stream.device_pairs.start) == expected


def count_shown(batch, banned):
    """Returns how many pairs of a batch have a key that is banned, as the network sees them."""
    found, tokens = 0, batch.tokens.numpy()
    for pair in np.split(tokens, np.flatnonzero(tokens == START)[1:]):
        a, b = np.split(pair[1:-1], np.flatnonzero(pair[1:-1] == OUT))
        found += pair_key(decode_grid(a), decode_grid(b[1:])) in banned
    return found


def times_shown(asked, learned, banned_pairs, config):
    """Returns how often a stream of tasks shows one of the pairs, where `asked` are guarded."""
    stream = stream_of(learned, config, rows_of(learned), asked=asked)
    banned = {pair_key(*pair) for pair in banned_pairs}
    return sum(count_shown(gather(stream.device_pairs, step.documents), banned)
               for step in stream.steps(0, 0))


def unanswered(pairs):
    return [(grid, None) for grid, _ in pairs]


@pytest.mark.parametrize("symmetries", [False, True])
def test_no_recolored_pair_is_a_test_pair_of_val_or_test(symmetries):
    """A demonstration may become one, cell for cell, when it is turned and recolored."""
    task = make_task("a", "10 > 01; 500 > 005", "20 > 02")
    learned = [task._replace(test=[]), make_task("b", "70 > 07; 02 > 20", "030 > 300")]
    config = Config(demos=0, task_embed=True, max_len=64, max_answer=30, batch_tokens=256,
                    max_steps=100, symmetries=symmetries)
    assert times_shown([], learned, task.test, config) > 20
    for asked in (task.test, unanswered(task.test)):
        assert times_shown(asked, learned, task.test, config) == 0


@pytest.mark.parametrize("demonstration, query, colors", [
    ("12 > 21", "1 2 > 2 1", False),           # no recoloring at all
    ("00 > 11", "0 0 > 1 1", True),            # 1 is in outputs only, and no color may change
])
def test_no_turned_pair_is_a_test_pair_where_colors_cannot_help(demonstration, query, colors):
    task = make_task("a", demonstration, query)
    learned = [task._replace(test=[])]
    config = Config(demos=0, task_embed=True, max_len=64, max_answer=30, batch_tokens=64,
                    max_steps=50, symmetries=True, colors=colors)
    assert times_shown([], learned, task.test, config) > 20
    for asked in (task.test, unanswered(task.test)):
        assert times_shown(asked, learned, task.test, config) == 0


def same_arrays(a, b):
    """Returns whether two Documents are equal."""
    columns = zip([*a.slices, a.colors, a.task_view], [*b.slices, b.colors, b.task_view])
    return all(np.array_equal(x, y) for x, y in columns)


def from_files():
    config = Config(max_len=64, max_answer=30, batch_tokens=256, max_steps=9, symmetries=True)
    return stream_of(flip_tasks(10), config, {})


def from_generator():
    return Generated(Config(max_steps=9), ["1d_fill"], set())


@pytest.mark.parametrize("make, block", [(from_files, 4000), (from_files, 5), (from_files, 3),
                                         (from_generator, 0)])
def test_steps_follow_from_their_number(make, block, monkeypatch):
    """A stream that starts at step 5 goes on as one that started at step 0, whoever prepares it."""
    monkeypatch.setattr(FromTasks, "BLOCK", block)
    stream = make()
    whole = list(stream.steps(0, 0))
    assert len(whole) == 9
    for workers in (0, 1, 2):
        rest = list(stream.steps(5, workers))
        assert len(rest) == 4
        for a, b in zip(whole[5:], rest):
            assert same_arrays(a.documents, b.documents)
    assert not np.array_equal(whole[0].documents.colors, whole[1].documents.colors)


def test_a_resumed_run_orders_the_steps_of_its_block_alone(monkeypatch):
    """And each block has an order of its own, in which everything comes once before it repeats."""
    monkeypatch.setattr(FromTasks, "BLOCK", 3)
    filled, fill_step = [], FromTasks.fill_step

    def counted(self, *args):
        filled.append(fill_step(self, *args))
        return filled[-1]
    monkeypatch.setattr(FromTasks, "fill_step", counted)
    stream = from_files()
    assert len(list(stream.steps(0, 0))) == len(filled) == 9
    firsts = [tuple(drawn.task_number for step in filled[b:b + 3] for drawn in step)[:6]
              for b in (0, 3, 6)]
    assert len(set(firsts)) == 3
    assert all(len(set(tasks)) == 6 for tasks in firsts)
    filled.clear()
    assert len(list(stream.steps(7, 0))) == 2
    assert len(filled) == 3                    # steps 6, 7, 8


# ------------------------------------------------------------------------------------------------
# The stream of generated tasks


@pytest.mark.parametrize("symmetries", [False, True])
def test_generated_documents_say_which_symmetry_they_show(symmetries):
    """A view embedding is trained on the symmetries it is asked about."""
    config = Config(symmetries=symmetries, view_embed=True)
    stream = Generated(config, ["1d_fill"], set())
    shown = np.concatenate([stream[step].documents.task_view[:, 1] for step in range(3)])
    assert set(shown) == (set(range(SYMMETRIES)) if symmetries else {0})


def test_generated_steps_hold_no_pair_of_val_or_test_as_the_network_sees_them():
    """Tasks are recolored and turned after they are drawn: the guard has to look at the outcome."""
    config = Config(max_steps=20, batch_tokens=1536, symmetries=True, oned_max_width=9)
    held = oned.draw_tasks("held", 40, ["1d_move_1p"], (7, 9))
    pairs = [pair for task in held for pair in known_pairs(task)]
    banned = {pair_key(*pair) for pair in pairs}
    open_banned = {pair_key(*pair) for pair in unanswered(pairs)}

    def count_banned(stream):
        steps = [stream[number] for number in range(20)]
        return sum(count_shown(gather(step.pairs, step.documents), banned) for step in steps)
    assert count_banned(Generated(config, ["1d_move_1p"], set())) > 50
    assert count_banned(Generated(config, ["1d_move_1p"], banned)) == 0
    assert count_banned(Generated(config, ["1d_move_1p"], open_banned)) == 0


def test_a_generator_that_has_nothing_left_says_so(monkeypatch):
    monkeypatch.setattr("arc.leaks.pair_key", lambda *pair: 0)
    expected = "hold a pair of val or test, or one trained on; raise --oned_max_width"
    with pytest.raises(UserError, match=expected):
        Generated(Config(), ["1d_move_1p"], {0})[0]
