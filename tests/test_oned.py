"""data/oned.py against solvers that share nothing with it: one for each family, on rows written as strings.

    python -m pytest tests/test_oned.py                      generated and hand-written rows
    ARC_DATA=folder python -m pytest tests/test_oned.py      the same and folder/1d-arc.json, the real data

A solver gets the demonstrations as pairs of rows, takes the colours of the task from them, and returns the output row.
A lifted task is solved row by row, after a transpose where its grids are higher than wide.
"""
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

from config import UserError
from data.oned import FAMILIES, draw_task, draw_tasks

BLOCK = "[1-9]+"


# ---------------------------------------------------------------------------------------------------------------------
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
    """Learns the colour of each trait of a block; a trait that no demonstration shows becomes '?' and is wrong."""
    def traits(row):
        blocks = list(re.finditer(BLOCK, row))
        longest = max(len(block[0]) for block in blocks)
        return [(block, trait(len(block[0]), longest)) for block in blocks]
    learned = {seen: after[block.start()] for before, after in demos for block, seen in traits(before)}
    colours = iter([learned.get(seen, "?") for _, seen in traits(row)])
    return re.sub(BLOCK, lambda m: next(colours) * len(m[0]), row)


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
    grid = np.asarray(grid).tolist()
    return ["".join(map(str, row)) for row in (zip(*grid) if len(grid) > len(grid[0]) else grid)]


def split(pairs):
    return [rows for before, after in pairs for rows in zip(rows_of(before), rows_of(after), strict=True)]


def explains(solver, demos, pairs):
    return all(solver(demos, before) == after for before, after in pairs)


def right(solver, train, test):
    demos = split(train)
    return explains(solver, demos, demos + split(test))


def family_of(task):
    return "1d_" + task.id.split("/")[0][3:]


# ---------------------------------------------------------------------------------------------------------------------
# Rules

# Every pair is solved with the other pairs of its family as demonstrations.
WRITTEN = """
1d_move_1p      3300000 0330000             0044440000 0004444000       00000555000 00000055500
1d_move_2p      3330000 0033300             0044440000 0000444400
1d_move_3p      3330000 0003330             0044440000 0000044440
1d_move_2p_dp   3330080 0033380             0444400800 0004444800
1d_move_dp      3330007 0003337             0444400700 0004444700       5550000007 0000005557
1d_scale_dp     3330007 3333337             0444400700 0444444700       5550000007 5555555557
1d_fill         0300030 0333330             6060000000 6660000000
1d_padded_fill  303003030030300 333003330033300                         020020020020020020 022220022220022220
1d_hollow       0333330 0300030             6660000000 6060000000
1d_flip         0244440000 0444420000       0000711100 0000111700       9110000000 1190000000
1d_mirror       0333090000000 0000090333000                             1111009000000 0000009001111
1d_denoising_1c 00200222220020 00000222220000                           7777700070007000 7777700000000000
1d_denoising_mc 00555455550 00555555550     2227328222222000 2222222222222000
1d_pcopy_1c     0333003000 0333033300       0011100010010000 0011100111111000
1d_pcopy_mc     0333007000 0333077700       0011100020040000 0011100222444000
1d_recolor_cmp  0303330333 0308880888       033330330300 088880330300   0330003030 0880003030
1d_recolor_cnt  0101101110 0203304440       0111011001 0444033002       0011100000010110 0044400000020330
1d_recolor_oe   0101101110 0603306660       0111101011111 0333306066666 0011111100010110 0033333300060330
"""
WRITTEN = {family: list(zip(rows[::2], rows[1::2])) for family, *rows in map(str.split, WRITTEN.split("\n")[1:-1])}

SETTINGS = {
    "narrow": dict(seed="narrow", count=18 * 40, lift=0),
    "wide": dict(seed="wide", count=18 * 40, widths=(7, 93), lift=0),
    "narrowest": dict(seed="narrowest", count=18 * 20, widths=(1, 1), lift=0.5),
    "lifted": dict(seed="lifted", count=18 * 20, widths=(7, 20), lift=1),
    "copies": dict(seed="copies", count=3000, families=["1d_pcopy_mc"], widths=(9, 9), lift=0),  # equal ones are rare
}


def read_real():
    if "ARC_DATA" not in os.environ:
        pytest.skip("set ARC_DATA to the folder that holds 1d-arc.json")
    path = Path(os.environ["ARC_DATA"]) / "1d-arc.json"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    for name, task in json.loads(path.read_text()).items():
        train, test = ([(pair["input"], pair["output"]) for pair in task[part]] for part in ("train", "test"))
        yield name.split("/")[0], train, test


def test_every_family_has_a_solver_and_written_pairs():
    assert list(SOLVERS) == list(FAMILIES) == list(WRITTEN) and len(FAMILIES) == 18


@pytest.mark.parametrize("family", FAMILIES)
def test_solver_on_written_pairs(family):
    pairs = WRITTEN[family]
    for i, (before, after) in enumerate(pairs):
        assert SOLVERS[family](pairs[:i] + pairs[i + 1:], before) == after


def test_solver_on_real_tasks():
    wrong = [family for family, train, test in read_real() if not right(SOLVERS[family], train, test)]
    assert not wrong


@pytest.mark.parametrize("setting", SETTINGS)
def test_solver_on_generated_tasks(setting):
    for task in draw_tasks(**SETTINGS[setting]):
        assert right(SOLVERS[family_of(task)], task.train, task.test), task


@pytest.mark.parametrize("solver, family", [
    ("1d_move_1p", "1d_move_2p"), ("1d_move_3p", "1d_move_2p"), ("1d_scale_dp", "1d_move_dp"), ("1d_fill", "1d_hollow"),
    ("1d_denoising_1c", "1d_pcopy_1c"), ("1d_pcopy_1c", "1d_pcopy_mc"), ("1d_recolor_oe", "1d_recolor_cnt")])
def test_wrong_solver_fails(solver, family):
    tasks = draw_tasks("wrong", 50, families=[family])
    assert not any(right(SOLVERS[solver], task.train, task.test) for task in tasks)


def first_longest(demos, row):
    """The rule that recolor_cmp is as long as nobody has shown a tie."""
    answer = SOLVERS["1d_recolor_cmp"](demos, row)
    changed = [m for m in re.finditer(BLOCK, row) if answer[m.start()] != m[0][0]]
    return row[:changed[0].start()] + answer[changed[0].start():changed[0].end()] + row[changed[0].end():]


def rivals(family):
    """The rules that a task of this family could be mistaken for. One that has no answer ('?') is no rival."""
    return [solver for name, solver in [*SOLVERS.items(), ("1d_recolor_first", first_longest)]
            if ("recolor" in name) == ("recolor" in family)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_demonstrations_leave_nothing_open(setting):
    """Any other rule that explains all demonstrations of a task gives the same answer to its test pair."""
    for task in draw_tasks(**SETTINGS[setting]):
        demos, query = split(task.train), split(task.test)
        for solver in rivals(family_of(task)):
            if explains(solver, demos, demos):
                for before, after in query:
                    answer = solver(demos, before)
                    assert answer == after or "?" in answer, task
        if family_of(task) in ("1d_move_dp", "1d_scale_dp", "1d_mirror"):
            shown, asked = ({len(re.search("[1-9](0+)[1-9]", row)[1]) for row, _ in rows} for rows in (demos, query))
            assert len(shown) > 1 or asked == shown, task


@pytest.mark.parametrize("family, traits", [("1d_recolor_cnt", {1, 2, 3}), ("1d_recolor_oe", {0, 1})])
def test_recolor_demonstrations_show_every_case(family, traits):
    for task in draw_tasks("cases", 60, families=[family], lift=0.5):
        lengths = {len(block) for row, _ in split(task.train) for block in re.findall(BLOCK, row)}
        assert traits == (lengths if family == "1d_recolor_cnt" else {length % 2 for length in lengths})


# ---------------------------------------------------------------------------------------------------------------------
# Tasks

def flat(tasks):
    return [(task.id, [(grid.tolist(), other.tolist()) for grid, other in task.train + task.test]) for task in tasks]


@pytest.mark.parametrize("setting", SETTINGS)
def test_grids(setting):
    for task in draw_tasks(**SETTINGS[setting]):
        inputs = [before for before, _ in task.train + task.test]
        assert len(task.train) == 3 and len(task.test) == 1
        assert len({(grid.shape, grid.tobytes()) for grid in inputs}) == 4            # a task repeats no input
        assert len({max(grid.shape) for grid in inputs}) == 1                         # one width for all its pairs
        assert {min(grid.shape) for grid in inputs} <= ({1} if task.id.startswith("1d") else {2, 3, 4})
        for before, after in task.train + task.test:
            assert before.dtype == after.dtype == np.uint8 and before.flags.c_contiguous and before.flags.writeable
            assert before.shape == after.shape and before.max() <= 9 and (before != after).any()


@pytest.mark.parametrize("seed", [0, "0/17"])
def test_seed_decides(seed):
    first = flat(draw_tasks(seed, 40, balanced=False))
    random.random()
    assert first == flat(draw_tasks(seed, 40, balanced=False)) != flat(draw_tasks("other", 40, balanced=False))


def test_seed_gives_the_same_tasks_everywhere():
    """On any machine and Python. A change of the generator on purpose changes this number and the meaning of scores."""
    assert zlib.crc32(json.dumps(flat(draw_tasks("golden", 54, widths=(7, 33)))).encode()) == 469188504


def test_balanced_takes_families_in_turn_and_lifts_their_share():
    tasks = draw_tasks(0, 18 * 10 + 5, lift=0.3)
    assert [family_of(task) for task in tasks] == (list(FAMILIES) * 11)[:len(tasks)]
    lifted = Counter(family_of(task) for task in tasks[:180] if task.id.startswith("2d_"))
    assert lifted == {family: 3 for family in FAMILIES}
    assert len({task.id for task in tasks}) == len(tasks) and tasks[17].id == "1d_recolor_oe/17"


def test_unbalanced_draws_families_and_lift_at_random():
    tasks = draw_tasks(0, 900, lift=0.3, balanced=False)
    counts = Counter(map(family_of, tasks))
    assert set(counts) == set(FAMILIES) and 20 < min(counts.values()) and max(counts.values()) < 80
    assert 200 < sum(task.id.startswith("2d_") for task in tasks) < 340


def test_half_of_the_lifted_tasks_stand_upright():
    tasks = draw_tasks(0, 400, lift=1)
    upright = [[grid.shape[0] > grid.shape[1] for grid, _ in task.train + task.test] for task in tasks]
    assert all(len(set(pairs)) == 1 for pairs in upright) and 150 < sum(pairs[0] for pairs in upright) < 250


def test_rows_and_name():
    task = draw_task(random.Random(0), "1d_fill", lift=True, rows=(6, 6), name="seven")
    assert task.id == "2d_fill/seven" and all(min(grid.shape) == 6 for grid, _ in task.train + task.test)


@pytest.mark.parametrize("family", FAMILIES)
def test_widths(family):
    def seen(*widths):
        return {task.train[0][0].shape[1] for task in draw_tasks(0, 30, [family], widths, lift=0)}
    narrowest, widest = min(seen(1, 1)), max(seen(999, 999))
    padded = family == "1d_padded_fill"
    assert (narrowest == 21 if padded else 7 <= narrowest <= 10) and widest == (93 if padded else 33)
    assert seen(20, 22) <= ({21, 24, 27, 30} if padded else {20, 21, 22})
    assert min(seen(7, 16)) >= narrowest and max(seen(7, 16)) <= (30 if padded else 16)


def test_bad_requests_name_value_and_cure():
    with pytest.raises(UserError, match="'1d_mirorr'.* first: 1d_mirror, .*1d_recolor_oe"):
        draw_tasks(0, 1, families=["1d_mirorr"])
    with pytest.raises(UserError, match=r"widths=\(9, 8\)"):
        draw_tasks(0, 1, widths=(9, 8))
    with pytest.raises(UserError, match="1d_short.*wider"):
        FAMILIES["1d_short"] = FAMILIES["1d_move_1p"]._replace(shown=[lambda rows: False])
        try:
            draw_task(random.Random(0), "1d_short")
        finally:
            del FAMILIES["1d_short"]


# ---------------------------------------------------------------------------------------------------------------------
# Support: what the real data does, the generator does too

def measures(row):
    blocks = [(m.start(), m.end()) for m in re.finditer(r"([1-9])\1*", row)]
    lengths = [end - start for start, end in blocks]
    gaps = [right[0] - left[1] for left, right in zip(blocks, blocks[1:])]
    return dict(blocks=len(blocks), left=blocks[0][0], right=len(row) - blocks[-1][1], longest=max(lengths),
                shortest=min(lengths), widest_gap=max(gaps, default=0), colours=len(set(row) - {"0"}))


def test_real_tasks_lie_within_the_wide_generator():
    real = {}
    for family, train, test in read_real():
        real.setdefault(family, []).extend(train + test)
    assert set(real) == set(FAMILIES)
    for family, pairs in real.items():
        for n in {len(before[0]) for before, _ in pairs}:
            assert n in {draw_task(random.Random(i), family, widths=(n, n)).test[0][0].shape[1] for i in range(30)}
        drawn = draw_tasks("support", 400, [family], widths=(min(len(before[0]) for before, _ in pairs), 93), lift=0)
        drawn = [measures(row) for task in drawn for row, _ in split(task.train + task.test)]
        given = [measures(row) for row, _ in split(pairs)]
        for name in given[0]:
            least, most = (extreme(row[name] for row in drawn) for extreme in (min, max))
            inside = np.mean([least <= row[name] <= most for row in given])
            assert inside > 0.99, (family, name, least, most)   # the rest: tails too rare for a sample of this size
