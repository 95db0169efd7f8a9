"""The 18 families of 1D-ARC as a generator of tasks without end, and their lift to two dimensions.

    from data.oned import draw_tasks
    for task in draw_tasks(seed=0, count=36, widths=(7, 33)):
        print(task.id, *task.train[0])

Each family is one function `picture(rng, n, keys)`, which draws a row of n cells and returns it twice, before and after
its rule: two lists of blocks (start, length, colour), painted in order on a background of 0. `keys` are four different
colours that a whole task shares: pivots, recolouring maps. Everything else is drawn anew for every row.
In rows as wide as the real ones the geometry is that of the real data; in narrower rows it is scaled down.

1D-ARC: Xu et al., "LLMs and the Abstraction and Reasoning Corpus" (2023), github.com/khalil-research/1D-ARC
"""

import itertools
import random
from collections import namedtuple
from difflib import SequenceMatcher
from functools import partial

import numpy as np

from config import UserError
from data.arc import Task

WIDEST = 33   # the widest row of the real data, except that padded_fill lays three parts of up to 31 side by side
ROWS = 2, 3   # rows of a lifted pair, at least and at most
PAIRS = 4     # three to learn from and one to solve, as in the real data
TRIES = 1000  # drawings before giving up; far more than any possible request needs


# ---------------------------------------------------------------------------------------------------------------------
# Drawing

def draw(rng, lo, hi):
    """A whole number, lo and hi included: like randint, but faster and the same on every version of Python."""
    return lo + int(rng.random() * (hi - lo + 1))


def colour(rng, *taken):
    """A colour 1..9 that is not taken."""
    choice = draw(rng, 1, 9)
    while choice in taken:
        choice = draw(rng, 1, 9)
    return choice


def place(rng, n, shortest, longest, right=1):
    """Start and length of a block with at least `right` free cells on its right."""
    length = draw(rng, shortest, longest)
    return draw(rng, 0, n - length - right), length


def place_mover(rng, n):
    """Start and length of a block that can move right by three, or up to a pivot in the last cell."""
    room = min(4, n // 2)
    return place(rng, n, 3, n - room, room)


def place_span(rng, n):
    """Start and length of what fill fills and hollow empties."""
    return place(rng, n, 3, n - min(4, n // 4))


def place_row(rng, n, most, lengths, margin=3):
    """Starts and lengths of blocks from the left on, 1 to 3 cells apart, until there are `most` or one does not fit."""
    blocks, start = [], draw(rng, 1, margin)
    length = draw(rng, *lengths)
    while len(blocks) < most and start + length <= n:
        blocks.append((start, length))
        start += length + draw(rng, 1, 3)
        length = draw(rng, *lengths)
    return blocks


# ---------------------------------------------------------------------------------------------------------------------
# The families. The first line of each shows an example.

def move(rng, n, keys, step):
    """0333000 -> 0033300: a block moves right by one, two or three cells."""
    start, length = place_mover(rng, n)
    hue = colour(rng)
    return [(start, length, hue)], [(start + step, length, hue)]


def move_dp(rng, n, keys, gap=None):
    """0333009 -> 0003339: a block moves right until it touches the pivot."""
    start, length = place_mover(rng, n)
    pivot = start + length + (gap or draw(rng, 2, n - start - length - 1))
    hue, stop = colour(rng, keys[0]), (pivot, 1, keys[0])
    return [(start, length, hue), stop], [(pivot - length, length, hue), stop]


def scale_dp(rng, n, keys):
    """0333009 -> 0333339: a block grows right until it touches the pivot."""
    (block, stop), _ = move_dp(rng, n, keys)
    start, _, hue = block
    return [block, stop], [(start, stop[0] - start, hue), stop]


def fill(rng, n, keys):
    """0300300 -> 0333300: the cells between two ends take their colour."""
    start, length = place_span(rng, n)
    hue = colour(rng)
    return [(start, 1, hue), (start + length - 1, 1, hue)], [(start, length, hue)]


def padded_fill(rng, n, keys):
    """303003030030300 -> 333003330033300: fill three times side by side, but not between the copies."""
    part = n // 3
    return tuple([(start + shift, length, hue) for shift in (0, part, 2 * part) for start, length, hue in blocks]
                 for blocks in fill(rng, part, keys))


def hollow(rng, n, keys):
    """0333300 -> 0300300: a block keeps its two ends; fill the other way round."""
    ends, span = fill(rng, n, keys)
    return span, ends


def flip(rng, n, keys):
    """05333300 -> 03333500: a block with a head of another colour is turned round in its place."""
    start, length = place(rng, n, n // 4 + 1, n // 2)
    head = colour(rng)
    body = colour(rng, head)
    return ([(start, 1, head), (start + 1, length - 1, body)],
            [(start, length - 1, body), (start + length - 1, 1, head)])


def mirror(rng, n, keys):
    """0333090000 -> 0000090333: a block is reflected in the pivot, which is 9 in every task of the real data."""
    length = draw(rng, n // 4, (n - 3) // 3)
    gap = draw(rng, 1, min(5, (n - 4) // 2 - length))
    start = draw(rng, 0, n - 2 * (length + gap + 1))
    hue, pivot = colour(rng, 9), start + length + gap
    return [(start, length, hue), (pivot, 1, 9)], [(pivot, 1, 9), (pivot + gap + 1, length, hue)]


def scatter(rng, n, start, end):
    """At most six single cells, two to four zeros apart, that do not touch the block from start to end."""
    most, spots, spot = draw(rng, 1, 3) + draw(rng, 0, 3), [], draw(rng, 2, 4)
    while len(spots) < most:
        if start - 2 < spot < end + 2:
            spot = end + draw(rng, 2, 4)
        if spot > n - 2:
            break
        spots.append(spot)
        spot += 1 + draw(rng, 2, 4)
    return spots


def denoising_1c(rng, n, keys):
    """0033330030 -> 0033330000: single cells vanish, the long block stays."""
    noise = []
    while not noise:
        start, length = place(rng, n, max(3, (n - 2) // 3), (n - 2) // 2)
        noise = scatter(rng, n, start, start + length)
    hue = colour(rng)
    block = [(start, length, hue)]
    return block + [(spot, 1, hue) for spot in noise], block


def denoising_mc(rng, n, keys):
    """03353330 -> 03333330: cells of other colours inside a block, a fifth of it at most, take the block's colour."""
    start, length = place(rng, n, n * 5 // 8, n * 13 // 16, min(3, n // 8))
    base = colour(rng)
    noise = {draw(rng, start + 2, start + length - 3): colour(rng, base)
             for _ in range(draw(rng, 1, min(4, length // 5)))}
    block = [(start, length, base)]
    return block + [(spot, 1, hue) for spot, hue in noise.items()], block


def pcopy(rng, n, keys, mixed):
    """033300300 -> 033303330: single cells grow to three, each in its own colour; they are centred on it."""
    blocks = []
    while len(blocks) < 2:
        blocks = place_row(rng, n, draw(rng, 2, 4), (3, 3), margin=2)
    hue = colour(rng)
    first, *copies = [(start, 3, colour(rng) if mixed and i else hue) for i, (start, _) in enumerate(blocks)]
    return [first] + [(start + 1, 1, hue) for start, _, hue in copies], [first] + copies


def recolor_cmp(rng, n, keys):
    """0303330333 -> 0305550555: the longest block, or all of them on a tie, takes the task's second colour."""
    blocks = []
    while len({length for _, length in blocks}) < 2:
        longest = draw(rng, min(4, n // 4 + 1), min(7, (n - 1) // 2))
        blocks = place_row(rng, n, 7, (1, longest))
    longest = max(length for _, length in blocks)
    return recolor(blocks, keys[0], lambda length: keys[1 if length == longest else 0])


def recolor_cnt(rng, n, keys):
    """0303303330 -> 0506607770: the length of a block, 1, 2 or 3, decides its colour."""
    rows = [place_row(rng, n, 5, (1, 3)) for _ in range(4)]
    blocks = max(rows, key=lambda blocks: len({length for _, length in blocks}))  # most real rows show all three
    return recolor(blocks, keys[0], lambda length: keys[length])


def recolor_oe(rng, n, keys):
    """0303303330 -> 0506605550: the parity of a block's length decides its colour."""
    blocks = place_row(rng, n, 5, (1, min(6, (n - 1) // 2)))
    return recolor(blocks, keys[0], lambda length: keys[1 + length % 2])


def recolor(blocks, old, new):
    return ([(start, length, old) for start, length in blocks],
            [(start, length, new(length)) for start, length in blocks])


# ---------------------------------------------------------------------------------------------------------------------
# Cases that rows, given as their blocks before the rule, show or not. Where none does, a simpler rule would do as well.

def gaps_differ(rows):
    """Otherwise: always the same distance."""
    return len({right[0] - left[0] - left[1] for left, right in rows}) > 1


def colours_differ(rows):
    """Otherwise: copies take the colour of the first block."""
    return any(len({hue for _, _, hue in blocks}) > 1 for blocks in rows)


def lengths_of(rows):
    return [[length for _, length, _ in blocks] for blocks in rows]


def longest_tie(rows):
    """Otherwise: only the first of the longest blocks."""
    return any(lengths.count(max(lengths)) > 1 for lengths in lengths_of(rows))


def longest_vary(rows):
    """A length is the longest in one row and not in another. Otherwise: the length itself decides."""
    traits = {(length, length == max(lengths)) for lengths in lengths_of(rows) for length in lengths}
    return len(traits) > len(dict(traits))


def parity_mixed(rows):
    """Otherwise: being the longest and the parity go together, and either could decide."""
    return len({(length % 2, length == max(lengths)) for lengths in lengths_of(rows) for length in lengths}) > 2


def three_lengths(rows):
    return len(set().union(*lengths_of(rows))) == 3


def two_parities(rows):
    return len({length % 2 for lengths in lengths_of(rows) for length in lengths}) == 2


# narrowest: the width from which on there are enough different pictures for the four pairs of a task; reach: the width
# up to which rows are always drawn, so that a family of few pictures has some left when those of val and test are taken.
# shown: cases that the train pairs of every task show. asked: cases that they show if the test pair turns on them.
Family = namedtuple("Family", "picture narrowest shown asked widest unit reach", defaults=((), (), WIDEST, 1, 0))

FAMILIES = {
    "1d_move_1p": Family(partial(move, step=1), 7),
    "1d_move_2p": Family(partial(move, step=2), 7),
    "1d_move_3p": Family(partial(move, step=3), 7),
    "1d_move_2p_dp": Family(partial(move_dp, gap=2), 7),
    "1d_move_dp": Family(move_dp, 7, asked=[gaps_differ]),
    "1d_scale_dp": Family(scale_dp, 7, asked=[gaps_differ]),
    "1d_fill": Family(fill, 7),
    "1d_padded_fill": Family(padded_fill, 21, widest=93, unit=3, reach=30),
    "1d_hollow": Family(hollow, 7),
    "1d_flip": Family(flip, 8),
    "1d_mirror": Family(mirror, 10, asked=[gaps_differ]),
    "1d_denoising_1c": Family(denoising_1c, 10),
    "1d_denoising_mc": Family(denoising_mc, 8),
    "1d_pcopy_1c": Family(partial(pcopy, mixed=False), 9),
    "1d_pcopy_mc": Family(partial(pcopy, mixed=True), 9, asked=[colours_differ]),
    "1d_recolor_cmp": Family(recolor_cmp, 7, asked=[longest_tie, longest_vary, parity_mixed]),
    "1d_recolor_cnt": Family(recolor_cnt, 7, shown=[three_lengths]),
    "1d_recolor_oe": Family(recolor_oe, 7, shown=[two_parities], asked=[parity_mixed]),
}


# ---------------------------------------------------------------------------------------------------------------------
# Tasks

def stack(n, rows, turned):
    """Rows of blocks as a grid (H, W) of uint8, one under the other, or side by side as columns if turned."""
    cells = bytearray(len(rows) * n)
    for i, blocks in enumerate(rows):
        for start, length, hue in blocks:
            start += i * n
            cells[start:start + length] = bytes((hue,)) * length
    grid = np.frombuffer(cells, np.uint8).reshape(len(rows), n)
    return grid.T.copy() if turned else grid


def check_family(family):
    if family not in FAMILIES:
        known = sorted(FAMILIES, key=lambda name: -SequenceMatcher(None, name, str(family)).ratio())
        raise UserError(f"no family {family!r} in 1D-ARC; known, nearest first: {', '.join(known)}")


def draw_task(rng, family, widths=(7, 16), lift=False, rows=ROWS, name="0"):
    """One task of a family, three train pairs and a test pair of one width, all different.

    `widths` is the range in cells from which the width is drawn, both ends moved into the range of the family; in
    padded_fill it is then rounded down to a multiple of three. With `lift` a pair has several rows, each a drawing of
    its own under the colours of the task, their number in the range `rows`; in half of these tasks the rows
    stand upright, so that y matters as x does.
    """
    check_family(family)
    if widths[0] > widths[1]:
        raise UserError(f"widths={widths}: the first must not be larger than the second")
    picture, narrowest, shown, asked, widest, unit, reach = FAMILIES[family]
    n = draw(rng, min(max(widths[0], narrowest), widest), min(max(widths[1], narrowest, reach), widest))
    n -= n % unit
    keys = sorted(range(1, 10), key=lambda _: rng.random())[:4]
    turned = lift and rng.random() < 0.5
    for _ in range(TRIES):
        # The number of rows is drawn for each pair: as in ARC, the height of an answer is told by its own input alone.
        drawn = [tuple(zip(*(picture(rng, n, keys) for _ in range(draw(rng, *rows) if lift else 1))))
                 for _ in range(PAIRS)]
        train, test = sum((before for before, _ in drawn[:-1]), ()), drawn[-1][0]
        told = all(case(train) for case in shown) and all(case(train) or not case(train + test) for case in asked)
        pairs = [(stack(n, before, turned), stack(n, after, turned)) for before, after in drawn]
        if told and len({grid.tobytes() for grid, _ in pairs}) == PAIRS:
            return Task(f"{'2d' if lift else '1d'}_{family[3:]}/{name}", pairs[:-1], pairs[-1:])
    raise UserError(f"{family}: no task of width {n} in {TRIES} drawings; allow wider rows")


def stream(seed, families=None, widths=(7, 16), lift=0.2, balanced=False):
    """Tasks without end, the same for the same seed, a number or a string such as "0/17".

    `balanced` takes the families in turn and lifts exactly the share `lift` of each, for validation and test; without
    it both are left to chance, for training.
    """
    rng, names = random.Random(seed), list(families or FAMILIES)
    for i in itertools.count():
        turn, family = i // len(names), names[i % len(names)]
        lifted = round((turn + 1) * lift) > round(turn * lift)
        if not balanced:
            family, lifted = names[draw(rng, 0, len(names) - 1)], rng.random() < lift
        yield draw_task(rng, family, widths, lifted, name=str(i))


def draw_tasks(seed, count, families=None, widths=(7, 16), lift=0.2, balanced=True):
    """The first `count` tasks of such a stream, as a list."""
    return list(itertools.islice(stream(seed, families, widths, lift, balanced), count))


def widest(families, width):
    """The longest side of a grid in tasks drawn with widths up to `width`, in cells."""
    return max(min(max(width, FAMILIES[name].narrowest, FAMILIES[name].reach), FAMILIES[name].widest) for name in families)
