"""arc/oned.py against solvers that share nothing with it: one a family, on rows written as strings.

    python -m pytest tests/test_oned.py                      generated and hand-written rows
    ARC_DATA=folder python -m pytest tests/test_oned.py      and the real data, folder/1d-arc.json

A solver takes the demonstrations, pairs of rows, learns the colors of the task from them, and
returns the output row. A lifted task is solved row by row, after a transpose where its grids are
higher than wide.
"""
import itertools
import json
import os
import random
import re
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from arc import oned
from arc.oned import FAMILIES, draw_task, draw_tasks
from config import UserError

BLOCK = "[1-9]+"


# ------------------------------------------------------------------------------------------------
# Solvers


def move(demos, row, step):
    return "0" * step + row[:-step]


def to_pivot(demos, row, gap, new):
    pivot = demos[0][0].rstrip("0")[-1]
    return re.sub(f"({BLOCK})({gap})({pivot})", new, row) if pivot in row else "?"


def fill(demos, row):
    return re.sub(r"([1-9])0+\1", lambda m: m[1] * len(m[0]), row)


def hollow(demos, row):
    return re.sub(BLOCK, lambda m: m[0][0] + "0" * (len(m[0]) - 2) + m[0][-1], row)


def flip(demos, row):
    return re.sub(BLOCK, lambda m: m[0][::-1], row)


def mirror(demos, row):
    pivot = demos[0][0].rstrip("0")[-1]
    left = row[:row.find(pivot)]
    return ("0" * len(left) + pivot + left[::-1]).ljust(len(row), "0")[:len(row)]


def denoising_1c(demos, row):
    return re.sub("(?<![1-9])[1-9](?![1-9])", "0", row)


def denoising_mc(demos, row):
    base, _ = Counter(row.replace("0", "")).most_common(1)[0]
    return re.sub("[1-9]", base, row)


def pcopy_1c(demos, row):
    return re.sub("0[1-9]0", 3 * row.lstrip("0")[0], row)


def pcopy_mc(demos, row):
    return re.sub("0([1-9])0", r"\1\1\1", row)


def recolor(demos, row, trait):
    """Learns the color of each trait of a block.

    A trait that no demonstration shows becomes '?' and is wrong.
    """
    def traits(row):
        blocks = list(re.finditer(BLOCK, row))
        longest = max(len(block[0]) for block in blocks)
        return [(block, trait(len(block[0]), longest)) for block in blocks]
    learned = {}
    for before, after in demos:
        for block, seen in traits(before):
            learned[seen] = after[block.start()]
    colors = iter([learned.get(seen, "?") for _, seen in traits(row)])
    return re.sub(BLOCK, lambda m: next(colors) * len(m[0]), row)


SOLVERS = {
    "1d_move_1p": partial(move, step=1),
    "1d_move_2p": partial(move, step=2),
    "1d_move_3p": partial(move, step=3),
    "1d_move_2p_dp": partial(to_pivot, gap="00", new=r"\2\1\3"),
    "1d_move_dp": partial(to_pivot, gap="0+", new=r"\2\1\3"),
    "1d_scale_dp": partial(to_pivot, gap="0+", new=lambda m: m[1] + m[1][0] * len(m[2]) + m[3]),
    "1d_fill": fill,
    "1d_padded_fill": fill,
    "1d_hollow": hollow,
    "1d_flip": flip,
    "1d_mirror": mirror,
    "1d_denoising_1c": denoising_1c,
    "1d_denoising_mc": denoising_mc,
    "1d_pcopy_1c": pcopy_1c,
    "1d_pcopy_mc": pcopy_mc,
    "1d_recolor_cmp": partial(recolor, trait=lambda length, longest: length == longest),
    "1d_recolor_cnt": partial(recolor, trait=lambda length, longest: length),
    "1d_recolor_oe": partial(recolor, trait=lambda length, longest: length % 2),
}


def rows_of(grid):
    """A grid, nested lists or an array, as strings along its longer side."""
    grid = np.asarray(grid)
    if len(grid) > len(grid[0]):
        grid = grid.T
    return ["".join(map(str, row)) for row in grid]


def split(pairs):
    rows = []
    for before, after in pairs:
        rows += zip(rows_of(before), rows_of(after), strict=True)
    return rows


def explains(solver, demos, pairs):
    return all(solver(demos, before) == after for before, after in pairs)


def solves(solver, train, test):
    demos = split(train)
    return explains(solver, demos, demos + split(test))


def flat_family(task):
    """The family of a task, lifted or not, by its name in FAMILIES."""
    return "1d_" + task.id.split("/")[0][3:]


# ------------------------------------------------------------------------------------------------
# Rules


# Every pair is solved with the other pairs of its family as demonstrations.
WRITTEN = """
1d_move_1p      3300000 0330000         0044440000 0004444000  00000555000 00000055500
1d_move_2p      3330000 0033300         0044440000 0000444400
1d_move_3p      3330000 0003330         0044440000 0000044440
1d_move_2p_dp   3330080 0033380         0444400800 0004444800
1d_move_dp      3330007 0003337         0444400700 0004444700  5550000007 0000005557
1d_scale_dp     3330007 3333337         0444400700 0444444700  5550000007 5555555557
1d_fill         0300030 0333330         6060000000 6660000000
1d_padded_fill  303003030030300 333003330033300  020020020020020020 022220022220022220
1d_hollow       0333330 0300030         6660000000 6060000000
1d_flip         0244440000 0444420000   0000711100 0000111700  9110000000 1190000000
1d_mirror       0333090000000 0000090333000  1111009000000 0000009001111
1d_denoising_1c 00200222220020 00000222220000  7777700070007000 7777700000000000
1d_denoising_mc 00555455550 00555555550  2227328222222000 2222222222222000
1d_pcopy_1c     0333003000 0333033300   0011100010010000 0011100111111000
1d_pcopy_mc     0333007000 0333077700   0011100020040000 0011100222444000
1d_recolor_cmp  0303330333 0308880888   033330330300 088880330300  0330003030 0880003030
1d_recolor_cnt  0101101110 0203304440   0111011001 0444033002  0011100000010110 0044400000020330
1d_recolor_oe   0101101110 0603306660   0111101011111 0333306066666  001111110001011 003333330006033
"""
WRITTEN = {family: list(zip(rows[::2], rows[1::2]))
           for family, *rows in map(str.split, WRITTEN.split("\n")[1:-1])}

SETTINGS = {
    "narrow": dict(seed="narrow", count=18 * 40, lift=0),
    "wide": dict(seed="wide", count=18 * 40, widths=(7, 93), lift=0),
    "narrowest": dict(seed="narrowest", count=18 * 20, widths=(1, 1), lift=0.5),
    "lifted": dict(seed="lifted", count=18 * 20, widths=(7, 20), lift=1),
    # pcopy_mc whose copies have equal colors is rare
    "copies": dict(seed="copies", count=3000, families=["1d_pcopy_mc"], widths=(9, 9), lift=0),
}


def read_real():
    if "ARC_DATA" not in os.environ:
        pytest.skip("set ARC_DATA to the folder that holds 1d-arc.json")
    path = Path(os.environ["ARC_DATA"]) / "1d-arc.json"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    for name, task in json.loads(path.read_text()).items():
        train = [(pair["input"], pair["output"]) for pair in task["train"]]
        test = [(pair["input"], pair["output"]) for pair in task["test"]]
        yield name.split("/")[0], train, test


def test_every_family_has_a_solver_and_written_pairs():
    assert list(SOLVERS) == list(FAMILIES) == list(WRITTEN)
    assert len(FAMILIES) == 18


@pytest.mark.parametrize("family", FAMILIES)
def test_a_solver_solves_the_written_pairs(family):
    pairs = WRITTEN[family]
    for i, (before, after) in enumerate(pairs):
        assert SOLVERS[family](pairs[:i] + pairs[i + 1:], before) == after


def test_the_solvers_solve_the_real_tasks():
    wrong = []
    for family, train, test in read_real():
        if not solves(SOLVERS[family], train, test):
            wrong.append(family)
    assert not wrong


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_solvers_solve_generated_tasks(setting):
    for task in draw_tasks(**SETTINGS[setting]):
        assert solves(SOLVERS[flat_family(task)], task.train, task.test), task


@pytest.mark.parametrize("solver, family", [
    ("1d_move_1p", "1d_move_2p"),
    ("1d_move_3p", "1d_move_2p"),
    ("1d_scale_dp", "1d_move_dp"),
    ("1d_fill", "1d_hollow"),
    ("1d_denoising_1c", "1d_pcopy_1c"),
    ("1d_pcopy_1c", "1d_pcopy_mc"),
    ("1d_recolor_oe", "1d_recolor_cnt"),
])
def test_a_wrong_solver_fails(solver, family):
    tasks = draw_tasks("wrong", 50, families=[family])
    assert not any(solves(SOLVERS[solver], task.train, task.test) for task in tasks)


def first_longest(demos, row):
    """The rule that recolor_cmp could be as well, until a demonstration shows a tie."""
    answer = SOLVERS["1d_recolor_cmp"](demos, row)
    changed = [m for m in re.finditer(BLOCK, row) if answer[m.start()] != m[0][0]]
    start, end = changed[0].span()
    return row[:start] + answer[start:end] + row[end:]


def rivals(family):
    """The rules that a task of this family could be mistaken for."""
    solvers = {**SOLVERS, "1d_recolor_first": first_longest}
    alike = "recolor" in family
    return [solver for name, solver in solvers.items() if ("recolor" in name) == alike]


@pytest.mark.parametrize("setting", SETTINGS)
def test_demonstrations_leave_nothing_open(setting):
    """Any other rule that explains all demonstrations of a task gives the same answer to its query.

    A rule that has no answer ('?') does not count.
    """
    for task in draw_tasks(**SETTINGS[setting]):
        demos = split(task.train)
        query = split(task.test)
        family = flat_family(task)
        for solver in rivals(family):
            if explains(solver, demos, demos):
                for before, after in query:
                    answer = solver(demos, before)
                    assert answer == after or "?" in answer, task
        if family in ("1d_move_dp", "1d_scale_dp", "1d_mirror"):
            shown = gap_lengths(demos)
            assert len(shown) > 1 or gap_lengths(query) == shown, task


def gap_lengths(pairs):
    return {len(re.search("[1-9](0+)[1-9]", before)[1]) for before, _ in pairs}


@pytest.mark.parametrize("family, trait, all_traits", [
    ("1d_recolor_cnt", lambda length: length, {1, 2, 3}),
    ("1d_recolor_oe", lambda length: length % 2, {0, 1}),
])
def test_recolor_demonstrations_show_every_case(family, trait, all_traits):
    for task in draw_tasks("cases", 60, families=[family], lift=0.5):
        shown = set()
        for row, _ in split(task.train):
            shown.update(trait(len(block)) for block in re.findall(BLOCK, row))
        assert shown == all_traits


# ------------------------------------------------------------------------------------------------
# Tasks


def as_lists(tasks):
    """Tasks as JSON could hold them."""
    found = []
    for task in tasks:
        pairs = [(grid.tolist(), answer.tolist()) for grid, answer in task.train + task.test]
        found.append((task.id, pairs))
    return found


def draw_to_train(seed, count, **settings):
    return list(itertools.islice(oned.stream(seed, **settings), count))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_task_has_three_demonstrations_and_a_query_that_all_differ(setting):
    for task in draw_tasks(**SETTINGS[setting]):
        pairs = task.train + task.test
        inputs = [before for before, _ in pairs]
        assert len(task.train) == 3 and len(task.test) == 1
        assert len({(grid.shape, grid.tobytes()) for grid in inputs}) == 4
        assert len({max(grid.shape) for grid in inputs}) == 1         # one width for all its pairs
        heights = {1} if task.id.startswith("1d") else {2, 3, 4}
        assert {min(grid.shape) for grid in inputs} <= heights
        for before, after in pairs:
            assert before.dtype == after.dtype == np.uint8
            assert before.flags.c_contiguous and before.flags.writeable
            assert before.shape == after.shape
            assert before.max() <= 9 and (before != after).any()


@pytest.mark.parametrize("seed", [0, "0/17"])
def test_the_seed_decides(seed):
    first = as_lists(draw_to_train(seed, 40))
    random.random()
    assert first == as_lists(draw_to_train(seed, 40))
    assert first != as_lists(draw_to_train("other", 40))


def test_a_seed_gives_the_same_tasks_everywhere():
    """On any machine and Python.

    A change of the generator on purpose changes this number and the meaning of scores.
    """
    tasks = as_lists(draw_tasks("golden", 54, widths=(7, 33)))
    assert zlib.crc32(json.dumps(tasks).encode()) == 469188504


def test_tasks_to_judge_by_take_families_in_turn_and_lift_their_share():
    tasks = draw_tasks(0, 18 * 10 + 5, lift=0.3)
    assert [flat_family(task) for task in tasks] == (list(FAMILIES) * 11)[:len(tasks)]
    lifted = Counter(flat_family(task) for task in tasks[:180] if task.id.startswith("2d_"))
    assert lifted == {family: 3 for family in FAMILIES}
    assert len({task.id for task in tasks}) == len(tasks)
    assert tasks[17].id == "1d_recolor_oe/17"


def test_tasks_to_train_on_draw_families_and_lift_at_random():
    tasks = draw_to_train(0, 900, lift=0.3)
    counts = Counter(map(flat_family, tasks))
    assert set(counts) == set(FAMILIES)
    assert 20 < min(counts.values()) and max(counts.values()) < 80
    assert 200 < sum(task.id.startswith("2d_") for task in tasks) < 340


def test_half_of_the_lifted_tasks_stand_upright():
    tasks = draw_tasks(0, 400, lift=1)
    upright = 0
    for task in tasks:
        stands = {grid.shape[0] > grid.shape[1] for grid, _ in task.train + task.test}
        assert len(stands) == 1
        upright += stands.pop()
    assert 150 < upright < 250


def test_a_task_has_the_rows_and_the_name_that_were_asked_for():
    task = draw_task(random.Random(0), "1d_fill", lift=True, rows=(6, 6), name="seven")
    assert task.id == "2d_fill/seven"
    assert all(min(grid.shape) == 6 for grid, _ in task.train + task.test)


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_are_moved_into_the_range_of_the_family(family):
    def seen(*widths):
        tasks = draw_tasks(0, 30, [family], widths, lift=0)
        return {task.train[0][0].shape[1] for task in tasks}
    narrowest = min(seen(1, 1))
    widest = max(seen(999, 999))
    usual = seen(7, 16)
    assert min(usual) >= narrowest
    assert max(usual) <= oned.widest([family], 16)
    if family == "1d_padded_fill":
        assert (narrowest, widest) == (21, 93)
        assert seen(20, 22) <= {21, 24, 27, 30}
        assert oned.widest([family], 16) == 30
    else:
        assert 7 <= narrowest <= 10 and widest == 33
        assert seen(20, 22) <= {20, 21, 22}
        assert oned.widest([family], 16) == 16


def test_bad_requests_name_value_and_cure():
    with pytest.raises(UserError, match="1d_short.*wider"):
        FAMILIES["1d_short"] = FAMILIES["1d_move_1p"]._replace(always_shown=[lambda rows: False])
        try:
            draw_task(random.Random(0), "1d_short")
        finally:
            del FAMILIES["1d_short"]


# ------------------------------------------------------------------------------------------------
# Task ids


def test_a_task_id_tells_family_and_dimension():
    assert oned.family_of("1d_fill/val-0") == "1d_fill"
    assert oned.family_of("2d_fill/0/1") == "2d_fill"
    assert oned.family_of("1d_move_2p_dp_31") == "1d_move_2p_dp"
    for name in ("007bbfb7", "1d_fill", "1d_move_2p", "my_task_3", "1d_fill_x", "_1", ""):
        assert oned.family_of(name) == "all"
    assert oned.dimension_of("1d_fill") == "1d"
    assert oned.dimension_of("2d_fill") == "2d"
    assert oned.dimension_of("all") == oned.dimension_of("1dfill") == ""


def test_a_label_tells_tasks_of_the_same_number_apart():
    settings = dict(count=4, families=["1d_fill", "1d_move_1p"], lift=0.5)
    tasks = draw_tasks("val", **settings, label="val-")
    ids = ["1d_fill/val-0", "1d_move_1p/val-1", "2d_fill/val-2", "2d_move_1p/val-3"]
    assert [task.id for task in tasks] == ids
    unlabelled = draw_tasks("val", **settings)
    assert as_lists(unlabelled) == as_lists([task._replace(id=task.id.replace("val-", ""))
                                             for task in tasks])


def test_means_by_family_and_dimension_count_every_task_once():
    ids = ["1d_move/0", "1d_fill/1", "1d_fill/2", "2d_fill/3", "007bbfb7"]
    means = oned.by_family(ids, [1, 0, 1, 1, 0])
    families = {"1d_fill": 0.5, "1d_move": 1.0, "2d_fill": 1.0, "all": 0.0}
    assert means == {"families": families, "exact_1d": pytest.approx(2 / 3), "exact_2d": 1.0}
    assert list(means["families"]) == list(families)
    assert oned.by_family(["007bbfb7", "3c9b0459"], [True, False]) == {"families": {"all": 0.5}}


# ------------------------------------------------------------------------------------------------
# Support: what the real data does, the generator does too


def measures(row):
    spans = [m.span() for m in re.finditer(r"([1-9])\1*", row)]
    lengths = [end - start for start, end in spans]
    gaps = [right[0] - left[1] for left, right in zip(spans, spans[1:])]
    return {
        "blocks": len(spans),
        "left": spans[0][0],
        "right": len(row) - spans[-1][1],
        "longest": max(lengths),
        "shortest": min(lengths),
        "widest_gap": max(gaps, default=0),
        "colors": len(set(row) - {"0"}),
    }


def test_real_tasks_lie_within_the_wide_generator():
    real = {}
    for family, train, test in read_real():
        real.setdefault(family, []).extend(train + test)
    assert set(real) == set(FAMILIES)
    for family, pairs in real.items():
        widths = {len(before[0]) for before, _ in pairs}
        for n in widths:
            drawn = [draw_task(random.Random(i), family, widths=(n, n)) for i in range(30)]
            assert n in {task.test[0][0].shape[1] for task in drawn}
        drawn = []
        for task in draw_tasks("support", 400, [family], widths=(min(widths), 93), lift=0):
            drawn += [measures(row) for row, _ in split(task.train + task.test)]
        given = [measures(row) for row, _ in split(pairs)]
        for name in given[0]:
            least = min(row[name] for row in drawn)
            most = max(row[name] for row in drawn)
            inside = np.mean([least <= row[name] <= most for row in given])
            # the rest: tails too rare for a sample of this size
            assert inside > 0.99, (family, name, least, most)
