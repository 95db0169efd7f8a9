"""ARC itself: grids, tokens, coordinates, views, the canvas, sources, the leak guard."""
import gzip
import itertools
import json
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from arc.leaks import form_key, guard, held_out, pair_key
from arc.sources import (asked_elsewhere, canvas_for, canvas_lines, check_canvas, file_hashes,
                         load_data, load_tasks, split_sources)
from arc.task import Task, grids_of
from arc.tokens import (COLORS, END, OUT, ROW, START, VOCAB, advance, decode_grid, encode_grid,
                        encode_pair, trace)
from arc.views import (SYMMETRIES, fixed_colors, random_colors, transform, untransform, unview_grid,
                       view_grid, view_pairs)
from config import Config, UserError
from conftest import arc_data, flip_tasks, grid, make_task, random_grid, raw, write_tasks
from engine.batches import training_stream

RNG = np.random.default_rng(0)


def same_tasks(a, b):
    return [(task.id, raw(task)) for task in a] == [(task.id, raw(task)) for task in b]


def ids_of(tasks):
    return [task.id for task in tasks]


# ------------------------------------------------------------------------------------------------
# Grids and tokens


def test_json_to_tokens_and_back(tmp_path):
    tasks = flip_tasks(20, most=30)
    found = load_tasks(str(write_tasks(tmp_path / "tasks.json", tasks)))
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
    for task in load_tasks(str(arc_data("arc1-evaluation.json"))):
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
    index, side, row, column = trace(tokens).T.tolist()
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
        assert np.array_equal(trace(tokens)[:t + 1], trace(other)[:t + 1])


def test_coordinates_are_those_of_advancing_token_by_token():
    for _ in range(200):
        tokens = RNG.integers(0, VOCAB, RNG.integers(1, 60))
        cursor, expected = np.zeros(4, np.int16), []
        for token in tokens:
            expected.append(cursor)
            cursor = advance(cursor, token)
        assert np.array_equal(trace(tokens), expected)


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
    assert fixed_colors(task, with_demos=False) == {0, 3, 4}
    assert fixed_colors(task, with_demos=True) == {0}


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


def test_tasks_to_solve_that_are_wider_than_the_canvas_are_counted_once():
    wide = make_task("wide", f"{'1' * 9} > 1; {'2' * 8} > 2", "1")
    tasks = [wide, make_task("answer", "1 > 1", "1 > " + " ".join("1" * 8)), *flip_tasks(2)]
    assert canvas_lines(tasks, 16) == []
    (line,) = canvas_lines(tasks + tasks, 8)
    assert line.startswith("2 tasks have grids beyond the canvas of 8 (sides up to 7; ")
    assert line.endswith("queries with one count as failed: answer wide")


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
    for outputs in ([[[4]]], [[[4]], [[6]], [[8]]], []):
        solutions.write_text(json.dumps({"a": outputs}))
        message = f"task a: 2 test pairs.*holds {len(outputs)} outputs"
        with pytest.raises(UserError, match=message):
            load_tasks(str(path))
    for found in ({"b": [[[4]]]}, {}):
        solutions.write_text(json.dumps(found))
        with pytest.raises(UserError, match="no outputs of 1 tasks, a the first.*move it away"):
            load_tasks(str(path))
    for found in ({"a": [[[4]], None]}, {"a": None}, [1]):
        solutions.write_text(json.dumps(found))
        with pytest.raises(UserError, match="solutions.json: expected {task id: .output of each"):
            load_tasks(str(path))
    solutions.unlink()
    solutions.symlink_to(solutions)
    with pytest.raises(UserError, match="solutions.json: not readable as JSON .*links"):
        load_tasks(str(path))


@pytest.mark.parametrize("folder", [".", "/", ".."])
def test_a_folder_without_a_name_is_a_source_that_has_no_hash(folder):
    config = Config(out_dir="", train=folder, val="", test="oned")
    assert file_hashes(config) == {}


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
        cure = "after @ comes the number of.*1 or more"
        with pytest.raises(UserError, match=f"tasks.json@{number}.*{cure}"):
            load_tasks(f"{file}@{number}")
    for number in ("3@2", "", "3#4"):
        cure = "after # comes the number of its tasks.*1 or more"
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
    training = load_tasks(str(arc_data("arc1-training.json")))
    again = load_tasks(str(arc_data("re-arc.json")))
    lists = load_tasks(f"{write_lists(tmp_path / 'tasks', again)}@16")
    one, _, merged = guard(training + again, [])
    other, _, merged_too = guard(training + lists, [])
    assert merged == merged_too == 400
    assert same_tasks(one, other)


# ------------------------------------------------------------------------------------------------
# Names of sources: what exists is taken as a whole

FILES = ("a.json", "a+b.json", "x@2", "x@2@3", "x#9.json", "at@", "hash#", "a", "plus+/deep@1#2+3",
         "+", "b c.json")

# What is asked: (name, what comes after @, what comes after #) of each source.
SPLITS = {
    "a+b.json+oned": [("a+b.json", None, None), ("oned", None, None)],
    "a.json+a+b.json": [("a.json", None, None), ("a+b.json", None, None)],
    "oned#7+a+b.json#3": [("oned", None, "7"), ("a+b.json", None, "3")],
    "a+b.json@3#10+a@2": [("a+b.json", "3", "10"), ("a", "2", None)],
    "x@2": [("x@2", None, None)],
    "x@2@3": [("x@2@3", None, None)],
    "x@2@4": [("x@2", "4", None)],
    "x@3": [("x", "3", None)],
    "x#9.json": [("x#9.json", None, None)],
    "x#9.json@5+x#9": [("x#9.json", "5", None), ("x", None, "9")],
    "at@+hash#": [("at@", None, None), ("hash#", None, None)],
    "at@@1#2+hash##4": [("at@", "1", "2"), ("hash#", None, "4")],
    "plus+/deep@1#2+3+a": [("plus+/deep@1#2+3", None, None), ("a", None, None)],
    "plus+/deep@1#2+3@1+ a ": [("plus+/deep@1#2+3", "1", None), ("a", None, None)],
    "+": [("+", None, None)],
    "+@2++": [("+", "2", None), ("+", None, None)],
    " a.json @3 #4 + b c.json ": [("a.json", "3", "4"), ("b c.json", None, None)],
    "arc1:training+a+b.json": [("arc1:training", None, None), ("a+b.json", None, None)],
    # what does not exist is cut at every sign, but not at those of its folders
    "no+thing@2": [("no", None, None), ("thing", "2", None)],
    "no@where/x.json@2#3": [("no@where/x.json", "2", "3")],
    "a.json@1@2": [("a.json", "1@2", None)],
}


@pytest.mark.parametrize("text", SPLITS)
def test_what_exists_is_taken_as_a_whole(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    found = split_sources(text)
    assert [tuple(source[1:]) for source in found] == SPLITS[text]
    text, name, *marks = found[0]              # a full path changes nothing
    assert split_sources(f"{tmp_path}/{text}+oned")[0][1:] == (f"{tmp_path}/{name}", *marks)


def test_files_and_folders_of_such_names_are_read(tmp_path):
    tasks = flip_tasks(6)
    odd = write_tasks(tmp_path / "a+b.json", tasks[:2])
    folder = tmp_path / "set@2"
    folder.mkdir()
    write_tasks(folder / "x#3.json", tasks[2:4])
    numbered = tmp_path / "set#2"
    numbered.mkdir()
    write_tasks(numbered / "x.json", tasks[4:])
    assert same_tasks(load_tasks(f"{odd}+{folder}+{numbered}/x.json"), tasks)
    assert same_tasks(load_tasks(f"{folder}/x#3.json@1#1+{numbered}@2"),
                      first_demos(load_tasks(f"{folder}#1"), 1) + first_demos(tasks[4:], 2))
    train = Config(train=f"{odd}+oned#3", val="", test="")
    assert len(load_data(train).train) == 5
    for source in ("", "+", f"{odd}+", f"+{odd}", f"{odd}++{odd}", "@2", " # 3"):
        with pytest.raises(UserError, match="empty source"):
            load_tasks(source)
    with pytest.raises(UserError, match="train = .*: beside other sources, .* oned#2000"):
        load_data(Config(train=f"{odd}+oned", val="", test=""))


# ------------------------------------------------------------------------------------------------
# Directories as people have them


def write_kaggle(folder):
    """Writes a competition's folder: test repeats evaluation. Returns {part: its tasks}."""
    folder.mkdir(parents=True)
    parts = {part: flip_tasks(3, seed=seed)
             for seed, part in enumerate(("training", "evaluation"))}
    parts["training"] = [task._replace(id=f"t{task.id}") for task in parts["training"]]
    parts["test"] = [task._replace(test=[(a, None) for a, _ in task.test])
                     for task in parts["evaluation"]]
    for part, tasks in parts.items():
        open_tasks = [task._replace(test=[(a, None) for a, _ in task.test]) for task in tasks]
        write_tasks(folder / f"arc-agi_{part}_challenges.json", open_tasks)
        if part != "test":
            solutions = {task.id: [b.tolist() for _, b in task.test] for task in tasks}
            path = folder / f"arc-agi_{part}_solutions.json"
            path.write_text(json.dumps(solutions))
    zero = {"attempt_1": [[0, 0], [0, 0]], "attempt_2": [[0, 0], [0, 0]]}
    sample = {task.id: [zero] * len(task.test) for task in parts["test"]}
    (folder / "sample_submission.json").write_text(json.dumps(sample))
    return parts


def test_a_folder_of_kaggle_names_its_challenges(tmp_path):
    folder = tmp_path / "arc-prize"
    parts = write_kaggle(folder)
    names = [f"arc-agi_{part}_challenges.json" for part in sorted(parts)]
    message = f"arc-prize: holds 3 files of challenges: {' '.join(names)}; give one of them"
    with pytest.raises(UserError, match=message):
        load_tasks(str(folder))
    for part, name in zip(sorted(parts), names):
        assert same_tasks(load_tasks(f"{folder}/{name}"), parts[part])
    for name in names[1:]:
        (folder / name).unlink()
    lines = []
    assert same_tasks(load_tasks(str(folder), lines=lines), parts["evaluation"])
    # the solutions that were used are not among them
    skipped = "arc-agi_training_solutions.json sample_submission.json"
    assert lines == [f"{folder}: 2 files that hold no task are skipped: {skipped}"]
    for name in skipped.split():               # given by its name it is an error
        with pytest.raises(UserError, match=f"{name}, task"):
            load_tasks(f"{folder}/{name}")


def test_a_folder_one_level_up_names_what_it_skips(tmp_path):
    """re-ARC's folder, with the file that describes it; a suffix in capitals; what macOS adds."""
    tasks = flip_tasks(3, demos=5)
    write_lists(tmp_path / "re_arc" / "tasks", tasks)
    (tmp_path / "re_arc" / "tasks" / "flip1.json").rename(tmp_path / "re_arc" / "flip1.JSON")
    (tmp_path / "re_arc" / "._flip1.json").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "re_arc" / "folder.json").mkdir()
    metadata = {task.id: {"n_examples": 6, "generator_runtime": 0.5} for task in tasks}
    others = {"metadata": metadata, "splits": {"train": ["flip0"], "test": ["flip1"]},
              "list": [1, [2]], "number": 3, "none": None, "empty": {}, "rows": [],
              "package": {"scripts": {"train": "x", "test": "y"}}, "no pairs": {"train": []}}
    for name, content in others.items():
        (tmp_path / "re_arc" / f"{name}.json").write_text(json.dumps(content))
    config = Config(train=f"{tmp_path}/re_arc@4", val="", test="", task_embed=True)
    data = load_data(config)
    assert sorted(ids_of(data.train)) == ["flip0", "flip1", "flip2"]
    assert {len(task.train) for task in data.train} == {4}
    line = data.lines[0]
    assert "re_arc: 9 files that hold no task are skipped: empty.json list.json" in line
    assert line.endswith(" ...") and "\n" not in line
    (tmp_path / "re_arc" / "odd\n.json").write_text("3")
    lines = []
    load_tasks(f"{tmp_path}/re_arc", lines=lines)
    assert "\n" not in lines[0]


DAMAGED = {
    "cut short": ('{"train": [{"input": [[', "not readable as JSON"),
    "a bad grid": ({"train": [{"input": [[1]], "output": [[11]]}], "test": []}, "11 is no color"),
    "a bad list": ([{"input": [[1]], "output": [[1], [1, 2]]}], "ragged"),
    "no demonstrations' list": ({"test": [{"input": [[1]]}]}, "task test: no list of pairs"),
    "one of several": ({"b": raw(make_task("b", "1 > 1", "1")), "c": 3}, "task c: no list"),
    "a task without test": ({"b": {"train": [{"input": [[1]], "output": [[1]]}]}}, "task b"),
    "a key twice": ('{"train": [], "train": [{"input": [[1]]}], "test": []}', "'train' .*twice"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_task_in_a_directory_is_no_file_to_skip(tmp_path, case):
    content, message = DAMAGED[case]
    write_tasks(tmp_path / "a.json", flip_tasks(2))
    content = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(UserError, match=f"b.json.*{message}"):
        load_tasks(str(tmp_path))


def test_a_directory_without_tasks_is_refused(tmp_path):
    (tmp_path / "sample_submission.json").write_text("{}")
    with pytest.raises(UserError, match="a directory without a .json file that holds tasks"):
        load_tasks(str(tmp_path))


# ------------------------------------------------------------------------------------------------
# Files that cannot be read: one line that names them

GOOD = json.dumps({"a": raw(make_task("a", "1 > 2", "3"))})

BAD_TEXTS = {
    "nested lists": ("[" * 100000, "not readable as JSON"),
    "nested dicts": ('{"a":' * 100000, "not readable as JSON"),
    "a nested cell": (GOOD.replace("3", "[" * 900 + "]" * 900), r"\[\[\[.* is no color"),
    "a deep cell": (GOOD.replace("3", "[" * 5000 + "]" * 5000), "not readable|is no color"),
    "a huge number": (GOOD.replace("3", "3" * 5000), "4300 digits"),
    "a large number": (GOOD.replace("3", "3" * 4000), "333... is no color"),
    "a long text": (GOOD.replace("3", json.dumps("x" * 10**6)), "xxx'? is no color"),
    "not a number": (GOOD.replace("3", "NaN"), "nan is no color"),
    "a task twice": ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice in one object"),
    "input twice": (GOOD.replace('"output"', '"input"'), "the key 'input' stands twice"),
    "utf-16": (GOOD.encode("utf-16"), "utf-8"),
    "null bytes": (b"\0" * 100, "not readable as JSON"),
    "half a gzip": (gzip.compress(GOOD.encode())[:-9], "not readable as JSON"),
    "no gzip": (b"\x1f\x8b" + b"x" * 20, "not readable as JSON"),
    "damaged gzip": (gzip.compress(GOOD.encode())[:12] + b"\xff" * 40, "not readable as JSON"),
}


@pytest.mark.parametrize("role", ["tasks", "solutions"])
@pytest.mark.parametrize("case", BAD_TEXTS)
def test_what_json_cannot_read_is_one_line(tmp_path, case, role):
    content, message = BAD_TEXTS[case]
    path = tmp_path / f"my_{'challenges' if role == 'tasks' else 'solutions'}.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if role == "solutions":
        (tmp_path / "my_challenges.json").write_text(GOOD)
        message = "" if "color" in message else message
    with pytest.raises(UserError, match=f"{path.name}.*{message}") as error:
        load_tasks(str(tmp_path / "my_challenges.json"))
    assert str(error.value).isprintable() and len(str(error.value)) < 400 + len(str(path))


def test_a_gzipped_file_is_read(tmp_path):
    path = tmp_path / "tasks.json.gz"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert ids_of(load_tasks(str(path))) == ["a"]


def make_loop(path):
    path.symlink_to(path)


NO_FILES = {
    "a pipe": (os.mkfifo, "no regular file"),          # must not wait for a writer
    "a link to itself": (make_loop, "links"),
    "a broken link": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
}


@pytest.mark.parametrize("where", ["by name", "in a directory", "as solutions"])
@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_file_is_one_line(tmp_path, case, where):
    make, message = NO_FILES[case]
    source = path = tmp_path / "my_challenges.json"
    if where == "as solutions":
        path.write_text(GOOD)
        path = tmp_path / "my_solutions.json"
    make(path)
    if where == "in a directory":
        write_tasks(tmp_path / "a.json", flip_tasks(1))
        source = tmp_path
    with pytest.raises(UserError, match=f"{path.name}: .*{message}") as error:
        load_tasks(str(source))
    assert str(error.value).isprintable()


@pytest.mark.parametrize("place", ["file/a.json", "folder/inside/a.json"])
def test_what_may_not_be_read_is_one_line(place):
    """A file, and a folder that may not be listed; root is somebody else meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, place)
        path.parent.mkdir(parents=True)
        path.write_text(GOOD)
        closed = path if place == "file/a.json" else path.parent
        closed.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            for source, name in ((path, path.name), (Path(folder), closed.name)):
                with pytest.raises(UserError, match=f"{name}.*Permission denied") as error:
                    load_tasks(str(source))
                assert str(error.value).isprintable()
        finally:
            os.seteuid(user)
            closed.chmod(0o755)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000 + "x", "a\0b.json", "half\ud800.json",
                                  "line\nbreak.json", "/dev/null", "/", "/dev/stdin/x"])
def test_a_name_that_cannot_be_is_one_line(name):
    with pytest.raises(UserError) as error:
        load_tasks(name)
    assert str(error.value).isprintable()


def test_a_folder_where_a_solutions_file_should_be_is_refused(tmp_path):
    (tmp_path / "my_challenges.json").write_text(GOOD)
    (tmp_path / "my_solutions.json").mkdir()
    with pytest.raises(UserError, match="my_solutions.json: .*a folder"):
        load_tasks(str(tmp_path / "my_challenges.json"))


ODD_IDS = {"escape": "a\x1b[2J", "line break": "a\nb", "tab": "a\tb", "null": "a\0",
           "half a character": "a\ud800", "turned text": "a\u202eb", "bell": "\x07"}


@pytest.mark.parametrize("case", ODD_IDS)
def test_an_id_that_cannot_be_printed_is_refused(tmp_path, case):
    """In a file, and as a file's name where a file can have it."""
    name, task = ODD_IDS[case], make_task("", "1 > 2", "3")
    places = {tmp_path / "tasks.json": {"good": raw(task), name: raw(task)}}
    if case not in ("null", "half a character"):
        places[tmp_path / "folder" / f"{name}.json"] = raw(task)
    message = re.escape(f"task id {name!a} holds a character that cannot be printed; rename it")
    for path, content in places.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        for source in (path, path.parent):
            with pytest.raises(UserError, match=message) as error:
                load_tasks(str(source))
            assert str(error.value).isprintable()
        path.unlink()


def test_ids_in_any_script_are_kept(tmp_path):
    names = "h\u00e9", "\u732b", "a b"
    tasks = [task._replace(id=name) for task, name in zip(flip_tasks(3), names)]
    assert ids_of(load_tasks(str(write_tasks(tmp_path / "t.json", tasks)))) == ids_of(tasks)


def loads_or_refuses(data, *names):
    """Loads a file of these bytes under each name, alone and in its directory."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).write_bytes(data)
        for source in (*(f"{folder}/{name}" for name in names), folder):
            try:
                tasks = load_tasks(source, lines=[])
            except UserError as error:
                assert str(error).isprintable()
            else:
                assert all(task.id.isprintable() and grids_of(task) is not None for task in tasks)


def test_any_file_gives_tasks_or_one_line():
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st
    cells = st.integers(-1, 11) | st.floats() | st.text() | st.none() | st.booleans()
    rows = st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=1, max_size=3)
    pairs = st.lists(st.fixed_dictionaries({"input": rows}, optional={"output": rows | cells}))
    task = st.fixed_dictionaries({}, optional={"train": pairs | cells, "test": pairs | cells})
    keys = st.text() | st.sampled_from(["train", "test"])
    anything = st.recursive(cells | rows | task,
                            lambda inner: st.lists(inner) | st.dictionaries(keys, inner))
    content = st.binary() | anything.map(lambda value: json.dumps(value).encode())

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(content)
    def check(data):
        loads_or_refuses(data, "a_challenges.json", "a_solutions.json")
    check()


def test_any_name_of_a_source_gives_tasks_or_one_line(tmp_path, monkeypatch):
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "a", flip_tasks(2))

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.text() | st.text(alphabet="a+@#1/ .\0\n"))
    def check(name):
        try:
            assert load_tasks(name)
        except UserError as error:
            assert str(error)
    check()


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


def test_other_pairs_of_a_leaks_id_go_with_the_task_that_they_were_merged_into():
    first = make_task("first", "8 > 9; 88 > 99", "888 > 999")
    again = make_task("abc", "8 > 9; 5 > 6", "")
    leak = SECRET._replace(id="abc")
    kept, dropped, merged = guard([first, again, leak, INNOCENT["another output, a pair turned "
                                                               "round"]], [SECRET])
    assert ids_of(kept) == ["x"]
    assert dropped == ["abc", "first"] and merged == 1


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
    training = load_tasks(str(arc_data("arc1-training.json")))
    evaluation = load_tasks(str(arc_data("arc1-evaluation.json")))
    arc2 = load_tasks(str(arc_data("arc2-training.json")))
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

    again = load_tasks(str(arc_data("re-arc.json")))
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


def test_a_test_pair_is_never_trained_on_as_another_tasks_demonstration(tmp_path):
    """In the weights demonstrations of val and test are trained on. Planted in both ways."""
    one = make_task("one", "12 > 21; 3 > 3", "4 > 4")
    two = make_task("two", "4 > 4; 56 > 65", "7 > 8")          # shows what `one` is asked
    other = make_task("other", "12 > 21; 9 > 9", "5 > 6")      # shares a demonstration with `one`
    paths = {}
    for name, tasks in dict(train=[make_task("t", "1 > 2", "2 > 1")], val=[one, other],
                            test=[two]).items():
        paths[name] = str(write_tasks(tmp_path / f"{name}.json", tasks))
    config = Config(**{**paths, "test": f"{paths['test']}+{paths['val']}", "val": ""}, demos=0,
                    task_embed=True, max_steps=30, batch_tokens=1024)
    data = load_data(config)
    assert "but for 1 that are test pairs of others of them" in "\n".join(data.lines)
    asked = {pair_key(*pair) for task in (one, two, other) for pair in task.test}
    assert data.untrained == {("two", pair_key(*one.test[0]))}
    stream = training_stream(config, data, {}, "cpu")
    trained = {tuple(stream.device_pairs.tokens[start:start + length].tolist())
               for start, length in zip(stream.device_pairs.start[:, 0],
                                        stream.device_pairs.length[:, 0])}
    for task in (one, two, other):
        for pair in task.train + task.test:
            shown = tuple(encode_pair(pair)[0].tolist()) in trained
            assert shown == (pair_key(*pair) not in asked)
    # two tasks of val that share a pair stay two: merged, one's test pair would be trained on
    config = Config(**paths, demos=0, task_embed=True)
    assert [task.id for task in load_data(config).val] == ["other"]
    paths["test"] = paths["train"]
    config = Config(**{**paths, "train": "oned#20"}, demos=0, task_embed=True)
    assert [task.id for task in load_data(config).val] == ["one", "other"]


def test_an_unanswered_test_is_not_trained_on_as_another_tasks_demonstration():
    """Its input is known: a demonstration of it would tell what is asked."""
    one, two = make_task("one", "1 > 1", "12"), make_task("two", "12 > 21; 3 > 3", "4 > 4")
    assert one.test[0][1] is None
    assert asked_elsewhere([one, two]) == {("two", pair_key(*two.train[0]))}
    assert asked_elsewhere([one]) == asked_elsewhere([two]) == frozenset()


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
