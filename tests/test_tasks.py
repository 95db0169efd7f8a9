"""ARC itself: grids, tokens, coordinates, views, the canvas, sources, the leak guard."""
import itertools
import json
import re

import numpy as np
import pytest

from arc.leaks import form_key, guard, held_out, pair_key
from arc.task import Task, grids_of
from arc.tasks import canvas_for, check_canvas, load_data, load_tasks, read_file
from arc.tokens import (COLORS, END, OUT, ROW, START, VOCAB, decode_grid, encode_grid, encode_pair,
                        trace)
from arc.views import (SYMMETRIES, fixed_colors, random_colors, transform, untransform, unview_grid,
                       view_grid, view_pairs)
from config import Config, UserError
from conftest import arc_data, flip_tasks, grid, make_task, random_grid, raw, write_tasks

RNG = np.random.default_rng(0)


def same_tasks(a, b):
    return [(task.id, raw(task)) for task in a] == [(task.id, raw(task)) for task in b]


def ids_of(tasks):
    return [task.id for task in tasks]


# ------------------------------------------------------------------------------------------------
# Grids and tokens


def test_json_to_tokens_and_back(tmp_path):
    tasks = flip_tasks(20, most=30)
    found = read_file(write_tasks(tmp_path / "tasks.json", tasks))
    assert same_tasks(found, tasks)
    for task in found:
        for a, b in task.train:
            tokens, prompt = encode_pair((a, b))
            assert tokens[0] == START
            assert tokens[prompt - 1] == OUT
            assert tokens[-1] == END
            assert np.array_equal(decode_grid(tokens[1:prompt - 1]), a)
            assert np.array_equal(decode_grid(tokens[prompt:-1]), b)
            assert np.array_equal(encode_pair((a, None))[0], tokens[:prompt])


def test_real_tasks_to_tokens_and_back():
    for task in read_file(arc_data("arc1-evaluation.json")):
        for g in grids_of(task):
            assert np.array_equal(decode_grid(encode_grid(g)), g)


def test_decode_grid_takes_rectangles_and_nothing_else():
    """Every sequence of up to six tokens, against a pattern and equal lengths."""
    letters = {"c": 3, "s": START, "r": ROW, "o": OUT, "e": END}
    accepted = 0
    for n in range(7):
        for word in map("".join, itertools.product(letters, repeat=n)):
            widths = {len(row) for row in word.split("r")[:-1]}
            is_rectangle = bool(re.fullmatch("(c+r)+", word)) and len(widths) == 1
            found = decode_grid(np.array([letters[c] for c in word], np.int64))
            assert (found is not None) == is_rectangle, word
            accepted += is_rectangle
    # of 2, 3, 4, 5, 6 tokens: one rectangle for each divisor above 1
    assert accepted == 1 + 1 + 2 + 1 + 3


# ------------------------------------------------------------------------------------------------
# Coordinates


def test_coordinates_of_a_written_document():
    (a, b), = make_task("", "12 34 > 5", "").train
    tokens = np.concatenate([encode_pair(pair)[0] for pair in ((a, b), (b, a))])
    index, side, row, column = trace([tokens]).T.tolist()
    #     start 1 2 row 3 4 row out | 5 row end | start 5 row out | 1 2 row 3 4 row end
    assert side == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3]
    assert row == [0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 2]
    assert column == [0, 0, 1, 2, 0, 1, 2, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 2, 0, 1, 2, 0]
    assert index == list(range(22))


def test_coordinates_do_not_depend_on_tokens_to_come():
    for _ in range(200):
        tokens = RNG.integers(0, VOCAB, RNG.integers(2, 30))
        t = RNG.integers(0, len(tokens))
        other = np.concatenate([tokens[:t], RNG.integers(0, VOCAB, 5)])
        assert np.array_equal(trace([tokens])[:t + 1], trace([other])[:t + 1])


# ------------------------------------------------------------------------------------------------
# Views


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_every_view_inverts(symmetry):
    for _ in range(20):
        g, colors = random_grid(RNG, 6), random_colors(RNG)
        assert np.array_equal(untransform(transform(g, symmetry), symmetry), g)
        assert np.array_equal(unview_grid(view_grid(g, symmetry, colors), symmetry, colors), g)


def test_eight_symmetries_are_eight():
    g = grid("123 456")
    forms = [transform(g, symmetry).copy() for symmetry in range(SYMMETRIES)]
    assert len({(form.shape, form.tobytes()) for form in forms}) == SYMMETRIES == 8
    assert np.array_equal(transform(g, 4), g.T)


def test_a_view_shows_all_pairs_alike_and_keeps_what_is_not_known():
    colors = random_colors(RNG)
    (a, b), = make_task("", "123 456 > 78", "").train
    (seen_a, seen_b), (seen_c, seen_d) = view_pairs([(a, b), (a, None)], 5, colors)
    assert np.array_equal(seen_a, colors[transform(a, 5)])
    assert np.array_equal(seen_b, colors[transform(b, 5)])
    assert np.array_equal(seen_c, seen_a)
    assert seen_d is None


def test_random_colors_permute_the_free_colors_only():
    for _ in range(20):
        colors = random_colors(RNG, {0, 4})
        assert sorted(colors) == list(range(VOCAB))
        assert colors[0] == 0 and colors[4] == 4
        assert (colors[COLORS:] == range(COLORS, VOCAB)).all()


def test_colors_that_only_outputs_show_are_fixed_where_nothing_tells_them():
    # 3 and 4 are new in an output; 6 and 7 are new in the test output alone
    task = make_task("t", "12 > 13; 2 > 4", "25 > 67")
    assert fixed_colors(task, transductive=True) == {0, 3, 4}
    assert fixed_colors(task, transductive=False) == {0}


# ------------------------------------------------------------------------------------------------
# The canvas

SIDES = [(1, 2), (3, 4), (4, 8), (7, 8), (8, 16), (30, 32), (31, 32), (32, 64), (93, 128)]


@pytest.mark.parametrize("side, canvas", SIDES)
def test_the_canvas_holds_every_grid_but_answers(side, canvas):
    wide = np.zeros((1, side), np.uint8)
    small = np.zeros((1, 1), np.uint8)
    demo = (small, small)
    for g in (wide, wide.T):
        assert canvas_for([Task("", [(small, g)], [])]) == canvas
        assert canvas_for([Task("", [demo], [(g, None)])]) == canvas
        assert canvas_for([Task("", [demo], [(small, g)])]) == 2       # it does not tell an answer
    assert canvas_for([Task("", [demo], [])], least=side) == canvas
    check_canvas([Task("", [(wide, small)], [])], canvas)
    with pytest.raises(UserError, match="task t.*--canvas"):
        check_canvas([Task("t", [(wide, small)], [])], canvas // 2)


# ------------------------------------------------------------------------------------------------
# Sources


def test_unknown_keys_are_ignored_and_test_outputs_may_be_missing(tmp_path):
    tasks = [make_task("a", "1 > 2", "3"), make_task("b", "1 > 2", "3 > 4; 5")]
    text = {}
    for task in tasks:
        train = [{**pair, "extra": 1} for pair in raw(task)["train"]]
        text[task.id] = {**raw(task), "name": "x", "train": train}
    (tmp_path / "t.json").write_text(json.dumps(text))
    assert same_tasks(load_tasks(str(tmp_path / "t.json")), tasks)


def test_challenges_find_their_solutions(tmp_path):
    task = make_task("a", "1 > 2", "3 > 4; 5 > 6")
    inputs = [{"input": pair["input"]} for pair in raw(task)["test"]]
    path = tmp_path / "arc-agi_evaluation_challenges.json"
    path.write_text(json.dumps({"a": {**raw(task), "test": inputs}}))
    assert same_tasks(load_tasks(str(path)), [make_task("a", "1 > 2", "3; 5")])
    solutions = tmp_path / "arc-agi_evaluation_solutions.json"
    solutions.write_text(json.dumps({"a": [[[4]], [[6]]]}))
    assert same_tasks(load_tasks(str(path)), [task])
    solutions.write_text(json.dumps({"a": [[[4]]]}))
    with pytest.raises(UserError, match="task a, test pair 1.*solutions"):
        load_tasks(str(path))
    solutions.write_text(json.dumps({"a": [[[4]], [[6]], [[8]]]}))
    with pytest.raises(UserError, match="task a: 2 test pairs.*holds 3 outputs"):
        load_tasks(str(path))
    solutions.write_text(json.dumps({"b": [[[4]]]}))
    with pytest.raises(UserError, match="no outputs of 1 tasks, a the first.*move it away"):
        load_tasks(str(path))


def test_directory_of_single_tasks_and_sources_joined(tmp_path):
    tasks = flip_tasks(4)
    folder = tmp_path / "folder"
    (folder / "concept").mkdir(parents=True)                   # as ConceptARC's corpus has them
    for task, place in zip(tasks, (folder / "concept", folder)):
        (place / f"{task.id}.json").write_text(json.dumps(raw(task)))
    file = write_tasks(tmp_path / "rest.json", tasks[2:])
    assert same_tasks(load_tasks(f"{folder}+{file}"), tasks)


def test_a_number_of_tasks_does_not_depend_on_their_order(tmp_path):
    tasks = flip_tasks(30)
    a = write_tasks(tmp_path / "a.json", tasks)
    b = write_tasks(tmp_path / "b.json", tasks[::-1])
    some = load_tasks(f"{a}#10")
    assert same_tasks(some, load_tasks(f"{b}#10"))
    assert same_tasks(some[:7], load_tasks(f"{a}#7"))
    assert set(ids_of(some)) != set(ids_of(tasks[:10]))
    wrong = {"0": "1 or more", "x": "1 or more", "-1": "1 or more", "31": "only 30 tasks"}
    for count, message in wrong.items():
        with pytest.raises(UserError, match=f"#{count}.*{message}"):
            load_tasks(f"{a}#{count}")


def write_lists(folder, tasks):
    """Writes a list of pairs for each task, as re-ARC's generator leaves them."""
    folder.mkdir(parents=True)
    for task in tasks:
        pairs = raw(task)["train"] + raw(task)["test"]
        (folder / f"{task.id}.json").write_text(json.dumps(pairs))
    return folder


def first_demos(tasks, count):
    return [task._replace(train=task.train[:count]) for task in tasks]


def test_lists_of_pairs_are_tasks_of_demonstrations_alone(tmp_path):
    tasks = flip_tasks(12, demos=20)
    # marks in a folder's name are no marks
    folder = write_lists(tmp_path / "at@home" / "re_arc#1" / "tasks", tasks)
    lists = [task._replace(train=task.train + task.test, test=[]) for task in tasks]
    lists.sort(key=lambda task: task.id)
    assert same_tasks(load_tasks(f"{folder}"), lists)
    assert same_tasks(load_tasks(f"{folder}@16"), first_demos(lists, 16))
    some = load_tasks(f"{folder}@16#5")
    assert set(ids_of(some)) == set(ids_of(load_tasks(f"{folder}#5")))
    assert {len(task.train) for task in some} == {16}
    # as many as there are
    assert {len(task.train) for task in load_tasks(f"{folder}@30")} == {21}
    file = write_tasks(tmp_path / "tasks.json", tasks)
    assert same_tasks(load_tasks(f"{file}@2"), first_demos(tasks, 2))


def test_marks_behind_a_source_take_whole_numbers(tmp_path):
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(12))
    for number in ("0", "x", "-1", "", "1@2", "\u00b2"):
        cure = "behind @ stands how many.*1 or more"
        with pytest.raises(UserError, match=f"tasks.json@{number}.*{cure}"):
            load_tasks(f"{file}@{number}")
    for number in ("3@2", "", "3#4"):
        cure = "behind # stands how many of its tasks.*1 or more"
        with pytest.raises(UserError, match=f"tasks.json#{number}.*{cure}"):
            load_tasks(f"{file}#{number}")


def test_lists_of_pairs_join_their_tasks(tmp_path):
    """Lists cut short and a file of as many pairs are the same to a run: merged, dropped by id."""
    tasks, more = flip_tasks(6), flip_tasks(6, demos=20, seed=1)
    training = write_tasks(tmp_path / "training.json", tasks[:5])
    evaluation = write_tasks(tmp_path / "evaluation.json", tasks[5:])
    cut = [task._replace(train=task.train[:16], test=[]) for task in more]
    few = write_tasks(tmp_path / "few.json", cut)
    lists = write_lists(tmp_path / "re_arc" / "tasks", more)
    found = []
    for source in (f"{lists}@16", few):
        config = Config(train=f"{training}+{source}", val="", test=str(evaluation), demos=0,
                        task_embed=True)
        found.append(load_data(config))
    assert same_tasks(found[0].train, found[1].train)
    for data in found:
        assert data.dropped == ["flip5"]
        assert "leak guard: 1 dropped, 5 merged" in " ".join(data.lines)
    assert [len(task.train) for task in found[0].train] == 5 * [3 + 16] + [3]
    assert all(task.test for task in found[0].train[:5])


def test_real_lists_of_pairs(tmp_path):
    """re-ARC's pairs, as its own files hold them."""
    training, again = read_file(arc_data("arc1-training.json")), read_file(arc_data("re-arc.json"))
    lists = load_tasks(f"{write_lists(tmp_path / 'tasks', again)}@16")
    one, _, merged = guard(training + again, [])
    other, _, merged_too = guard(training + lists, [])
    assert merged == merged_too == 400
    assert same_tasks(one, other)


# ------------------------------------------------------------------------------------------------
# The leak guard

SECRET = make_task("secret", "11 > 22; 12 > 21; 333 > 4", "567 > 765")
UNANSWERED = make_task("secret", "11 > 22; 12 > 21; 333 > 4", "567")
OTHER = make_task("other", "8 > 9; 88 > 99", "888 > 999")
THIRD = make_task("third", "1 > 9; 11 > 99", "111 > 999")

LEAKS = {
    "same id": (make_task("secret", "9 > 9", "8 > 8"), SECRET),
    # as in re-ARC
    "same id, demonstrations only": (make_task("secret", "9 > 9", ""), SECRET),
    "same pairs in another order":
        (make_task("x", "333 > 4; 12 > 21; 11 > 22", "567 > 765"), SECRET),
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
    kept, dropped, merged = guard([OTHER, planted], [protected])
    assert ids_of(kept) == ["other"]
    assert dropped == [planted.id]
    assert merged == 0


@pytest.mark.parametrize("order", [1, -1])
def test_other_pairs_under_the_id_of_a_leak_go_too(order):
    """As re-ARC's, which have the rule."""
    leak = SECRET._replace(id="abc")
    tasks = [leak, make_task("abc", "5 > 6; 7 > 1", ""), OTHER]
    kept, dropped, merged = guard(tasks[::order], [SECRET])
    assert ids_of(kept) == ["other"]
    assert dropped == ["abc", "abc"]
    assert merged == 0


INNOCENT = {
    "another task": OTHER,
    "another output, a pair turned round": make_task("x", "567 > 1; 22 > 11", "21 > 12"),
    "the same cells in another shape": make_task("x", "1 1 > 22", "33 > 3"),
}


@pytest.mark.parametrize("why", INNOCENT)
def test_what_is_no_leak_stays(why):
    kept, dropped, merged = guard([INNOCENT[why]], [SECRET])
    assert same_tasks(kept, [INNOCENT[why]])
    assert not dropped
    assert not merged


def test_duplicates_merge():
    again = make_task("again", "8 > 9; 7 > 6", "888 > 999")
    # as re-ARC adds to ARC's tasks
    more = OTHER._replace(train=make_task("", "5 > 5; 8 > 9", "").train, test=[])
    kept, dropped, merged = guard([OTHER, again, more, SECRET], [])
    assert ids_of(kept) == ["other", "secret"]
    assert not dropped
    assert merged == 2
    expected = make_task("other", "8 > 9; 88 > 99; 7 > 6; 5 > 5", "888 > 999")
    assert same_tasks(kept[:1], [expected])


def test_merging_makes_no_demonstration_of_an_unanswered_test():
    """Kaggle's test file lists tasks of its other files, without answers."""
    unanswered = OTHER._replace(test=make_task("", "", "777").test)
    kept, _, merged = guard([OTHER, unanswered], [])
    assert merged == 1
    assert all(answer is not None for _, answer in kept[0].train)


def test_real_leaks():
    training = read_file(arc_data("arc1-training.json"))
    evaluation = read_file(arc_data("arc1-evaluation.json"))
    arc2 = read_file(arc_data("arc2-training.json"))
    twins = {"40853293", "caa06a1f"}
    kept, dropped, _ = guard(training, evaluation)
    assert twins <= set(dropped)
    assert len(kept) + len(dropped) == 400
    # found by its pairs
    hidden = [task._replace(id="hidden") for task in evaluation]
    assert "40853293" in guard(training, hidden)[1]
    ids = set(ids_of(evaluation))
    assert sum(task.id in ids for task in arc2) == 376
    assert {task.id for task in arc2 if task.id in ids} <= set(guard(arc2, evaluation)[1])

    again = read_file(arc_data("re-arc.json"))
    assert len(again) == 400
    assert all(not task.test and len(task.train) == 16 for task in again)
    kept, dropped, merged = guard(training + again, [])
    assert len(kept) == merged == 400
    assert not dropped
    assert all(len(task.train) > 16 for task in kept)
    assert set(guard(again, training[:100])[1]) == set(ids_of(training[:100]))
    assert twins <= set(guard(again, evaluation)[1])


def test_val_may_not_share_a_pair_with_test_where_demonstrations_are_trained_on(tmp_path):
    sources = {
        "val": [make_task("a", "12 > 21; 3 > 3", "4 > 4"), make_task("b", "56 > 65", "7 > 7")],
        "test": [make_task("c", "89 > 98", "12 > 21")],
        "train": [make_task("d", "1 > 1", "2 > 2")],
    }
    paths = {}
    for name, tasks in sources.items():
        paths[name] = str(write_tasks(tmp_path / f"{name}.json", tasks))
    data = load_data(Config(**paths, demos=0, task_embed=True))
    assert ids_of(data.val) == ["b"]
    assert any("a" in line and "left out" in line for line in data.lines)


def test_every_pair_of_val_and_test_is_protected(tmp_path):
    val = write_tasks(tmp_path / "val.json", [SECRET])
    test = write_tasks(tmp_path / "test.json", [OTHER])
    data = load_data(Config(train="oned", val=str(val), test=str(test)))
    assert data.generated and not data.train
    assert data.protected == {"secret", "other"}
    assert data.banned == {pair_key(*p) for t in (SECRET, OTHER) for p in t.train + t.test}


# ------------------------------------------------------------------------------------------------
# Pairs that are kept back


def demonstrations(tasks):
    return [pair for task in tasks for pair in task.train]


def test_holdout_keeps_each_pair_back_once():
    pairs = demonstrations(flip_tasks(50))
    parts = [[held_out(pair, f"{i}/3") for pair in pairs] for i in range(3)]
    assert (np.sum(parts, axis=0) == 1).all()
    assert min(map(sum, parts)) > 30
    assert not any(held_out(pair, "") for pair in pairs)


def test_a_pair_turned_and_recolored_is_held_out_with_it():
    rng = np.random.default_rng(0)
    for a, b in demonstrations(flip_tasks(5)):
        for symmetry in range(SYMMETRIES):
            colors = rng.permutation(10).astype(np.uint8)
            seen = [colors[transform(g, symmetry)] for g in (a, b)]
            assert form_key(*seen) == form_key(a, b)
    pairs = demonstrations(flip_tasks(20))
    # the smallest are alike
    assert len({form_key(*pair) for pair in pairs}) > 0.7 * len(pairs)
