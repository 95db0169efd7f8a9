"""The 18 families of 1D-ARC as an endless generator of tasks, and their lift to two dimensions.

    from arc.oned import draw_tasks
    for task in draw_tasks(seed=0, count=36, widths=(7, 33)):
        print(task.id, *task.train[0])

A family is a function `draw_row(rng, n, colors)`: it draws a row of n cells and returns it twice,
before and after the family's rule. A row is a list of blocks (start, length, color), painted in
order on a background of 0. `colors` are four different colors that a whole task shares, such as the
color of its pivot. Everything else is drawn anew for every row. Rows as wide as the real ones have
the geometry of the real data; in narrower rows it is scaled down.

1D-ARC: Xu et al., "LLMs and the Abstraction and Reasoning Corpus" (2023),
github.com/khalil-research/1D-ARC
"""
import itertools
import random
from collections import defaultdict
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import numpy as np

from arc.task import Task
from config import UserError

WIDEST = 33                                    # of the real data, in cells; padded_fill alone lays
#                                                three parts of up to 31 side by side
ROWS = 2, 3                                    # fewest and most rows of a lifted pair
PAIRS = 4                                      # three demonstrations, one query, as the real data
TRIES = 1000                                   # far more than any possible request needs


# ------------------------------------------------------------------------------------------------
# Drawing


def draw_int(rng, low, high):
    """Returns an integer from low to high, both included.

    Faster than randint, and the same on every version of Python.
    """
    return low + int(rng.random() * (high - low + 1))


def draw_color(rng, *taken):
    """Returns a color from 1 to 9 that is not taken."""
    while True:
        color = draw_int(rng, 1, 9)
        if color not in taken:
            return color


def draw_block(rng, n, shortest, longest, free=1):
    """Returns (start, length) of a block with at least `free` free cells on its right."""
    length = draw_int(rng, shortest, longest)
    return draw_int(rng, 0, n - length - free), length


def draw_mover(rng, n):
    """Returns (start, length) of a block that can move three cells right, or to a pivot there."""
    free = min(4, n // 2)
    return draw_block(rng, n, 3, n - free, free)


def draw_blocks(rng, n, count, lengths, margin=3):
    """Returns (start, length) of up to `count` blocks from left to right, 1 to 3 cells apart.

    There are fewer where the next block does not fit. margin: the largest first start.
    """
    blocks = []
    start = draw_int(rng, 1, margin)
    while True:
        length = draw_int(rng, *lengths)
        if len(blocks) == count or start + length > n:
            return blocks
        blocks.append((start, length))
        start += length + draw_int(rng, 1, 3)


# ------------------------------------------------------------------------------------------------
# The families. The first line of each shows an example.


def move(rng, n, colors, step):
    """0333000 -> 0033300: a block moves right by one, two or three cells."""
    start, length = draw_mover(rng, n)
    color = draw_color(rng)
    return [(start, length, color)], [(start + step, length, color)]


def move_dp(rng, n, colors, gap=None):
    """0333009 -> 0003339: a block moves right until it touches the pivot."""
    start, length = draw_mover(rng, n)
    pivot = start + length + (gap or draw_int(rng, 2, n - start - length - 1))
    color = draw_color(rng, colors[0])
    stop = pivot, 1, colors[0]
    return [(start, length, color), stop], [(pivot - length, length, color), stop]


def scale_dp(rng, n, colors):
    """0333009 -> 0333339: a block grows right until it touches the pivot."""
    before, _ = move_dp(rng, n, colors)
    (start, _, color), stop = before
    return before, [(start, stop[0] - start, color), stop]


def fill(rng, n, colors):
    """0300300 -> 0333300: the cells between two ends take their color."""
    start, length = draw_block(rng, n, 3, n - min(4, n // 4))
    color = draw_color(rng)
    ends = [(start, 1, color), (start + length - 1, 1, color)]
    return ends, [(start, length, color)]


def padded_fill(rng, n, colors):
    """303003030030300 -> 333003330033300: fill three times side by side, not between the copies."""
    part = n // 3
    before, after = [], []
    for copies, blocks in zip((before, after), fill(rng, part, colors)):
        for shift in (0, part, 2 * part):
            copies += [(start + shift, length, color) for start, length, color in blocks]
    return before, after


def hollow(rng, n, colors):
    """0333300 -> 0300300: a block keeps its two ends: fill, the other way round."""
    return fill(rng, n, colors)[::-1]


def flip(rng, n, colors):
    """05333300 -> 03333500: a block with a head of another color is reversed where it stands."""
    start, length = draw_block(rng, n, n // 4 + 1, n // 2)
    head = draw_color(rng)
    body = draw_color(rng, head)
    before = [(start, 1, head), (start + 1, length - 1, body)]
    return before, [(start, length - 1, body), (start + length - 1, 1, head)]


def mirror(rng, n, colors):
    """0333090000 -> 0000090333: a block is reflected in the pivot, always 9 in the real data."""
    length = draw_int(rng, n // 4, (n - 3) // 3)
    gap = draw_int(rng, 1, min(5, (n - 4) // 2 - length))
    start = draw_int(rng, 0, n - 2 * (length + gap + 1))
    pivot = start + length + gap
    color = draw_color(rng, 9)
    stop = pivot, 1, 9
    return [(start, length, color), stop], [stop, (pivot + gap + 1, length, color)]


def draw_noise(rng, n, start, end):
    """Returns up to six single cells, two to four zeros apart, off the block start .. end - 1."""
    count = draw_int(rng, 1, 3) + draw_int(rng, 0, 3)
    cells = []
    cell = draw_int(rng, 2, 4)
    for _ in range(count):
        if start - 2 < cell < end + 2:
            cell = end + draw_int(rng, 2, 4)
        if cell > n - 2:
            break
        cells.append(cell)
        cell += 1 + draw_int(rng, 2, 4)
    return cells


def denoising_1c(rng, n, colors):
    """0033330030 -> 0033330000: single cells vanish, the long block stays."""
    noise = []
    while not noise:
        start, length = draw_block(rng, n, max(3, (n - 2) // 3), (n - 2) // 2)
        noise = draw_noise(rng, n, start, start + length)
    color = draw_color(rng)
    block = start, length, color
    return [block] + [(cell, 1, color) for cell in noise], [block]


def denoising_mc(rng, n, colors):
    """03353330 -> 03333330: cells of other colors inside a block take the block's color.

    They are a fifth of it at most.
    """
    start, length = draw_block(rng, n, n * 5 // 8, n * 13 // 16, min(3, n // 8))
    color = draw_color(rng)
    block = start, length, color
    noise = []
    for _ in range(draw_int(rng, 1, min(4, length // 5))):
        cell = draw_int(rng, start + 2, start + length - 3)
        noise.append((cell, 1, draw_color(rng, color)))
    return [block] + noise, [block]


def pcopy(rng, n, colors, mixed):
    """033300300 -> 033303330: single cells grow to three around themselves, each in its color."""
    blocks = []
    while len(blocks) < 2:
        blocks = draw_blocks(rng, n, draw_int(rng, 2, 4), (3, 3), margin=2)
    color = draw_color(rng)
    before, after = [], []
    for start, length in blocks:
        if mixed and after:
            color = draw_color(rng)
        before.append((start + 1, 1, color))
        after.append((start, length, color))
    before[0] = after[0]
    return before, after


def recolor(blocks, colors, number):
    """Returns blocks in the first of `colors`, and each in colors[number(length)]."""
    before = [(start, length, colors[0]) for start, length in blocks]
    return before, [(start, length, colors[number(length)]) for start, length in blocks]


def recolor_cmp(rng, n, colors):
    """0303330333 -> 0305550555: the longest block, or each of several, takes the second color."""
    blocks = []
    while len({length for _, length in blocks}) < 2:
        limit = draw_int(rng, min(4, n // 4 + 1), min(7, (n - 1) // 2))
        blocks = draw_blocks(rng, n, 7, (1, limit))
    longest = max(length for _, length in blocks)
    return recolor(blocks, colors, lambda length: int(length == longest))


def recolor_cnt(rng, n, colors):
    """0303303330 -> 0506607770: the length of a block, 1, 2 or 3, decides its color."""
    rows = [draw_blocks(rng, n, 5, (1, 3)) for _ in range(4)]
    # most real rows show all three lengths
    blocks = max(rows, key=lambda blocks: len({length for _, length in blocks}))
    return recolor(blocks, colors, lambda length: length)


def recolor_oe(rng, n, colors):
    """0303303330 -> 0506605550: whether a block's length is odd or even decides its color."""
    blocks = draw_blocks(rng, n, 5, (1, min(6, (n - 1) // 2)))
    return recolor(blocks, colors, lambda length: 1 + length % 2)


# ------------------------------------------------------------------------------------------------
# Cases that demonstrations show or not, given the blocks of each row before the rule. Without the
# case a simpler rule would explain the demonstrations as well.


def gaps_differ(rows):
    """Otherwise: always the same distance."""
    return len({right[0] - left[0] - left[1] for left, right in rows}) > 1


def colors_differ(rows):
    """Otherwise: copies take the color of the first block."""
    return any(len({color for _, _, color in blocks}) > 1 for blocks in rows)


def lengths_of(rows):
    return [[length for _, length, _ in blocks] for blocks in rows]


def traits_of(rows):
    """Returns {(length of a block, whether no block of its row is longer)}."""
    return {(length, length == max(lengths)) for lengths in lengths_of(rows) for length in lengths}


def longest_tie(rows):
    """Otherwise: only the first of the longest blocks."""
    return any(lengths.count(max(lengths)) > 1 for lengths in lengths_of(rows))


def longest_vary(rows):
    """Otherwise: a length is the longest in every row or in none, and the length itself decides."""
    traits = traits_of(rows)
    return len(traits) > len({length for length, _ in traits})


def parity_mixed(rows):
    """Otherwise: all longest blocks are odd and the others even, or the reverse."""
    return len({(length % 2, longest) for length, longest in traits_of(rows)}) > 2


def three_lengths(rows):
    return len({length for length, _ in traits_of(rows)}) == 3


def two_parities(rows):
    return len({length % 2 for length, _ in traits_of(rows)}) == 2


class Family(NamedTuple):
    draw_row: object                           # a function, see the top of this file
    narrowest: int                             # width with enough different rows for PAIRS pairs
    shown_if_tested: list = []                 # cases that demonstrations show if the query does
    always_shown: list = []                    # cases that demonstrations show in every task
    widest: int = WIDEST
    unit: int = 1                              # the width is a multiple of it
    always_up_to: int = 0                      # narrower requests still draw widths up to this, so
    #                                            that val and test do not use up all there is


FAMILIES = {
    "1d_move_1p": Family(partial(move, step=1), 7),
    "1d_move_2p": Family(partial(move, step=2), 7),
    "1d_move_3p": Family(partial(move, step=3), 7),
    "1d_move_2p_dp": Family(partial(move_dp, gap=2), 7),
    "1d_move_dp": Family(move_dp, 7, [gaps_differ]),
    "1d_scale_dp": Family(scale_dp, 7, [gaps_differ]),
    "1d_fill": Family(fill, 7),
    "1d_padded_fill": Family(padded_fill, 21, widest=93, unit=3, always_up_to=30),
    "1d_hollow": Family(hollow, 7),
    "1d_flip": Family(flip, 8),
    "1d_mirror": Family(mirror, 10, [gaps_differ]),
    "1d_denoising_1c": Family(denoising_1c, 10),
    "1d_denoising_mc": Family(denoising_mc, 8),
    "1d_pcopy_1c": Family(partial(pcopy, mixed=False), 9),
    "1d_pcopy_mc": Family(partial(pcopy, mixed=True), 9, [colors_differ]),
    "1d_recolor_cmp": Family(recolor_cmp, 7, [longest_tie, longest_vary, parity_mixed]),
    "1d_recolor_cnt": Family(recolor_cnt, 7, always_shown=[three_lengths]),
    "1d_recolor_oe": Family(recolor_oe, 7, [parity_mixed], [two_parities]),
}


# ------------------------------------------------------------------------------------------------
# Tasks


def paint(rows, n, upright):
    """Returns rows of blocks as a grid (rows, n) uint8; upright: as its transpose (n, rows)."""
    grid = np.zeros((len(rows), n), np.uint8)
    for cells, blocks in zip(grid, rows):
        for start, length, color in blocks:
            cells[start:start + length] = color
    return grid.T.copy() if upright else grid


def check_family(family):
    if family not in FAMILIES:
        nearest = get_close_matches(family, FAMILIES, len(FAMILIES), 0)
        raise UserError(f"no family {family!r} in 1D-ARC; known, nearest first: "
                        + ", ".join(nearest))


def shows_rule(family, demos, query):
    """Returns whether the inputs of demonstrations show all that the query's answer depends on."""
    for case in family.shown_if_tested:
        if case(demos + query) and not case(demos):
            return False
    return all(case(demos) for case in family.always_shown)


def draw_task(rng, family, widths=(7, 16), lift=False, rows=ROWS, name="0"):
    """Returns one task of a family: three demonstrations and a query of one width, all different.

    widths: range of the width, cells; both ends are moved into the range of the family. With `lift`
    a pair has several rows, a number in the range `rows`, each drawn by itself with the colors of
    the task. Half of these tasks are transposed, so that rows matter as columns do.
    """
    rule = FAMILIES[family]
    low = min(max(widths[0], rule.narrowest), rule.widest)
    n = draw_int(rng, low, widest([family], widths[1]))
    n -= n % rule.unit
    colors = sorted(range(1, 10), key=lambda _: rng.random())[:4]
    upright = lift and rng.random() < 0.5
    for _ in range(TRIES):
        inputs, pairs = [], []
        for _ in range(PAIRS):
            # drawn for each pair: as in ARC, only the query's own input tells the answer's height
            count = draw_int(rng, *rows) if lift else 1
            before, after = zip(*(rule.draw_row(rng, n, colors) for _ in range(count)))
            inputs.append(before)
            pairs.append((paint(before, n, upright), paint(after, n, upright)))
        different = len({grid.tobytes() for grid, _ in pairs}) == PAIRS
        if different and shows_rule(rule, sum(inputs[:-1], ()), inputs[-1]):
            task_id = f"{'2d' if lift else '1d'}{family[2:]}/{name}"
            return Task(task_id, pairs[:-1], pairs[-1:])
    raise UserError(f"{family}: no task of width {n} in {TRIES} drawings; allow wider rows")


def stream(seed, families=None, widths=(7, 16), lift=0.2):
    """Yields tasks to train on without end, the same for the same seed, a number or a string.

    Family and lift are left to chance.
    """
    rng = random.Random(seed)
    names = list(families or FAMILIES)
    for i in itertools.count():
        family = names[draw_int(rng, 0, len(names) - 1)]
        yield draw_task(rng, family, widths, rng.random() < lift, name=str(i))


def draw_tasks(seed, count, families=None, widths=(7, 16), lift=0.2, label=""):
    """Returns `count` tasks to judge by, the same for the same seed.

    Families take turns, and exactly the share `lift` of each is lifted. Ids are "1d_fill/0" or,
    with the label "val-", "1d_fill/val-0".
    """
    rng = random.Random(seed)
    names = list(families or FAMILIES)
    tasks = []
    for i in range(count):
        turn, number = divmod(i, len(names))
        lifted = round((turn + 1) * lift) > round(turn * lift)
        tasks.append(draw_task(rng, names[number], widths, lifted, name=f"{label}{i}"))
    return tasks


def widest(families, width):
    """Returns the longest side of a grid in tasks drawn with widths up to `width`, cells."""
    sides = []
    for name in families:
        rule = FAMILIES[name]
        sides.append(min(max(width, rule.narrowest, rule.always_up_to), rule.widest))
    return max(sides)


# ------------------------------------------------------------------------------------------------
# Task ids: "1d_fill/0", and "2d_fill/0" for a lifted task


def family_of(task_id):
    """Returns the family in an id: of "1d_fill/0", or of "1d_fill_0" as 1D-ARC's files are named.

    "all" where the id names none.
    """
    family, slash, _ = task_id.partition("/")
    if slash:
        return family
    stem, _, number = task_id.rpartition("_")
    return stem if dimension_of(stem) and number.isdecimal() else "all"


def dimension_of(family):
    """Returns "1d" or "2d", or "" where the name does not tell."""
    return family[:2] if family.startswith(("1d_", "2d_")) else ""


def by_family(task_ids, values):
    """Returns the means of values, one value a task id: {"families": {family: mean}}.

    Beside it "exact_1d" and "exact_2d", the means over all tasks whose family name tells so.
    """
    families, dimensions = defaultdict(list), defaultdict(list)
    for task_id, value in zip(task_ids, values):
        family = family_of(task_id)
        families[family].append(value)
        if dimension_of(family):
            dimensions[f"exact_{dimension_of(family)}"].append(value)

    def means(groups):
        return {name: float(np.mean(group)) for name, group in sorted(groups.items())}
    return {"families": means(families), **means(dimensions)}
