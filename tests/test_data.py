"""Grids, tokens, coordinates, views, sources, the leak guard, batches, votes and scores."""
import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest
import torch

from config import Config, UserError
from conftest import arc_data, flip_tasks, grid, make_task, random_grid, raw, write_tasks
from data import arc, oned
from data.arc import END, OUT, ROW, START, SYMMETRIES, VOCAB
from data.batch import IGNORE, FromTasks, Generated, Pairs, bins, documents, fit_demos, gather, held_out
from data.exam import Exam, questions
from data.score import Draft, as_draft, score, submission, vote
from data.sources import load_data
from model import Answer

RNG = np.random.default_rng(0)


def same_tasks(a, b):
    return [(t.id, raw(t)) for t in a] == [(t.id, raw(t)) for t in b]


# --------------------------------------------------------------------------------------------------------------------
# Grids and tokens

def test_json_to_tokens_and_back(tmp_path):
    tasks = flip_tasks(20, most=30)
    found = arc.read_file(write_tasks(tmp_path / "tasks.json", tasks))
    assert same_tasks(found, tasks)
    for task in found:
        for a, b in task.train:
            tokens, prompt = arc.encode_pair((a, b))
            assert tokens[0] == START and tokens[prompt - 1] == OUT and tokens[-1] == END
            assert np.array_equal(arc.decode_grid(tokens[1:prompt - 1]), a)
            assert np.array_equal(arc.decode_grid(tokens[prompt:-1]), b)
            assert np.array_equal(arc.encode_pair((a, None))[0], tokens[:prompt])


def test_real_tasks_to_tokens_and_back():
    for g in itertools.chain(*map(arc.grids, arc.read_file(arc_data("arc1-evaluation.json")))):
        assert np.array_equal(arc.decode_grid(arc.encode_grid(g)), g)


def test_decode_grid_takes_rectangles_and_nothing_else():
    """Every sequence of up to six tokens against another way to tell: a regular expression and equal lengths."""
    letters = {"c": 3, "s": START, "r": ROW, "o": OUT, "e": END}
    accepted = 0
    for n in range(7):
        for word in map("".join, itertools.product(letters, repeat=n)):
            rectangle = re.fullmatch("(c+r)+", word) and len(set(word.split("r")[:-1])) == 1
            found = arc.decode_grid(np.array([letters[c] for c in word], np.int64))
            assert (found is not None) == bool(rectangle), word
            accepted += bool(rectangle)
    assert accepted == 1 + 1 + 2 + 1 + 3                       # of 2, 3, 4, 5, 6 tokens: divisors above 1


# --------------------------------------------------------------------------------------------------------------------
# Coordinates

def test_coordinates_of_a_written_document():
    (a, b), = make_task("", "12 34 > 5", "").train
    tokens = np.concatenate([arc.encode_pair(pair)[0] for pair in ((a, b), (b, a))])
    place = dict(zip(["index", "plane", "row", "column"], arc.trace([tokens]).T.tolist()))
    #                          start 1 2 row 3 4 row out | 5 row end | start 5 row out | 1 2 row 3 4 row end
    assert place["plane"] == [0, 0, 0, 0, 0, 0, 0, 0,      1, 1, 1,    2, 2, 2, 2,       3, 3, 3, 3, 3, 3, 3]
    assert place["row"] == [0, 0, 0, 0, 1, 1, 1, 2,        0, 0, 1,    0, 0, 0, 1,       0, 0, 0, 1, 1, 1, 2]
    assert place["column"] == [0, 0, 1, 2, 0, 1, 2, 0,     0, 1, 0,    0, 0, 1, 0,       0, 1, 2, 0, 1, 2, 0]
    assert place["index"] == list(range(22))


def test_coordinates_do_not_depend_on_tokens_to_come():
    for _ in range(200):
        tokens = RNG.integers(0, VOCAB, RNG.integers(2, 30))
        t = RNG.integers(0, len(tokens))
        other = np.concatenate([tokens[:t], RNG.integers(0, VOCAB, 5)])
        assert np.array_equal(arc.trace([tokens])[:t + 1], arc.trace([other])[:t + 1])


@pytest.mark.parametrize("prompt_only", [False, True])
def test_batch_equals_reading_token_by_token(prompt_only):
    """Tokens, coordinates and targets of documents of one to four pairs under all symmetries and a colour table."""
    tasks = flip_tasks(8, most=5)
    pairs = Pairs([pair for task in tasks for pair in task.train + task.test], SYMMETRIES)
    chosen = [(4 * t + RNG.permutation(4)[:1 + t % 4], s, arc.color_table(RNG), t)
              for t, s in itertools.product(range(8), range(SYMMETRIES))]
    docs = documents(pairs, chosen)
    batch = gather(pairs, docs.cut(0) if prompt_only else docs)
    ends = batch.docs.tolist()
    assert len(ends) == len(chosen) + 1 and ends[-1] == len(batch.tokens)
    for d, (numbers, s, table, t) in enumerate(chosen):
        shown = arc.view_task(tasks[t], s, table)
        parts = [arc.encode_pair((shown.train + shown.test)[p - 4 * t]) for p in numbers]
        if prompt_only:
            parts[-1] = parts[-1][0][:parts[-1][1]], parts[-1][1]
        tokens = np.concatenate([part for part, _ in parts]).astype(int)
        cursor, coords = np.zeros((1, 4), int), []
        for token in tokens:
            coords.append(cursor[0])
            cursor = arc.advance(cursor, np.array([token]))
        kind = np.concatenate([np.repeat([0, 1 + (i == len(parts) - 1)], [prompt, len(part) - prompt])
                               for i, (part, prompt) in enumerate(parts)])         # 1: a demonstration's output, 2: the query's
        after, kind = np.append(tokens[1:], IGNORE), np.append(kind[1:], 0)
        of = slice(ends[d], ends[d + 1])
        assert batch.tokens[of].tolist() == tokens.tolist()
        assert np.array_equal(batch.coords[of], coords)
        assert batch.targets[of].tolist() == np.where(kind > 0, after, IGNORE).tolist()
        assert batch.query[of].tolist() == (kind == 2).astype(int).tolist()
        assert batch.labels[of].tolist() == [[t, s]] * len(tokens)


def test_static_batch_only_adds_ignored_filler():
    tasks = flip_tasks(3)
    pairs = Pairs([pair for task in tasks for pair in task.train])
    docs = documents(pairs, [([3 * t, 3 * t + 1, 3 * t + 2], 0, np.arange(VOCAB), 1) for t in range(3)])
    exact, static = gather(pairs, docs), gather(pairs, docs, capacity=900, max_len=200)
    n = len(exact.tokens)
    assert len(static.tokens) == 900 and static.docs[-1] == 900
    assert static.docs.diff().max() <= 200 and (static.coords[:, 0] < 200).all()
    for of_exact, of_static in ((exact[i], static[i]) for i in (0, 1, 3, 4, 5)):
        assert torch.equal(of_static[:n], of_exact)
    assert torch.equal(static.docs[:4], exact.docs)
    assert (static.targets[n:] == IGNORE).all() and not static.query[n:].any()


# --------------------------------------------------------------------------------------------------------------------
# Views

@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_every_view_inverts(symmetry):
    for _ in range(20):
        g, table = random_grid(RNG, 6), arc.color_table(RNG)
        assert np.array_equal(arc.untransform(arc.transform(g, symmetry), symmetry), g)
        shown = arc.view_task(arc.Task("", [], [(g, g)]), symmetry, table).test[0][0]
        draft = as_draft("", 0, 0, symmetry, table, Answer(arc.encode_grid(shown), np.zeros(shown.size + len(shown) + 1)))
        assert np.array_equal(draft.grid, g)


def test_eight_symmetries_are_eight():
    g = grid("123 456")
    assert len({(t.shape, t.tobytes()) for t in (arc.transform(g, s).copy() for s in range(SYMMETRIES))}) == 8
    assert np.array_equal(arc.transform(g, 4), g.T)


def test_color_table_permutes_the_free_colors_only():
    for _ in range(20):
        table = arc.color_table(RNG, {0, 4})
        assert sorted(table) == list(range(VOCAB)) and table[0] == 0 and table[4] == 4 and (table[10:] == range(10, 14)).all()


@pytest.mark.parametrize("train, views", [("123 > 321", 4), ("12 34 > 21 43", 8), ("5 > 5", 1), ("11 11 > 2", 1),
                                          ("12 21 > 1", 2)])
def test_only_distinct_views_are_asked(train, views):
    task = make_task("t", train, train)
    asked = questions([task], 8, Config(symmetries=True, colors=False))
    shown = [raw(arc.view_task(task, symmetry, table)) for *_, symmetry, table in asked]
    assert len(asked) == views and [v for _, _, v, *_ in asked] == list(range(views))
    assert all(a != b for a, b in itertools.combinations(shown, 2))
    assert shown[0] == raw(task)                               # view 0 is the task as it is


def test_views_do_not_know_the_answers():
    known, unknown = make_task("t", "12 > 3", "41 > 5"), make_task("t", "12 > 3", "41")
    views = [[(s, table.tolist()) for *_, s, table in questions([task], 6, Config(symmetries=True))] for task in (known, unknown)]
    assert views[0] == views[1] and len(views[0]) == 6


def test_colors_that_only_outputs_show_stay_when_nothing_tells_them():
    task = make_task("t", "12 > 13; 2 > 4", "25 > 67")         # 3 and 4 are new in an output; 6 and 7 only in the test output
    assert arc.fixed_colors(task, transductive=True) == {0, 3, 4}
    assert arc.fixed_colors(task, transductive=False) == {0}
    config = Config(demos=0, task_embed=True)
    tables = [table for *_, table in questions([task], 8, config)]
    assert len(tables) == 8 and all(table[3] == 3 and table[4] == 4 for table in tables)
    assert any(table[6] != 6 for table in tables)
    stream = FromTasks([task], config, {"t": 1}, "cpu").stream(0, 0)
    tables = np.concatenate([docs.tables for _, docs in itertools.islice(stream, 3)])
    assert (tables[:, [0, 3, 4]] == [0, 3, 4]).all() and (tables[:, 6] != 6).any()


@pytest.mark.parametrize("symmetries", [False, True])
def test_generated_documents_say_which_symmetry_they_show(symmetries):
    """A view embedding is trained on the symmetries it is asked about."""
    config = Config(symmetries=symmetries, view_embed=True)
    labels = np.concatenate([Generated(config, ["1d_fill"], set())[step][1].labels for step in range(3)])
    assert set(labels[:, 1]) == (set(range(SYMMETRIES)) if symmetries else {0})


# --------------------------------------------------------------------------------------------------------------------
# What fits

@pytest.mark.parametrize("side, frame", [(1, 2), (3, 4), (4, 8), (7, 8), (8, 16), (30, 32), (31, 32), (32, 64), (93, 128)])
def test_frame(side, frame):
    wide = np.zeros((1, side), np.uint8)
    small = np.zeros((1, 1), np.uint8)
    for g in (wide, wide.T):
        assert arc.frame_for([arc.Task("", [(small, g)], [])]) == frame
        assert arc.frame_for([arc.Task("", [(small, small)], [(g, None)])]) == frame
        assert arc.frame_for([arc.Task("", [(small, small)], [(small, g)])]) == 2      # an answer does not show in it
    assert arc.frame_for([arc.Task("", [(small, small)], [])], least=side) == frame
    arc.check_frame([arc.Task("", [(wide, small)], [])], frame)
    with pytest.raises(UserError, match="task t.*--frame"):
        arc.check_frame([arc.Task("t", [(wide, small)], [])], frame // 2)


@pytest.mark.parametrize("lengths, query, limit, kept", [
    ([10, 10, 10], 5, 100, [0, 1, 2]), ([10, 10, 10], 5, 35, [0, 1, 2]), ([10, 10, 10], 5, 34, [0, 1]),
    ([30, 10, 10], 5, 25, [1, 2]), ([10, 30, 10], 5, 25, [0, 2]), ([10], 100, 100, []), ([], 3, 5, []), ([1], 101, 100, None)])
def test_fit_demos(lengths, query, limit, kept):
    assert fit_demos(lengths, query, limit) == kept


def test_prompt_and_allowance_decide_what_fits_never_the_answer():
    demos = "; ".join(["12 34 > 21 43"] * 2)                   # 15 tokens each
    short, long, unknown = (make_task(name, demos, test) for name, test in (("s", "1 > 2"), ("l", "1 > 2222222"), ("u", "1")))
    for limit, fit in ((43, 2), (42, 1), (28, 1), (27, 0)):    # the prompt takes 4 and the allowance 9
        config = Config(max_len=limit, max_answer=9, demos=2)
        tasks = [short, long, unknown]
        asked = questions(tasks, 1, config)
        for known in (True, False):
            exam = Exam(tasks if known else [t._replace(test=[(t.test[0][0], None)]) for t in tasks], asked, config, {}, "cpu")
            assert exam.where == [0, 1, 2] and exam.left_out == 3 * (2 - fit)
            assert np.bincount(exam.docs.segments[:, 2]).tolist() == [fit + 1] * 3


def test_an_answer_longer_than_the_allowance_has_failed():
    task = make_task("t", "1 > 1", "1 > 123456789")            # 11 tokens with `row` and `end`
    for allowance, where in ((11, [0]), (10, [])):
        config = Config(max_answer=allowance)
        assert Exam([task], questions([task], 1, config), config, {}, "cpu").where == where


def test_bins():
    lengths = RNG.integers(1, 50, 300).tolist()
    found = bins(lengths, 64)
    assert sorted(itertools.chain(*found)) == list(range(300))
    assert max(sum(lengths[d] for d in part) for part in found) <= 64
    assert len(found) < 1.3 * sum(lengths) / 64
    with pytest.raises(UserError, match="65 tokens.*64.*--micro_tokens"):
        bins([65], 64)


@pytest.mark.parametrize("demos, embed", [(0, True), (3, False), (3, True)])
def test_an_epoch_shows_everything_once_and_steps_are_full(demos, embed):
    tasks = flip_tasks(40, most=6)
    config = Config(demos=demos, task_embed=embed, max_len=256, batch_tokens=1024, max_steps=12, symmetries=True)
    data = FromTasks(tasks, config, {task.id: row for row, task in enumerate(tasks, 1)}, "cpu")
    for seed in range(3):
        documents = list(data.epoch(np.random.default_rng(seed)))
        shown = Counter(p for _, order, _, t in documents for p in (map(int, order) if embed else [t]))
        assert set(shown.values()) == {1} and len(shown) == (160 if embed else 40)
        assert not embed or {len(order) for _, order, *_ in documents} == set(range(1, demos + 2))
        assert all(len(order) <= demos + 1 and length <= 256 for length, order, *_ in documents)
    sizes = [docs.lengths().sum() for _, docs in data.stream(0, 0)]
    assert len(sizes) == 12 and max(sizes) <= 1024 and np.mean(sizes) > 0.9 * 1024


def test_what_is_asked_comes_more_often_and_what_is_long_less():
    """focus and short: each pair's number of documents over many epochs."""
    tasks = flip_tasks(40, most=6)
    config, epochs = Config(demos=0, task_embed=True, max_len=256, focus=2.5, short=20), 40
    data, asked = FromTasks(tasks, config, {}, "cpu", {task.id for task in tasks[:10]}), np.zeros(4)
    for seed in range(epochs):
        for length, _, _, t in data.epoch(np.random.default_rng(seed)):
            asked[2 * (t < 10) + (length > 30)] += 1
    lengths = data.store.length[:, 0]
    first = np.isin(np.arange(len(lengths)), np.concatenate(data.numbers[:10]))
    expected = [(np.minimum(1, 20 / lengths)[(first == focus) & ((lengths > 30) == long)]).sum() * (2.5 if focus else 1) * epochs
                for focus in (False, True) for long in (False, True)]
    assert min(expected) > 100 and np.allclose(asked, expected, rtol=0.15)
    plain = FromTasks(tasks, Config(demos=0, task_embed=True, max_len=256), {}, "cpu", {task.id for task in tasks[:10]})
    assert len(list(plain.epoch(np.random.default_rng(0)))) == len(lengths)


def test_colours_that_only_outputs_show_stay_where_no_demonstration_tells():
    """With a task embedding and demonstrations, documents of one pair and of several stand side by side."""
    tasks = [make_task(f"t{i}", "12 > 15; 21 > 55; 22 > 51", "11 > 15") for i in range(30)]             # 5 is in outputs alone
    config = Config(demos=3, task_embed=True, max_len=256, batch_tokens=1024, max_steps=5)
    data = FromTasks(tasks, config, {task.id: row for row, task in enumerate(tasks, 1)}, "cpu")
    moved = {True: 0, False: 0}
    for _, docs in data.stream(0, 0):
        pairs = np.bincount(docs.segments[:, 2])
        for alone in (True, False):
            moved[alone] += int((docs.tables[(pairs == 1) == alone, 5] != 5).sum())
    assert moved[True] == 0 and moved[False] > 20


def test_steps_follow_from_their_number():
    """A stream that starts at step 5 goes on as one that started at step 0, whoever prepares it."""
    config = Config(max_len=64, max_answer=30, batch_tokens=256, max_steps=9, symmetries=True)
    for data in (FromTasks(flip_tasks(10), config, {}, "cpu"), Generated(Config(max_steps=9), ["1d_fill"], set())):
        whole, rest, others = list(data.stream(0, 0)), list(data.stream(5, 0)), list(data.stream(5, 2))
        assert len(whole) == 9 and len(rest) == len(others) == 4
        for (_, a), (_, b), (_, c) in zip(whole[5:], rest, others):
            assert all(np.array_equal(x, y) and np.array_equal(x, z) for x, y, z in zip(a, b, c))
        left_out = [docs.left_out for _, docs in whole]
        assert left_out == sorted(left_out) and (left_out[-1] > left_out[0] > 0) == isinstance(data, FromTasks)
        assert not np.array_equal(whole[0][1].tables, whole[1][1].tables)


def test_fold_holds_out_each_pair_once():
    pairs = [pair for task in flip_tasks(50) for pair in task.train]
    parts = [[held_out(pair, f"{i}/3") for pair in pairs] for i in range(3)]
    assert (np.sum(parts, axis=0) == 1).all() and min(map(sum, parts)) > 30
    assert not any(held_out(pair, "") for pair in pairs)
    config = Config(fold="1/3", demos=0, task_embed=True)
    data = FromTasks(flip_tasks(50), config, {}, "cpu")
    kept = lambda tasks: sum(not held_out(pair, "1/3") for task in tasks for pair in task.train + task.test)
    assert len(data.store.start) == kept(flip_tasks(50))
    first, *rest = flip_tasks(50)                              # of what is asked about, all is shown
    assert len(FromTasks([first, *rest], config, {}, "cpu", {first.id}).store.start) == len(first.train + first.test) + kept(rest)


def test_a_pair_turned_and_recoloured_is_held_out_with_it():
    rng = np.random.default_rng(0)
    for a, b in (pair for task in flip_tasks(5) for pair in task.train):
        for symmetry in range(arc.SYMMETRIES):
            table = rng.permutation(10).astype(np.uint8)
            assert arc.form_key(table[arc.transform(a, symmetry)], table[arc.transform(b, symmetry)]) == arc.form_key(a, b)
    pairs = [pair for task in flip_tasks(20) for pair in task.train]
    assert len({arc.form_key(*pair) for pair in pairs}) > 0.7 * len(pairs)         # the smallest are alike


# --------------------------------------------------------------------------------------------------------------------
# Sources

def test_unknown_keys_are_ignored_and_test_outputs_may_be_missing(tmp_path):
    tasks = [make_task("a", "1 > 2", "3"), make_task("b", "1 > 2", "3 > 4; 5")]
    text = {task.id: {**raw(task), "name": "x", "train": [{**p, "extra": 1} for p in raw(task)["train"]]} for task in tasks}
    (tmp_path / "t.json").write_text(json.dumps(text))
    assert same_tasks(arc.load(str(tmp_path / "t.json")), tasks)


def test_challenges_find_their_solutions(tmp_path):
    task = make_task("a", "1 > 2", "3 > 4; 5 > 6")
    challenge = {"a": {**raw(task), "test": [{"input": pair["input"]} for pair in raw(task)["test"]]}}
    path = tmp_path / "arc-agi_evaluation_challenges.json"
    path.write_text(json.dumps(challenge))
    assert same_tasks(arc.load(str(path)), [make_task("a", "1 > 2", "3; 5")])
    (tmp_path / "arc-agi_evaluation_solutions.json").write_text(json.dumps({"a": [[[4]], [[6]]]}))
    assert same_tasks(arc.load(str(path)), [task])
    (tmp_path / "arc-agi_evaluation_solutions.json").write_text(json.dumps({"a": [[[4]]]}))
    with pytest.raises(UserError, match="task a, test pair 1.*solutions"):
        arc.load(str(path))


def test_directory_of_single_tasks_and_sources_joined(tmp_path):
    tasks = flip_tasks(4)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "concept").mkdir()                               # as ConceptARC's corpus has them
    for task, place in zip(tasks, (folder / "concept", folder)):
        (place / f"{task.id}.json").write_text(json.dumps(raw(task)))
    file = write_tasks(tmp_path / "rest.json", tasks[2:])
    assert same_tasks(arc.load(f"{folder}+{file}"), tasks)


def test_a_number_of_tasks_does_not_depend_on_their_order(tmp_path):
    tasks = flip_tasks(30)
    a, b = write_tasks(tmp_path / "a.json", tasks), write_tasks(tmp_path / "b.json", tasks[::-1])
    some = arc.load(f"{a}#10")
    assert same_tasks(some, arc.load(f"{b}#10")) and same_tasks(some[:7], arc.load(f"{a}#7"))
    assert {t.id for t in some} != {t.id for t in tasks[:10]}
    for count, message in {"0": "1 or more", "x": "1 or more", "-1": "1 or more", "31": "only 30 tasks"}.items():
        with pytest.raises(UserError, match=f"#{count}.*{message}"):
            arc.load(f"{a}#{count}")


def write_lists(folder, tasks):
    """A list of pairs for each task, as re-ARC's generator leaves them."""
    folder.mkdir(parents=True)
    for task in tasks:
        (folder / f"{task.id}.json").write_text(json.dumps(raw(task)["train"] + raw(task)["test"]))
    return folder


def test_lists_of_pairs_are_tasks_of_demonstrations_alone(tmp_path):
    tasks = flip_tasks(12, demos=20)
    folder = write_lists(tmp_path / "at@home" / "re_arc#1" / "tasks", tasks)         # marks in a folder's name are no marks
    lists = sorted((t._replace(train=t.train + t.test, test=[]) for t in tasks), key=lambda task: task.id)
    assert same_tasks(arc.load(f"{folder}"), lists)
    assert same_tasks(arc.load(f"{folder}@16"), [t._replace(train=t.train[:16]) for t in lists])
    some = arc.load(f"{folder}@16#5")
    assert {t.id for t in some} == {t.id for t in arc.load(f"{folder}#5")} and {len(t.train) for t in some} == {16}
    assert {len(t.train) for t in arc.load(f"{folder}@30")} == {21}                  # as many as there are
    file = write_tasks(tmp_path / "tasks.json", tasks)
    assert same_tasks(arc.load(f"{file}@2"), [t._replace(train=t.train[:2]) for t in tasks])
    for number in ("0", "x", "-1", "", "1@2", "\u00b2"):
        with pytest.raises(UserError, match=f"tasks.json@{number}.*behind @ stands how many.*1 or more"):
            arc.load(f"{file}@{number}")
    for number in ("3@2", "", "3#4"):
        with pytest.raises(UserError, match=f"tasks.json#{number}.*behind # stands how many of its tasks.*1 or more"):
            arc.load(f"{file}#{number}")


def test_lists_of_pairs_join_their_tasks(tmp_path):
    """Lists cut short and one file that holds as many pairs are the same to a run: merged by id, dropped by id."""
    tasks, more = flip_tasks(6), flip_tasks(6, demos=20, seed=1)
    files = {name: write_tasks(tmp_path / f"{name}.json", found) for name, found in
             dict(training=tasks[:5], evaluation=tasks[5:], few=[t._replace(train=t.train[:16], test=[]) for t in more]).items()}
    found = [load_data(Config(train=f"{files['training']}+{source}", val="", test=str(files["evaluation"]), demos=0, task_embed=True))
             for source in (f"{write_lists(tmp_path / 're_arc' / 'tasks', more)}@16", files["few"])]
    assert same_tasks(found[0]["train"], found[1]["train"])
    assert all(data["dropped"] == ["flip5"] and "leak guard: 1 dropped, 5 merged" in " ".join(data["say"]) for data in found)
    assert [len(t.train) for t in found[0]["train"]] == 5 * [3 + 16] + [3] and all(t.test for t in found[0]["train"][:5])


def test_real_lists_of_pairs(tmp_path):
    """re-ARC's pairs, as its own files hold them."""
    training, again = arc.read_file(arc_data("arc1-training.json")), arc.read_file(arc_data("re-arc.json"))
    lists = arc.load(f"{write_lists(tmp_path / 'tasks', again)}@16")
    (one, *_, merged), (other, *_, also) = (arc.guard(training + found, []) for found in (again, lists))
    assert merged == also == 400 and same_tasks(one, other)


# --------------------------------------------------------------------------------------------------------------------
# Leak guard

SECRET = make_task("secret", "11 > 22; 12 > 21; 333 > 4", "567 > 765")
UNANSWERED = make_task("secret", "11 > 22; 12 > 21; 333 > 4", "567")
OTHER = make_task("other", "8 > 9; 88 > 99", "888 > 999")
THIRD = make_task("third", "1 > 9; 11 > 99", "111 > 999")

LEAKS = {
    "same id": (make_task("secret", "9 > 9", "8 > 8"), SECRET),
    "same id, demonstrations only": (make_task("secret", "9 > 9", ""), SECRET),            # as in re-ARC
    "same pairs in another order": (make_task("x", "333 > 4; 12 > 21; 11 > 22", "567 > 765"), SECRET),
    "one demonstration shared": (make_task("x", "9 > 9; 12 > 21", "8 > 8"), SECRET),
    "test pair as a demonstration": (make_task("x", "567 > 765", "8 > 8"), SECRET),
    "demonstration as a test pair": (make_task("x", "9 > 9", "12 > 21"), SECRET),
    "input of an unanswered test": (make_task("x", "567 > 765; 9 > 9", "8 > 8"), UNANSWERED),
    "unanswered on both sides": (make_task("x", "9 > 9", "567"), UNANSWERED),
    "twin of 070dd51e": (THIRD._replace(id="40853293"), SECRET._replace(id="070dd51e")),
    "twin of 50a16a69": (THIRD._replace(id="caa06a1f"), SECRET._replace(id="50a16a69")),
    "twin of 40853293": (THIRD._replace(id="070dd51e"), SECRET._replace(id="40853293")),
    "twin of caa06a1f": (THIRD._replace(id="50a16a69"), SECRET._replace(id="caa06a1f")),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_planted_leak_is_caught(leak):
    planted, protected = LEAKS[leak]
    kept, dropped, merged = arc.guard([OTHER, planted], [protected])
    assert [task.id for task in kept] == ["other"] and dropped == [planted.id] and merged == 0


@pytest.mark.parametrize("order", [1, -1])
def test_other_pairs_under_the_id_of_a_leak_go_too(order):
    """As re-ARC's, which have the rule."""
    leak = SECRET._replace(id="abc")
    kept, dropped, merged = arc.guard([leak, make_task("abc", "5 > 6; 7 > 1", ""), OTHER][::order], [SECRET])
    assert [task.id for task in kept] == ["other"] and dropped == ["abc", "abc"] and merged == 0


@pytest.mark.parametrize("innocent", [OTHER, make_task("x", "567 > 1; 22 > 11", "21 > 12"), make_task("x", "1 1 > 22", "33 > 3")])
def test_what_is_no_leak_stays(innocent):
    """Another output, the pair turned round, the same cells in another shape."""
    kept, dropped, merged = arc.guard([innocent], [SECRET])
    assert same_tasks(kept, [innocent]) and not dropped and not merged


def test_duplicates_merge():
    again = make_task("again", "8 > 9; 7 > 6", "888 > 999")
    more = OTHER._replace(train=make_task("", "5 > 5; 8 > 9", "").train, test=[])          # as re-ARC adds to ARC's tasks
    kept, dropped, merged = arc.guard([OTHER, again, more, SECRET], [])
    assert [t.id for t in kept] == ["other", "secret"] and not dropped and merged == 2
    assert same_tasks(kept[:1], [make_task("other", "8 > 9; 88 > 99; 7 > 6; 5 > 5", "888 > 999")])


def test_merging_makes_no_demonstration_of_an_unanswered_test():
    """Kaggle's test file lists tasks of its other files, without answers."""
    kept, _, merged = arc.guard([OTHER, OTHER._replace(test=make_task("", "", "777").test)], [])
    assert merged == 1 and all(b is not None for _, b in kept[0].train)


def test_real_leaks():
    training, evaluation, arc2 = (arc.read_file(arc_data(name)) for name in
                                  ("arc1-training.json", "arc1-evaluation.json", "arc2-training.json"))
    kept, dropped, _ = arc.guard(training, evaluation)
    assert {"40853293", "caa06a1f"} <= set(dropped) and len(kept) + len(dropped) == 400
    assert "40853293" in arc.guard(training, [t._replace(id="hidden") for t in evaluation])[1]     # found by its pairs
    ids = {task.id for task in evaluation}
    assert sum(task.id in ids for task in arc2) == 376
    assert {task.id for task in arc2 if task.id in ids} <= set(arc.guard(arc2, evaluation)[1])
    again = arc.read_file(arc_data("re-arc.json"))
    assert len(again) == 400 and all(not task.test and len(task.train) == 16 for task in again)
    kept, dropped, merged = arc.guard(training + again, [])
    assert len(kept) == merged == 400 and not dropped and all(len(task.train) > 16 for task in kept)
    assert set(arc.guard(again, training[:100])[1]) == {task.id for task in training[:100]}
    assert {"40853293", "caa06a1f"} <= set(arc.guard(again, evaluation)[1])


# --------------------------------------------------------------------------------------------------------------------
# Votes and scores

A, B, C = grid("1"), grid("2"), grid("1 1")


@pytest.mark.parametrize("drafts, ranked", [
    ([(A, -1), (B, -.1), (A, -1)], [A, B]),                    # count first
    ([(A, -2), (B, -1)], [B, A]),                              # then the mean log-probability, of
    ([(A, -1), (B, -1.5), (B, -1.7), (A, -3)], [B, A]),        # all drafts of a grid
    ([(C, -1), (B, -1), (A, -1)], [C, B, A]),                  # then the earlier view
    ([(None, 0), (A, -5), (None, 0)], [A]),                    # what is no grid does not vote
    ([(None, 0)], []), ([], [])])
def test_vote(drafts, ranked):
    found = vote([Draft("t", 0, view, g, logp) for view, (g, logp) in enumerate(drafts)])
    assert [g.tolist() for g in found] == [g.tolist() for g in ranked]
    later = [Draft("t", 0, view, g, logp) for view, (g, logp) in enumerate(drafts)][::-1]          # views count, not their order
    assert [g.tolist() for g in vote(later)] == [g.tolist() for g in ranked]


def test_drafts_that_are_no_grid():
    table = np.arange(VOCAB)
    for tokens in ([1, 1], [1, ROW, 1, 1, ROW], [ROW], [], [START, ROW]):
        draft = as_draft("t", 0, 0, 0, table, Answer(np.array(tokens, np.int64), np.full(len(tokens) + 1, -0.5)))
        assert draft.grid is None and draft.logp == -0.5
    assert as_draft("t", 0, 0, 0, table, None).grid is None


def test_score_worked_by_hand():
    tasks = [make_task("two", "1 > 1", "3 > 1; 4 > 2"),        # inputs 0 and 1: answers A and B
             make_task("one", "1 > 1", "5 > 11"), make_task("hidden", "1 > 1", "6")]
    wide = grid("11")
    drafts = [Draft("two", 0, 0, A, -1), Draft("two", 0, 1, B, -2),                        # right at once
              Draft("two", 1, 0, A, -1), Draft("two", 1, 1, A, -1), Draft("two", 1, 2, B, -1),     # right at the second attempt
              Draft("one", 0, 0, None, -1), Draft("one", 0, 1, grid("21"), -1), Draft("one", 0, 2, A, -2),
              Draft("one", 0, 3, wide, -3), Draft("hidden", 0, 0, A, -1)]
    metrics, attempts = score(tasks, drafts)
    assert metrics == {"pass1_single": 0.25, "pass1_view": pytest.approx(1 / 3), "pass1": 0.25, "pass2": 0.5, "oracle": 1.0, "draft_cells": 0.25,
                       "failed_drafts": 0.1, "tasks": 2}
    assert [g.tolist() for g in attempts["one", 0]] == [[[2, 1]], [[1]], [[1, 1]]]
    assert submission(tasks, attempts) == {
        "two": [{"attempt_1": [[1]], "attempt_2": [[2]]}, {"attempt_1": [[1]], "attempt_2": [[2]]}],
        "one": [{"attempt_1": [[2, 1]], "attempt_2": [[1]]}],
        "hidden": [{"attempt_1": [[1]], "attempt_2": [[1]]}]}


def test_without_a_valid_draft_the_submission_says_zero():
    task = make_task("t", "1 > 1", "3 > 1; 4 > 2")
    metrics, attempts = score([task], [Draft("t", 0, 0, None, -1)])         # and no draft at all of the second test input
    assert submission([task], attempts) == {"t": [{"attempt_1": [[0]], "attempt_2": [[0]]}] * 2}
    assert metrics["pass2"] == metrics["oracle"] == metrics["draft_cells"] == 0 and metrics["failed_drafts"] == 1


def test_cells_of_the_plain_view():
    task = make_task("t", "1 > 1", "3 > 1234")
    cells = lambda text: score([task], [Draft("t", 0, 0, grid(text), 0)])[0]["draft_cells"]
    assert (cells("1234"), cells("1299"), cells("12 34")) == (1, 0.5, 0)


def test_generated_steps_hold_no_pair_of_val_or_test_as_the_network_sees_them():
    """Colours are permuted and grids turned after a task is drawn, so the guard has to look at the outcome."""
    config = Config(max_steps=20, batch_tokens=1536, symmetries=True, oned_max_width=9)
    banned = {arc.pair_key(*pair) for task in oned.draw_tasks("held", 40, ["1d_move_1p"], (7, 9)) for pair in task.train + task.test}

    def hits(source):
        found = 0
        for step in range(20):
            pairs, docs = source[step]
            tokens = gather(pairs, docs).tokens.numpy()
            for pair in np.split(tokens, np.flatnonzero(tokens == START)[1:]):
                a, b = np.split(pair[1:-1], np.flatnonzero(pair[1:-1] == OUT))
                found += arc.pair_key(arc.decode_grid(a), arc.decode_grid(b[1:])) in banned
        return found
    assert hits(Generated(config, ["1d_move_1p"], set())) > 50
    assert hits(Generated(config, ["1d_move_1p"], banned)) == 0


def test_generator_that_has_nothing_left(monkeypatch):
    monkeypatch.setattr("data.batch.pair_key", lambda *pair: 0)
    with pytest.raises(UserError, match="hold a pair of val or test; raise --oned_max_width"):
        Generated(Config(), ["1d_move_1p"], {0})[0]


def test_views_differ_in_what_the_network_is_shown():
    """With demos = 0 only the query is shown, so views that differ in the demonstrations alone are one."""
    task = make_task("same", "12 > 21; 34 > 43", "11 > 11; 120 345 > 021 543")
    for demos, most in ((0, 9), (2, 16)):
        asked = questions([task], 16, Config(demos=demos, task_embed=True, symmetries=True))
        for i in (0, 1):
            shown = [arc.view_task(task, s, table) for _, query, _, s, table in asked if query == i]
            prompts = {str([g.tolist() for pair in view.train[:demos] for g in pair] + view.test[i][0].tolist()) for view in shown}
            assert len(prompts) == len(shown) and (len(shown) == 16 or i == 0 and demos == 0 and len(shown) <= 2 * most)
        assert [v for _, query, v, _, _ in asked if query == 1] == list(range(16))


def test_val_may_not_share_a_pair_with_test_where_demonstrations_are_trained_on(tmp_path):
    val = [make_task("a", "12 > 21; 3 > 3", "4 > 4"), make_task("b", "56 > 65", "7 > 7")]
    test = [make_task("c", "89 > 98", "12 > 21")]
    train = [make_task("d", "1 > 1", "2 > 2")]
    names = [write_tasks(tmp_path / f"{n}.json", tasks) for n, tasks in (("val", val), ("test", test), ("train", train))]
    config = Config(val=str(names[0]), test=str(names[1]), train=str(names[2]), demos=0, task_embed=True)
    data = load_data(config)
    assert [t.id for t in data["val"]] == ["b"] and any("a" in line and "left out" in line for line in data["say"])
